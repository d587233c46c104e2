"""The sums of a language model in float64, and what is reported of them."""

import dataclasses

import jax
import numpy as np
import pytest
from helpers import TEXT_INFO, context, text_batch, tiny_language_model
from scipy import special

from scaling import parallel
from scaling.configs import build
from scaling.models import MODELS
from scaling.tasks.base import build_task
from scaling.tasks.language_model import summarize


def reference(logits, targets):
    log_z = special.logsumexp(logits, -1)
    return log_z - np.take_along_axis(logits, targets[..., None], -1)[..., 0], log_z


@pytest.fixture(scope="module")
def ragged():
    """(task, variables, batch, logits in float64) of a language model on rows of unequal length."""
    config = tiny_language_model(
        **{
            "model.num_layers": 1,
            "model.model_dim": 8,
            "model.num_heads": 1,
            "task.z_loss": 1e-2,
            "task.label_smoothing": 0.1,
        }
    )
    info = dataclasses.replace(TEXT_INFO, token_bytes=np.arange(64) % 5)
    task = build_task(config, info, "cpu")
    params = dict(parallel.unbox(jax.jit(task.init)(jax.random.key(0)))["params"])
    params["head"] = params["head"] * 30.0  # log Z and the losses of tokens then differ widely
    variables, batch = {"params": params}, text_batch(0, rows=4)
    model = build(config.model, MODELS, platform="cpu")
    logits = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, batch["inputs"])
    # Every other token is as predicted, also among those that do not count.
    guess = np.where(np.arange(16) % 2, batch["targets"], np.argmax(logits, -1))
    return task, variables, batch | {"targets": guess}, np.asarray(logits, np.float64)


def test_training_adds_smoothing_and_the_square_of_log_z_to_the_loss(ragged):
    task, variables, batch, logits = ragged
    loss = jax.jit(lambda v, b: task.loss(v, b, context(True), {}))(variables, batch)
    weights = batch["weights"].astype(np.float64)
    nll, log_z = reference(logits, batch["targets"])
    objective = 0.9 * nll + 0.1 * (log_z - logits.mean(-1)) + 1e-2 * log_z**2
    assert float(loss.sum) == pytest.approx((weights * objective).sum(), rel=1e-5)
    expected = {"loss": nll, "log_z_squared": log_z**2}
    assert set(loss.metrics) == set(expected)
    for name, value in expected.items():
        total, weight = (float(x) for x in loss.metrics[name])
        assert total == pytest.approx((weights * value).sum(), rel=1e-5), name
        assert weight == float(loss.weight) == weights.sum()


def test_the_sums_of_an_evaluation_weigh_every_token(ragged):
    task, variables, batch, logits = ragged
    metrics = jax.jit(lambda v, b: task.loss(v, b, context(False), {}))(variables, batch).metrics
    weights, targets = batch["weights"].astype(np.float64), batch["targets"]
    nll, _ = reference(logits, targets)
    right = logits.argmax(-1) == targets
    loss_B, weight_B = (weights * nll).sum(-1), weights.sum(-1)
    assert 0 < (weights * right).sum() < right.sum()
    expected = {
        "loss": loss_B.sum(),
        "accuracy": (weights * right).sum(),
        "bytes": (weights * (targets % 5)).sum(),
        "moments": [(loss_B**2).sum(), loss_B @ weight_B, (weight_B**2).sum()],
    }
    assert set(metrics) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name][0], value, rtol=1e-5, err_msg=name)
        assert float(metrics[name][1]) == weights.sum()


def test_summary_units():
    totals = {
        "loss": (np.float64(200.0), np.float64(100.0)),
        "accuracy": (np.float64(25.0), np.float64(100.0)),
        "moments": (np.array([450.0, 200.0, 100.0]), np.float64(100.0)),
        "bytes": (np.float64(400.0), np.float64(100.0)),
    }
    result = summarize(totals)
    assert result["loss"] == 2.0
    assert result["perplexity"] == pytest.approx(np.exp(2.0))
    assert result["accuracy"] == 0.25
    assert result["bits_per_byte"] == pytest.approx(200 / np.log(2) / 400)
