"""Attacks on a linear classifier, whose best attack is known, and on what the config says of them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    IMAGE_INFO,
    TEXT_INFO,
    context,
    image_batch,
    text_batch,
    tiny_images,
    tiny_language_model,
)
from ml_collections import ConfigDict

from scaling import parallel
from scaling.configs import ConfigError
from scaling.experiment import EvaluationEntry
from scaling.tasks.adversarial import adversarial, projected, start
from scaling.tasks.base import build_task
from scaling.train import evaluations


@pytest.fixture(scope="module")
def linear():
    """(task, variables, batch) of a linear classifier of two classes, mostly right."""
    model = ConfigDict({"name": "mlp", "hidden_dims": (), "num_classes": 10})
    task = build_task(tiny_images(model=model), IMAGE_INFO, "cpu")
    variables = parallel.unbox(jax.jit(task.init)(jax.random.key(0)))
    batch = image_batch(0, rows=64)
    batch["images"] = np.clip(batch["images"], 80, 175)  # attacks stay inside 0 to 255
    batch["labels"] %= 2
    kernel = np.zeros((64, 10), np.float32)
    kernel[:, :2] = np.random.default_rng(0).normal(size=(64, 2))
    bias = np.array([0, 0] + [-99] * 8, np.float32)
    variables["params"]["head"] = {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}
    batch["labels"] = (batch["images"].reshape(64, -1) / 255.0 @ kernel).argmax(-1).astype("int32")
    batch["labels"][:5] = 1 - batch["labels"][:5]
    batch["weights"][60:] = 0.0
    return task, variables, batch


def accuracies(linear, **options):
    task, variables, batch = linear
    evaluation = adversarial(task, **options)
    totals, _ = jax.jit(lambda v, b: evaluation.run(v, b, context(False), None))(variables, batch)
    return evaluation.report(jax.device_get(totals))


def test_with_no_room_it_is_the_clean_accuracy(linear):
    for norm in ("linf", "l2"):
        values = accuracies(linear, epsilon=0.0, norm=norm, steps=2)
        assert values["robust_accuracy"] == values["clean_accuracy"] == pytest.approx(55 / 60)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("steps", [1, 5])
def test_the_best_attack_on_a_linear_classifier(linear, norm, steps):
    """It flips an image whose margin is below epsilon times the dual norm of the weights' difference."""
    _, variables, batch = linear
    difference = np.diff(variables["params"]["head"]["kernel"][:, :2], axis=1)[:, 0]
    dual = np.abs(difference).sum() if norm == "linf" else np.linalg.norm(difference)
    sign = 2 * batch["labels"] - 1
    margin = sign * (batch["images"].reshape(64, -1) / 255.0 @ difference)
    before = 1.0
    for share in (0.3, 1.0, 3.0):
        epsilon = float(share * np.median(margin) / dual)
        begin = (
            norm == "linf" and steps > 1
        )  # then every pixel reaches the ball's corner from anywhere
        values = accuracies(linear, epsilon=epsilon, norm=norm, steps=steps, random_start=begin)
        robust = values["robust_accuracy"]
        assert robust == pytest.approx(np.mean(margin[:60] > epsilon * dual)), share
        assert robust <= before
        before = robust
    assert before < 0.5


def test_a_step_raises_the_loss_as_finite_differences_say(linear):
    task, variables, batch = linear
    one = {k: v[5:6] for k, v in batch.items()}
    epsilon = 1e-2

    def loss(images):
        logits = task.functions["logits"](variables, one | {"images": images}, context(False))
        return float(jax.nn.logsumexp(logits) - logits[0, one["labels"][0]])

    pixels = one["images"].astype(np.float32)
    slopes = []
    for i in range(64):
        nudge = np.zeros((1, 64), np.float32)
        nudge[0, i] = 4.0
        nudge = nudge.reshape(pixels.shape)
        slopes.append(loss(pixels + nudge) - loss(pixels - nudge))
    expected = loss(pixels + 255 * epsilon * np.sign(slopes).reshape(pixels.shape))
    evaluation = adversarial(task, epsilon=epsilon, steps=1, random_start=False)
    totals, _ = evaluation.run(variables, one, context(False), None)
    assert float(totals["robust_loss"][0]) == pytest.approx(expected, rel=1e-4)
    assert expected > loss(pixels)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_changes_stay_in_the_ball_and_in_the_image(norm):
    clean = jax.random.uniform(jax.random.key(0), (16, 4, 4, 1))
    order = np.inf if norm == "linf" else 2
    for change in (start(jax.random.key(1), clean.shape, 0.5, norm), 9 * (clean - 0.5)):
        kept = projected(change, clean, 0.5, norm)
        sizes = np.linalg.norm(np.asarray(kept).reshape(16, -1), ord=order, axis=1)
        assert (sizes <= 0.5 + 1e-6).all()
        assert sizes.max() > 0.2
        assert jnp.all((clean + kept >= 0) & (clean + kept <= 1))


def test_options_are_held_to_the_functions_parameters(linear):
    task = linear[0]

    def make(**options):
        return evaluations.named(task, EvaluationEntry("adversarial", options), "pgd")

    make(epsilon=0, steps=3)
    for options, key in (
        ({"epsilom": 0.1}, "eval.also.pgd.options.epsilom"),
        ({"steps": 0}, "eval.also.pgd.options.steps"),
        ({"norm": "l1"}, "eval.also.pgd.options.norm"),
    ):
        with pytest.raises(ConfigError, match=key):
            make(**options)
    with pytest.raises(ConfigError, match=r"eval\.also\.s\.options"):
        evaluations.named(task, EvaluationEntry("score", {"a": 1}), "s")


def needs_an_option(task, *, rows: int):
    raise AssertionError("not reached")


def test_an_option_without_a_default_is_asked_for(linear):
    entry = EvaluationEntry(f"{__name__}:needs_an_option")
    with pytest.raises(ConfigError, match=r"eval\.also\.own\.options\.rows: is required"):
        evaluations.named(linear[0], entry, "own")


def test_a_config_names_it():
    also = {"pgd": {"evaluation": "adversarial", "options": {"epsilon": 0.1, "norm": "l2"}}}
    config = tiny_images(**{"eval.also": also})
    assert dict(config.eval.also["pgd"].options) == {"epsilon": 0.1, "norm": "l2"}


def test_other_tasks_are_refused():
    task = build_task(tiny_language_model(), TEXT_INFO, "cpu")
    with pytest.raises(ConfigError, match="images"):
        adversarial(task).run({}, text_batch(0), context(False), None)
    bare = dataclasses.replace(task, functions={})
    with pytest.raises(ConfigError, match=r"eval\.also\.pgd\.evaluation: .* logits"):
        evaluations.named(bare, EvaluationEntry("adversarial"), "pgd")
