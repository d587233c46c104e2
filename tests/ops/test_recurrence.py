"""The scan with a weight gradient of one product, against JAX's own gradient of a plain scan."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from scaling.models.rnn import KINDS
from scaling.ops.recurrence import recurrence

B, T, W = 3, 5, 4


def inputs(cell):
    kind = KINDS[cell]
    keys = jax.random.split(jax.random.key(0), 2 + len(kind.states))
    x_BTJ = jax.random.normal(keys[0], (B, T, kind.gates * W))
    kernel_WJ = jax.random.normal(keys[1], (W, kind.gates * W))
    state = tuple(jax.random.normal(key, (B, W)) for key in keys[2:])
    return x_BTJ, kernel_WJ, state


KEEP = np.ones((B, T), np.float32)
KEEP[0, 0] = KEEP[1, 3] = 0


def plain(cell, x_BTJ, kernel_WJ, state):
    hs = []
    for t in range(T):
        state = tuple(s * KEEP[:, t, None] for s in state)
        state = KINDS[cell].step(state, x_BTJ[:, t], state[0] @ kernel_WJ)
        hs.append(state[0])
    return jnp.stack(hs, 1), state


def ours(cell, x_BTJ, kernel_WJ, state):
    return recurrence(KINDS[cell].step, x_BTJ, kernel_WJ, state, KEEP, ("embed", None))


def scalar(run, cell):
    def loss(*arguments):
        h, last = run(cell, *arguments)
        return jnp.sum(jnp.sin(3 * h)) + sum(jnp.sum(jnp.cos(s)) for s in last)

    return loss


@pytest.mark.parametrize("cell", KINDS)
def test_values_and_gradients(cell):
    arguments = inputs(cell)
    compare = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)  # noqa: E731
    jax.tree.map(compare, ours(cell, *arguments), plain(cell, *arguments))
    got, wanted = (jax.grad(scalar(run, cell), (0, 1, 2))(*arguments) for run in (ours, plain))
    jax.tree.map(compare, got, wanted)


@pytest.mark.parametrize("cell", KINDS)
def test_finite_differences(cell):
    check_grads(scalar(ours, cell), inputs(cell), order=1, modes=["rev"], rtol=2e-2)


def test_a_hessian_times_a_vector():
    arguments = inputs("lstm")
    ones = jax.tree.map(jnp.ones_like, arguments)
    products = [
        jax.jvp(jax.grad(scalar(run, "lstm"), (0, 1, 2)), arguments, ones)[1]
        for run in (ours, plain)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), *products)


def test_the_weight_gradient_is_one_product_after_the_scan():
    """JAX's own transpose of a scan adds to the whole gradient at every time."""
    arguments = inputs("gru")
    scans = [
        equation
        for equation in jax.make_jaxpr(jax.grad(scalar(ours, "gru"), (0, 1)))(*arguments).eqns
        if equation.primitive.name == "scan"
    ]
    shape = arguments[1].shape
    assert len(scans) == 2
    # What a scan stacks has the time in front, so only what it carries can have the weights' shape.
    assert shape not in [v.aval.shape for s in scans for v in s.outvars]
