"""Cross-entropy and the language model's sums in float64, and the error that evaluation states."""

import jax
import numpy as np
import pytest

from scaling.ops.cross_entropy import cross_entropy, smoothed
from scaling.tasks.losses import moments, standard_error


def reference(logits, targets):
    logits = logits.astype(np.float64)
    top = logits.max(-1, keepdims=True)
    log_z = np.log(np.exp(logits - top).sum(-1)) + top[..., 0]
    return log_z - np.take_along_axis(logits, targets[..., None], -1)[..., 0], log_z


def test_cross_entropy_and_its_gradient_against_float64():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 5, 11)).astype(np.float32) * 20
    targets = rng.integers(0, 11, (3, 5)).astype(np.int32)
    nll, log_z = cross_entropy(logits, targets)
    expected = reference(logits, targets)
    np.testing.assert_allclose(nll, expected[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(log_z, expected[1], rtol=1e-6)
    gradient = jax.grad(lambda x: cross_entropy(x, targets)[0].sum())(logits)
    wide = logits.astype(np.float64)
    soft = np.exp(wide - wide.max(-1, keepdims=True))
    soft /= soft.sum(-1, keepdims=True)
    np.testing.assert_allclose(gradient, soft - np.eye(11)[targets], atol=1e-6)


def test_smoothing_is_the_mixture_of_targets():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(4, 7)).astype(np.float32)
    targets = rng.integers(0, 7, 4).astype(np.int32)
    nll, log_z = cross_entropy(logits, targets)
    log_p = logits - np.asarray(log_z)[:, None]
    goal = 0.9 * np.eye(7)[targets] + 0.1 / 7
    np.testing.assert_allclose(
        smoothed(nll, log_z, logits, 0.1), -(goal * log_p).sum(-1), rtol=1e-5
    )


def test_standard_error_of_equal_weights_is_the_textbook_one():
    losses = np.random.default_rng(2).normal(3.0, 0.5, 4000)
    squares = np.asarray(moments(losses.astype(np.float32), np.ones(4000, np.float32)), np.float64)
    got = standard_error(losses.sum(), 4000.0, squares)
    assert got == pytest.approx(losses.std() / np.sqrt(4000), rel=0.02)


def test_standard_error_of_unequal_weights_is_that_of_a_ratio():
    rng = np.random.default_rng(3)
    weights = rng.integers(1, 17, 50).astype(np.float64)
    losses = weights * rng.normal(3.0, 0.5, 50)
    squares = np.asarray(moments(losses.astype(np.float32), weights.astype(np.float32)), np.float64)
    ratio = losses.sum() / weights.sum()
    expected = np.sqrt(((losses - ratio * weights) ** 2).sum()) / weights.sum()
    got = standard_error(losses.sum(), weights.sum(), squares)
    assert got == pytest.approx(expected, rel=1e-3)
