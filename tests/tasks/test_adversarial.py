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
from scaling.data.info import DataInfo
from scaling.experiment import EvaluationEntry
from scaling.tasks.adversarial import (
    Attack,
    adversarial,
    adversarial_training,
    in_ball,
    space,
    start,
)
from scaling.tasks.base import Task, TaskContext, build_task
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
    images = 255.0 * jax.random.uniform(jax.random.key(0), (16, 4, 4, 1))
    clean = images / 255.0
    within = space(Task(None, None), {}, {"images": images}, context(False))
    order = np.inf if norm == "linf" else 2
    for change in (start(jax.random.key(1), clean.shape, 0.5, norm), 9 * (clean - 0.5)):
        kept = within.cut(in_ball(change, 0.5, norm))
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
    with pytest.raises(ConfigError, match="images, or embeddings"):
        adversarial(task).run({}, text_batch(0), context(False), None)
    bare = dataclasses.replace(task, functions={})
    with pytest.raises(ConfigError, match=r"eval\.also\.pgd\.evaluation: .* logits"):
        evaluations.named(bare, EvaluationEntry("adversarial"), "pgd")


TEXTS = {"inputs": ((6,), np.dtype(np.int32)), "segments": ((6,), np.dtype(np.int32))}
LABELLED = DataInfo(
    "labelled_text",
    "examples",
    {**TEXTS, "labels": ((), np.dtype(np.int32)), "weights": ((), np.dtype(np.float32))},
    vocab_size=11,
    num_classes=3,
)
KIM = {"name": "kim_cnn", "embed_dim": 4, "filters": 5, "filter_widths": (2, 3), "dropout": 0.0}
ENCODER = {"name": "text_encoder", "num_layers": 1, "model_dim": 8, "num_heads": 2, "max_len": 6}


def texts(model, task=None):
    """(task, variables, batch) of a classifier of texts of 6 tokens, the last two padding."""
    section = ConfigDict(task or {"name": "classification"})
    config = tiny_images(model=ConfigDict(model), task=section)
    task = build_task(config, LABELLED, "cpu")
    variables = parallel.unbox(jax.jit(task.init)(jax.random.key(0)))
    random = np.random.default_rng(0)
    batch = {
        "inputs": random.integers(0, 11, (4, 6)).astype(np.int32),
        "segments": np.repeat([[1, 1, 1, 1, 0, 0]], 4, axis=0).astype(np.int32),
        "labels": np.array([0, 1, 2, 0], np.int32),
        "weights": np.ones(4, np.float32),
    }
    return task, variables, batch


@pytest.mark.parametrize("model", [KIM, ENCODER], ids=["kim", "encoder"])
def test_embeddings_of_a_text_move_as_finite_differences_say(model):
    task, variables, batch = texts(model)
    assert set(variables) == {"params"}, "what may be perturbed is not state"
    within = space(task, variables, batch, context(False))
    width = model.get("embed_dim", model.get("model_dim"))
    assert within.shape == (4, 6, width)

    @jax.jit
    def losses(change):
        logits = task.functions["logits"](*within.moved(variables, change), context(False))
        return jax.nn.logsumexp(logits, axis=1) - logits[np.arange(4), batch["labels"]]

    slopes = np.zeros(within.shape)
    for place in np.ndindex(within.shape[1:]):
        nudge = np.zeros(within.shape, np.float32)
        nudge[:, *place] = 1e-3
        slopes[:, *place] = losses(nudge) - losses(-nudge)
    assert np.abs(slopes[:, :4]).min(axis=0).max() > 0
    expected = losses(1e-3 * np.sign(slopes) * batch["segments"][:, :, None])
    attack = Attack(1e-3, "linf", 1, None, False)
    moved, _ = attack(task, variables, batch, context(True))
    change = np.asarray(moved["perturbations"]["embedded"])
    assert not change[:, 4:].any(), "padding stays"
    np.testing.assert_allclose(losses(change), expected, atol=2e-6)
    assert (np.asarray(expected) > np.asarray(losses(np.zeros_like(change)))).all()


def test_models_that_cannot_be_perturbed_are_told_how():
    task, variables, batch = texts(KIM)
    bare = dataclasses.replace(task, functions={"logits": task.functions["logits"]})
    with pytest.raises(ConfigError, match=r'self\.perturb\("embedded", x_BTE\)'):
        adversarial(bare).run(variables, batch, context(False), None)


def two_classes(linear, **options):
    """(weights' difference -> training loss of the linear classifier, that by its closed form).

    An attack within epsilon lowers every margin by epsilon times the 1-norm of the difference
    (Goodfellow et al. 2014, section 5).
    """
    base, variables, batch = linear
    outer = TaskContext(tiny_images(), IMAGE_INFO, "cpu")
    task = adversarial_training(outer, base, epsilon=0.01, steps=1, random_start=False, **options)
    sign = 2.0 * batch["labels"] - 1.0
    pixels = batch["images"].reshape(64, -1) / 255.0
    clean = options.get("clean", 0.0)

    def trained(difference):
        head = variables["params"]["head"]
        kernel = head["kernel"].at[:, 0].set(0.0).at[:, 1].set(difference)
        moved = {"params": {"head": {**head, "kernel": kernel}}}
        return task.loss(moved, batch, context(True), {}).sum

    def closed(difference):
        margin = sign * (pixels @ difference)
        hard = jax.nn.softplus(0.01 * jnp.abs(difference).sum() - margin)
        return jnp.sum(batch["weights"] * (clean * jax.nn.softplus(-margin) + (1 - clean) * hard))

    return trained, closed


@pytest.mark.parametrize("clean", [0.0, 0.5])
def test_training_on_the_attack_has_the_loss_and_the_gradient_of_the_closed_form(linear, clean):
    trained, closed = two_classes(linear, clean=clean)
    difference = jnp.asarray(np.random.default_rng(1).normal(size=64), jnp.float32)
    for ours, theirs in zip(
        jax.jit(jax.value_and_grad(trained))(difference),
        jax.value_and_grad(closed)(difference),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("model", [KIM, ENCODER], ids=["kim", "encoder"])
def test_a_config_wraps_classification_of_texts(model):
    section = {"name": "adversarial_training", "epsilon": 0.1, "norm": "l2", "steps": 2}
    task, variables, batch = texts(model, {**section, "over": {"name": "classification"}})
    plain, _, _ = texts(model)
    losses = {}
    for train in (True, False):
        ours, theirs = (one.loss(variables, batch, context(train), {}) for one in (task, plain))
        assert ours.state == theirs.state == {}
        losses[train] = float(ours.sum), float(theirs.sum)
    assert losses[True][0] > losses[True][1]
    assert losses[False][0] == losses[False][1]
    # Each step of the attack is a pass forward and one back to the embeddings.
    assert task.flops.exact >= plain.flops.exact + 2 * 2 * plain.flops.forward
    with pytest.raises(ConfigError, match=r"task\.over: adversarial_training attacks"):
        adversarial_training(None, dataclasses.replace(plain, functions={}))
