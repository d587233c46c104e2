"""The loss over all pairs of a batch against optax and finite differences; pieces; what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import resolved
from jax.test_util import check_grads

from scaling import parallel
from scaling.configs import ConfigError
from scaling.data import DataInfo
from scaling.data.images import image_spec
from scaling.data.sources.pairs import _info
from scaling.data.sources.utterances import utterance_spec
from scaling.tasks.base import Context, build_task
from scaling.tasks.contrastive import LOSSES, products
from scaling.tasks.retrieval import RIDGE, places, probe_accuracy, summarize

ROWS, DIM = 8, 4
SOUND = DataInfo(
    kind="utterances",
    unit="utterances",
    spec=utterance_spec(40, 1),
    vocab_size=257,
    separator=256,
    facts={"sample_rate": 200},
)
IMAGES = DataInfo("images", "examples", image_spec((6, 6, 1)), num_classes=2, image_shape=(6, 6, 1))
HEARER = {"name": "speech_gru", "channels": 2, "model_dim": 4, "num_layers": 1, "dropout": 0.0}


def build(**overrides):
    source = {"name": "utterances", "paths": ("a.csv",)}
    base = {
        "name": "tiny",
        "task": {
            "name": "contrastive",
            "hop_seconds": 0.02,
            "mel_bands": 4,
            "window_seconds": 0.04,
        },
        "data": {"source": {"name": "pairs", "first": source, "second": {"name": "tfds"}}},
        "model": {
            "name": "towers",
            "embed_dim": DIM,
            "first": HEARER,
            "second": {"name": "cnn", "channels": (2,), "batch_norm_group": 4},
        },
        "optim": {"name": "adamw", "learning_rate": 1e-2, "schedule": {"name": "constant"}},
        "train": {"steps": 1, "batch_size": ROWS},
    }
    base["data"]["source"]["second"]["dataset"] = "mnist"
    return build_task(resolved(base, overrides), _info({"first": SOUND, "second": IMAGES}), "cpu")


def batch_of(rows=ROWS):
    rng = np.random.default_rng(0)
    count = rng.integers(10, 41, rows).astype(np.int32)
    return {
        "first_audio": rng.integers(-9000, 9000, (rows, 40)).astype(np.int16),
        "first_num_samples": count,
        "first_labels": np.zeros((rows, 1), np.int32),
        "first_num_labels": np.ones(rows, np.int32),
        "second_images": rng.integers(0, 256, (rows, 6, 6, 1)).astype(np.uint8),
        "second_labels": np.zeros(rows, np.int32),
        "labels": np.zeros(rows, np.int32),
        "weights": np.ones(rows, np.float32),
    }


def unit(rng, rows=5):
    x = rng.normal(size=(rows, DIM))
    return jnp.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), jnp.float32)


@pytest.mark.parametrize("kind", LOSSES)
def test_losses_are_those_of_optax_and_padding_is_nobodys_partner(kind):
    rng = np.random.default_rng(0)
    x, y = unit(rng), unit(rng)
    weights = jnp.array([1.0, 1.0, 1.0, 1.0, 0.0])
    logits = 7.0 * products(x, y) - 2.0
    per_row = LOSSES[kind](logits, weights)[:4]
    alone = logits[:4, :4]
    if kind == "softmax":
        right = jnp.arange(4)
        ways = [optax.softmax_cross_entropy_with_integer_labels(z, right) for z in (alone, alone.T)]
        expected = (ways[0] + ways[1]) / 2
    else:
        expected = optax.sigmoid_binary_cross_entropy(alone, jnp.eye(4)).sum(axis=1)
    np.testing.assert_allclose(per_row, expected, rtol=1e-5)
    assert np.isfinite(LOSSES[kind](logits, weights)).all()


@pytest.mark.parametrize("kind", LOSSES)
def test_gradients_against_finite_differences(kind):
    rng = np.random.default_rng(1)
    weights = jnp.array([1.0, 1.0, 1.0, 0.0, 1.0])

    def total(x, y, scale, bias):
        return jnp.sum(weights * LOSSES[kind](products(x, y) * jnp.exp(scale) + bias, weights))

    arguments = (unit(rng), unit(rng), jnp.float32(0.7), jnp.float32(-0.5))
    check_grads(total, arguments, order=1, modes="rev", atol=2e-2, rtol=2e-2)


def gradients(task, variables, batch):
    context = Context(jax.random.key(0), jnp.int32(0), True)
    batch = jax.tree.map(jnp.asarray, batch)

    def objective(params):
        loss = task.loss({**variables, "params": params}, batch, context, {})
        return loss.sum, loss

    return jax.jit(jax.grad(objective, has_aux=True))(variables["params"])


@pytest.fixture(scope="module")
def whole():
    task = build()
    variables = parallel.unbox(jax.jit(task.init)(jax.random.key(0)))
    return task, variables, gradients(task, variables, batch_of())


def test_pieces_are_exact(whole):
    """The same loss, gradient and batch statistics (groups of 4 rows) from two pieces as from one."""
    task, variables, (grads, loss) = whole
    other = build(**{"task.pieces": 2})
    cached, its_loss = gradients(other, variables, batch_of())
    np.testing.assert_allclose(its_loss.sum, loss.sum, rtol=1e-5)
    compare = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)  # noqa: E731
    jax.tree.map(compare, cached, grads)
    jax.tree.map(compare, its_loss.state, loss.state)
    assert jax.tree.leaves(loss.state), "no batch statistics"
    # Loss of each half against itself alone is another number, which is why microbatches are refused.
    halves = [{k: v[i::2] for k, v in batch_of().items()} for i in range(2)]
    context = Context(jax.random.key(0), jnp.int32(0), True)
    cut = sum(float(task.loss(variables, half, context, {}).sum) for half in halves)
    assert abs(cut - float(loss.sum)) > 1.0


def test_parameters_by_hand(whole):
    task, variables, _ = whole
    convolutions = (9 * 2 + 2) + (9 * 2 * 2 + 2)
    project = (1 * 2) * 4 + 4 + 2 * 4  # 4 bands become 1; LayerNorm
    gru = 2 * (4 * 6 + 2 * 6 + 6) + 2 * 4 + 2 * 4
    sound = convolutions + project + gru + 4 * DIM + DIM
    image = 9 * 2 + 2 * 2 + 3 * 3 * 2 * DIM + DIM
    assert task.params.total == sound + image + 1
    assert float(jnp.exp(variables["params"]["log_scale"])) == pytest.approx(1 / 0.07)
    assert task.flops.exact > 0


def test_vectors_have_length_one_and_silence_behind_an_utterance_changes_nothing(whole):
    task, variables, _ = whole
    context = Context(jax.random.key(0), jnp.int32(0), False)
    embed = jax.jit(lambda batch: task.functions["embed"](variables, batch, context))
    first, second = embed(batch_of())
    for x in (first, second):
        np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1.0, rtol=1e-5)
    noisy = batch_of()
    for row, count in zip(noisy["first_audio"], noisy["first_num_samples"], strict=True):
        row[count:] = 5000
    np.testing.assert_allclose(embed(noisy)[0], first, atol=1e-5)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"train.accumulate": 2},
            r"(?s)train\.accumulate: .*whole batch.*give --config\.task\.pieces=2",
        ),
        ({"task.pieces": 3}, r"task\.pieces: 3 does not divide train\.batch_size=8"),
        ({"task.kind": "sigmoid"}, r"model\.bias: is None, and task\.kind=sigmoid needs it"),
        ({"model.second.num_classes": 3}, r"model\.second\.num_classes: 3 is less than the 4"),
        ({"task.mel_bands": 99}, r"task\.mel_bands: no frequency"),
    ],
)
def test_what_is_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        build(**overrides)


def test_places_and_recall_by_hand():
    # Pair 0: its partner has 0.5, of the other class candidates 1 and 3 are better, 2 is of its class.
    scores = np.array(
        [[0.5, 0.9, 0.8, 0.6], [0, 1, 0, 0], [0, 0, 0.1, 0.1], [np.nan, 0, 0, 0.2]], np.float64
    )
    labels = np.array([0, 1, 0, 2])
    np.testing.assert_array_equal(places(scores, labels), [2.0, 0.0, 0.5, 1.0])
    rows = {"first": np.eye(4)[:, :3], "second": np.eye(4)[:, :3], "labels": labels}
    report = summarize(rows)
    # The last pair's vectors are 0, so nothing tells its partner from three others.
    assert report["first_to_second_recall1"] == pytest.approx(3 / 4)
    assert report["second_to_first_recall5"] == 1.0
    assert report["gallery"] == pytest.approx((3 + 4 + 3 + 4) / 4)
    assert report["chance_recall1"] == pytest.approx((1 / 3 + 1 / 4 + 1 / 3 + 1 / 4) / 4)


def test_the_probe_is_scikit_learns_ridge():
    from sklearn.linear_model import Ridge

    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(60, 5)), rng.integers(3, 6, 60)
    x[:, 0] += labels
    ridge = Ridge(alpha=RIDGE * 30).fit(x[0::2], np.eye(3)[labels[0::2] - 3])
    right = np.argmax(ridge.predict(x[1::2]), axis=1) == labels[1::2] - 3
    assert probe_accuracy(x, labels) == pytest.approx(right.mean())
    assert 0.4 < right.mean() < 1.0


def test_a_sheet_shows_what_each_class_finds():
    rng = np.random.default_rng(0)
    x = np.asarray(unit(rng, 12))
    images = rng.integers(0, 255, (12, 5, 5, 1)).astype(np.uint8)
    report = summarize({"first": x, "second": x, "labels": np.arange(12) % 3, "images": images})
    np.testing.assert_array_equal(report["sheet"][:5, :5, 0], images[0, :, :, 0])
