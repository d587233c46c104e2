"""The sums of a ragged batch against float64, and the report against scikit-learn."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import IMAGE_INFO, context, image_batch, tiny_images
from ml_collections import ConfigDict

from scaling import parallel
from scaling.configs import ConfigError
from scaling.tasks.base import build_task
from scaling.tasks.classification import summarize_classes


@pytest.fixture(scope="module")
def ragged():
    """(task, variables, batch, -log p in float64): logits linear in the pixels, uneven weights."""
    model = ConfigDict({"name": "mlp", "hidden_dims": ()})
    config = tiny_images(**{"model": model, "task.label_smoothing": 0.1})
    task = build_task(config, IMAGE_INFO, "cpu")
    variables = parallel.unbox(jax.jit(task.init)(jax.random.key(0)))
    batch = image_batch(0, rows=12)
    batch["weights"][[1, 4]] = 0.5
    batch["weights"][7:] = 0.0  # as an evaluation's last batch is filled up
    head = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"]["head"])
    logits_BK = batch["images"].reshape(12, -1) / 255.0 @ head["kernel"] + head["bias"]
    surprise_BK = np.log(np.exp(logits_BK).sum(-1, keepdims=True)) - logits_BK
    # Some are right, also among those that do not count.
    batch["labels"][::3] = surprise_BK.argmin(-1)[::3]
    return task, variables, batch, surprise_BK


def test_the_objective_of_training_weighs_every_image(ragged):
    task, variables, batch, surprise_BK = ragged
    loss = jax.jit(lambda v, b: task.loss(v, b, context(True), {}))(variables, batch)
    goal_BK = 0.9 * np.eye(10)[batch["labels"]] + 0.1 / 10
    assert float(loss.weight) == 6.0
    assert float(loss.sum) == pytest.approx(batch["weights"] @ (goal_BK * surprise_BK).sum(-1))


def test_the_sums_of_an_evaluation_weigh_every_image(ragged):
    task, variables, batch, surprise_BK = ragged
    metrics = jax.jit(lambda v, b: task.loss(v, b, context(False), {}))(variables, batch).metrics
    weights, labels, guess = batch["weights"], batch["labels"], surprise_BK.argmin(-1)
    nll = surprise_BK[np.arange(12), labels]
    confusion_KK = np.zeros((10, 10))
    np.add.at(confusion_KK, (labels, guess), weights)
    assert 0 < weights @ (guess == labels) < (guess == labels).sum()
    probability_BK = np.exp(-surprise_BK)
    confidence, order = probability_BK.max(-1), np.argsort(surprise_BK, axis=-1)
    calibration = np.zeros((2, 15))
    for weight, p, right in zip(weights, confidence, guess == labels, strict=True):
        (place,) = [i for i in range(15) if i / 15 < p <= (i + 1) / 15]
        calibration[:, place] += weight * p, weight * right
    expected = {
        "loss": weights @ nll,
        "accuracy": weights @ (guess == labels),
        "top5_accuracy": weights @ (order[:, :5] == labels[:, None]).any(-1),
        "calibration": calibration,
        "confusion": confusion_KK,
        "moments": [weights**2 @ nll**2, weights**2 @ nll, (weights**2).sum()],
    }
    assert set(metrics) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name][0], value, rtol=1e-5, err_msg=name)
        assert float(metrics[name][1]) == weights.sum() == 6.0
    assert float(jnp.sum(metrics["confusion"][0])) == 6.0


def test_report_equals_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 500)
    guess = np.where(rng.random(500) < 0.7, truth, rng.integers(0, 3, 500))
    guess[guess == 3] = 0  # class 3 is never predicted
    confusion = metrics.confusion_matrix(truth, guess, labels=range(5))  # class 4 never occurs
    totals = {
        "loss": (np.float64(100.0), np.float64(500.0)),
        "accuracy": (np.float64((truth == guess).sum()), np.float64(500.0)),
        "confusion": (confusion, np.float64(500.0)),
        "top5_accuracy": (np.float64(490.0), np.float64(500.0)),
        "calibration": (np.array([[60.0, 300.0], [90.0, 280.0]]), np.float64(500.0)),
        "moments": (np.array([30.0, 100.0, 500.0]), np.float64(500.0)),
    }
    result = summarize_classes(totals, ("a", "b", "c", "d", "e"))
    expected = metrics.classification_report(
        truth,
        guess,
        labels=range(5),
        target_names=["a", "b", "c", "d", "e"],
        output_dict=True,
        zero_division=0,
    )
    for name in "abcde":
        row = expected[name]
        assert result["report"][name]["precision"] == pytest.approx(row["precision"])
        assert result["report"][name]["recall"] == pytest.approx(row["recall"])
        assert result["report"][name]["f1"] == pytest.approx(row["f1-score"])
        assert result["report"][name]["support"] == row["support"]
    assert result["top5_accuracy"] == 0.98
    assert result["calibration_error"] == pytest.approx((30 + 20) / 500)
    assert result["f1_macro"] == pytest.approx(expected["macro avg"]["f1-score"])
    assert result["accuracy"] == pytest.approx(np.mean(truth == guess))


def test_soft_labels_are_what_training_learns_and_hard_ones_what_it_reports(ragged):
    task, variables, batch, surprise_BK = ragged
    soft_BK = np.random.default_rng(0).dirichlet(np.ones(10), 12).astype(np.float32)
    mixed = batch | {"soft_labels": soft_BK}
    loss = task.loss(variables, mixed, context(True), {"label_smoothing": jnp.float32(0.1)})
    goal_BK = 0.9 * soft_BK + 0.1 / 10
    assert float(loss.sum) == pytest.approx(batch["weights"] @ (goal_BK * surprise_BK).sum(-1))
    nll = surprise_BK[np.arange(12), batch["labels"]]
    assert float(loss.metrics["loss"][0]) == pytest.approx(batch["weights"] @ nll)
    held_out = task.loss(variables, mixed, context(False), {})
    assert float(held_out.sum) == pytest.approx(batch["weights"] @ nll)


def test_features_are_what_the_head_reads():
    task = build_task(tiny_images(), IMAGE_INFO, "cpu")
    variables = parallel.unbox(jax.jit(task.init)(jax.random.key(0)))
    batch = image_batch(0, rows=4)
    features, logits = (
        jax.jit(lambda v, name=name: task.functions[name](v, batch, context(False)))(variables)
        for name in ("features", "logits")
    )
    assert features.shape == (4, 2 * 2 * 8)
    head = variables["params"]["head"]
    np.testing.assert_allclose(features @ head["kernel"] + head["bias"][None], logits, atol=1e-5)


def test_a_model_without_a_head_has_no_features():
    config = tiny_images(model={"name": f"{__name__}:Headless"})
    task = build_task(config, IMAGE_INFO, "cpu")
    variables = task.init(jax.random.key(0))
    with pytest.raises(ConfigError, match="head"):
        task.functions["features"](parallel.unbox(variables), image_batch(0), context(False))


class Headless(nn.Module):
    num_classes: int | None = None

    @nn.compact
    def __call__(self, images_BHWC, *, train):
        return nn.Dense(self.num_classes)(images_BHWC.reshape(len(images_BHWC), -1))
