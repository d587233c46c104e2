"""A recurrent layer's scan over time, whose weight gradient is one product.

Legend: B batch, T time, W width of the state, J gates times width.

What does not depend on the state (the inputs' product with their weights) is computed for all times
at once, before the scan. Left to itself JAX adds to the whole gradient of the recurrent kernel at
every time; here the backward scan only keeps the gates' gradients, and one product of B * T rows
follows it, as in cuDNN (Appleyard et al. 2016, 1604.01946).
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from scaling.parallel import logical

State = tuple[jax.Array, ...]  # float32 [B, W] each; the first is the output and meets the kernel
# (state, inputs' part of the gates [B, J], the state's part [B, J]) -> state; no products in it
Cell = Callable[[State, jax.Array, jax.Array], State]
_Kept = tuple[State, jax.Array, jax.Array, jax.Array, jax.Array]


def recurrence(
    cell: Cell,
    x_BTJ: jax.Array,
    kernel_WJ: jax.Array,
    state: State,
    keep_BT: jax.Array | None,
    axes: tuple[str | None, str | None],
) -> tuple[jax.Array, State]:
    """Runs a cell over time: (the outputs h float32 [B, T, W], the last state).

    Args:
      cell: one step, element by element.
      x_BTJ: the inputs' part of the gates, biases included.
      kernel_WJ: recurrent weights, of the type that products are computed in.
      state: before the first step.
      keep_BT: what multiplies the state before each step: 0 where it starts anew. None is 1.
      axes: logical names of the kernel; every device reads it whole, gathered once.
    """
    if keep_BT is None:
        keep_BT = jnp.ones(x_BTJ.shape[:2], jnp.float32)
    kernel_WJ = logical.gathered(kernel_WJ, axes)
    x_TBJ = x_BTJ.swapaxes(0, 1).astype(jnp.float32)
    keep_TB1 = keep_BT.astype(jnp.float32).T[:, :, None]
    h_TBW, last = _scan(cell, x_TBJ, kernel_WJ, state, keep_TB1)
    return h_TBW.swapaxes(0, 1), last


def _forward(
    cell: Cell, x_TBJ: jax.Array, kernel_WJ: jax.Array, state: State, keep_TB1: jax.Array
) -> tuple[tuple[jax.Array, State], _Kept]:
    def step(
        state: State, at: tuple[jax.Array, jax.Array]
    ) -> tuple[State, tuple[jax.Array, State, jax.Array]]:
        x_BJ, keep_B1 = at
        before = tuple(s * keep_B1 for s in state)
        h_BW = before[0].astype(kernel_WJ.dtype)
        gates_BJ = jnp.dot(h_BW, kernel_WJ, preferred_element_type=jnp.float32)
        after = cell(before, x_BJ, gates_BJ)
        return after, (after[0], before, gates_BJ)

    last, (h_TBW, befores, gates_TBJ) = jax.lax.scan(step, state, (x_TBJ, keep_TB1))
    return (h_TBW, last), (befores, gates_TBJ, x_TBJ, kernel_WJ, keep_TB1)


def _backward(
    cell: Cell, kept: _Kept, grads: tuple[jax.Array, State]
) -> tuple[jax.Array, jax.Array, State, jax.Array]:
    befores, gates_TBJ, x_TBJ, kernel_WJ, keep_TB1 = kept
    grad_TBW, grad_last = grads
    kernel_JW = kernel_WJ.T

    def step(
        grad: State, at: tuple[State, jax.Array, jax.Array, jax.Array, jax.Array]
    ) -> tuple[State, tuple[jax.Array, jax.Array]]:
        before, gates_BJ, x_BJ, keep_B1, grad_BW = at
        _, pull = jax.vjp(cell, before, x_BJ, gates_BJ)
        grad_before, grad_x_BJ, grad_gates_BJ = pull((grad[0] + grad_BW, *grad[1:]))
        through_BW = jnp.dot(
            grad_gates_BJ.astype(kernel_JW.dtype), kernel_JW, preferred_element_type=jnp.float32
        )
        total = (grad_before[0] + through_BW, *grad_before[1:])
        return tuple(g * keep_B1 for g in total), (grad_x_BJ, grad_gates_BJ)

    steps = (befores, gates_TBJ, x_TBJ, keep_TB1, grad_TBW)
    grad_state, (grad_x_TBJ, grad_gates_TBJ) = jax.lax.scan(step, grad_last, steps, reverse=True)
    h_NW = befores[0].reshape(-1, kernel_WJ.shape[0]).astype(kernel_WJ.dtype)
    grad_NJ = grad_gates_TBJ.reshape(-1, kernel_WJ.shape[1]).astype(kernel_WJ.dtype)
    grad_WJ = h_NW.T @ grad_NJ
    return grad_x_TBJ, grad_WJ, grad_state, jnp.zeros_like(keep_TB1)


def _plain(
    cell: Cell, x_TBJ: jax.Array, kernel_WJ: jax.Array, state: State, keep_TB1: jax.Array
) -> tuple[jax.Array, State]:
    return _forward(cell, x_TBJ, kernel_WJ, state, keep_TB1)[0]


_scan = functools.partial(jax.custom_vjp, nondiff_argnums=(0,))(_plain)
_scan.defvjp(_forward, _backward)
