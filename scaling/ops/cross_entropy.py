"""The head: float32 logits from operands of the compute type, and losses that never hold them all.

Logits are the widest activation of a language model. `logits` makes them all, for evaluation and
serving; training uses `chunked_loss`, which makes them a piece of the sequence at a time, scores the
piece, and keeps only the gradient of its scores, in the compute type, with each product still done
once. For a 124M model with 10 rows of 1,024 on a TPU chip the step's peak is 12.05 GiB, and was
13.42 with float32 logits beside their bfloat16 gradient (`scripts/bench/plan_table.py`).

Legend: B batch, T time, C time within a piece, P pieces, D model width, V vocabulary, N rows.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from scaling.ops.matmul import after_reduce_scatter, matmul
from scaling.parallel import logical
from scaling.parallel.logical import constrain

# score(logits_xV float32, targets_x, hparams) -> (objective_x, what else to report of each token)
Score = Callable[[jax.Array, jax.Array, Mapping[str, Any]], tuple[jax.Array, Any]]

AXES = ("embed", "vocab")

# A piece has at most this many bytes of float32 logits on a device.
PIECE_BYTES = 2**28


def cross_entropy(logits_BxV: jax.Array, targets_Bx: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Negative log likelihood and log normaliser, in nats, float32.

    The target's logit is picked by comparison rather than by a gather: it fuses into the reduction,
    its gradient is not a scatter, and with the vocabulary sharded over a mesh axis it stays local.

    Args:
      logits_BxV: unnormalised scores, any leading dimensions.
      targets_Bx: int32 classes, the leading dimensions of the logits.

    Returns:
      (nll, log_z), both with the shape of the targets.
    """
    logits_BxV = logits_BxV.astype(jnp.float32)
    classes_V = jax.lax.broadcasted_iota(jnp.int32, logits_BxV.shape, logits_BxV.ndim - 1)
    hit_BxV = classes_V == jnp.expand_dims(targets_Bx, -1)
    target_Bx = jnp.sum(jnp.where(hit_BxV, logits_BxV, 0.0), axis=-1)
    log_z_Bx = jax.nn.logsumexp(logits_BxV, axis=-1)
    return log_z_Bx - target_Bx, log_z_Bx


def smoothed(
    nll: jax.Array, log_z: jax.Array, logits_BxV: jax.Array, smoothing: float | jax.Array
) -> jax.Array:
    """Cross-entropy against (1 - s) one-hot + s uniform (Szegedy et al. 2016, 1512.00567)."""
    uniform = log_z - jnp.mean(logits_BxV.astype(jnp.float32), axis=-1)
    return (1.0 - smoothing) * nll + smoothing * uniform


def softcap(logits: jax.Array, cap: float | None) -> jax.Array:
    """cap * tanh(logits / cap) (Gemma 2, 2408.00118); None leaves them alone."""
    return logits if cap is None else jnp.tanh(logits / cap) * cap


def logits(x_ND: jax.Array, kernel_DV: jax.Array) -> jax.Array:
    """x @ kernel in float32 from operands of the compute type; gradients in that type."""
    return matmul(x_ND, kernel_DV, AXES, jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def chunked_loss(
    score: Score,
    x_BTD: jax.Array,
    kernel_DV: jax.Array,
    targets_BT: jax.Array,
    hparams: Mapping[str, Any],
) -> tuple[jax.Array, Any]:
    """`score` of the logits x @ kernel, a piece of the sequence at a time.

    The gradient of the score with respect to the logits is taken while a piece's logits are there,
    which makes the backward pass two products and nothing to recompute.

    Args:
      score: acts on each token alone; see `Score`.
      x_BTD: hidden states of the compute type.
      kernel_DV: of the compute type.
      targets_BT: int32.
      hparams: run-time numbers of the score; no gradient flows to them.

    Returns:
      (objective_BT, the score's other outputs, [B, T, ...]); only the objective has a gradient.
    """
    return _pieces(score, x_BTD, kernel_DV, targets_BT, hparams, None)


def _chunked_loss_forward(
    score: Score,
    x_BTD: jax.Array,
    kernel_DV: jax.Array,
    targets_BT: jax.Array,
    hparams: Mapping[str, Any],
) -> tuple[Any, Any]:
    objective_BT, rest, dlogits_PBCV = _pieces(
        score, x_BTD, kernel_DV, targets_BT, hparams, x_BTD.dtype
    )
    return (objective_BT, rest), (x_BTD, kernel_DV, dlogits_PBCV)


def _chunked_loss_backward(
    score: Score, kept: tuple[jax.Array, ...], grads: tuple[jax.Array, Any]
) -> tuple[Any, ...]:
    x_BTD, kernel_DV, dlogits_PBCV = kept
    grad_BT1 = grads[0][..., None]
    # The tokens' weights scale the narrow operands, so that the wide one is read as it lies. The
    # gathered kernel is gone before its gradient is there; for the rest see `ops.matmul`.
    back_BTD = _join(jnp.einsum("pbcv,dv->pbcd", dlogits_PBCV, kernel_DV), x_BTD.shape[1])
    grad_BTD = (grad_BT1 * back_BTD).astype(x_BTD.dtype)
    grad_BTD, x_BTD = jax.lax.optimization_barrier((grad_BTD, x_BTD))
    weighted_PBCD = _cut((grad_BT1 * x_BTD).astype(x_BTD.dtype), len(dlogits_PBCV))
    grad_DV = jnp.einsum("pbcd,pbcv->dv", weighted_PBCD, dlogits_PBCV)
    if logical.is_split(grad_DV.shape, AXES):
        grad_BTD, grad_DV = after_reduce_scatter(grad_BTD, grad_DV, AXES)
    return grad_BTD, grad_DV, None, None


chunked_loss.defvjp(_chunked_loss_forward, _chunked_loss_backward)


def _pieces(
    score: Score,
    x_BTD: jax.Array,
    kernel_DV: jax.Array,
    targets_BT: jax.Array,
    hparams: Mapping[str, Any],
    dlogits_dtype: DTypeLike | None,
) -> tuple[Any, ...]:
    """(objective_BT, rest) and, if a type for it is given, d objective / d logits [P, B, C, V]."""

    def piece(one: tuple[jax.Array, jax.Array]) -> tuple[Any, ...]:
        x_BCD, targets_BC = one
        logits_BCV = jnp.dot(x_BCD, kernel_DV, preferred_element_type=jnp.float32)
        logits_BCV = constrain(logits_BCV, ("batch", "length", "vocab"))
        if dlogits_dtype is None:
            return score(logits_BCV, targets_BC, hparams)
        objective_BC, pull, rest = jax.vjp(
            lambda logits_BCV: score(logits_BCV, targets_BC, hparams), logits_BCV, has_aux=True
        )
        (dlogits_BCV,) = pull(jnp.ones_like(objective_BC))
        return objective_BC, rest, dlogits_BCV.astype(dlogits_dtype)

    count = _count(targets_BT.shape, kernel_DV.shape[1])
    if count == 1:
        results = piece((x_BTD, targets_BT))
        return results if dlogits_dtype is None else (*results[:2], results[2][None])
    # Gathered once, not once a piece.
    kernel_DV = logical.gathered(kernel_DV, AXES)
    results = jax.lax.map(piece, (_cut(x_BTD, count), _cut(targets_BT, count)))
    join = functools.partial(_join, length=targets_BT.shape[1])
    return jax.tree.map(join, results[:2]) + results[2:]


def _count(shape_BT: tuple[int, ...], vocab: int) -> int:
    """How many pieces make the logits of one on a device PIECE_BYTES or less.

    The fewest, or up to twice as many where that divides the sequence; else the last piece is
    filled up.
    """
    batch, length = shape_BT
    split = 1
    active = logical.active_rules()
    if active is not None:
        mesh, rules = active
        partition = logical.spec(("batch", "length", "vocab"), rules)
        if logical.parts(partition[1], mesh) > 1:
            return 1  # the sequence is in pieces already, one a device
        split = logical.parts(partition[0], mesh) * logical.parts(partition[2], mesh)
    needed = math.ceil(4 * batch * length * vocab / split / PIECE_BYTES)
    for count in range(max(needed, 1), min(2 * needed, length) + 1):
        if length % count == 0:
            return count
    # No piece that is nothing but filling: 12 in 7 pieces are 6 of 2.
    return math.ceil(length / math.ceil(length / min(max(needed, 1), length)))


def _cut(a_BTx: jax.Array, count: int) -> jax.Array:
    """[B, T, ...] to [P, B, C, ...], the last piece filled up with zeros."""
    batch, length, *rest = a_BTx.shape
    size = math.ceil(length / count)
    if size * count > length:
        fill = [(0, 0), (0, size * count - length)] + [(0, 0)] * len(rest)
        a_BTx = jnp.pad(a_BTx, fill)
    return jnp.moveaxis(a_BTx.reshape(batch, count, size, *rest), 1, 0)


def _join(a_PBCx: jax.Array, length: int) -> jax.Array:
    """[P, B, C, ...] to [B, T, ...], without the filling."""
    count, batch, size, *rest = a_PBCx.shape
    return jnp.moveaxis(a_PBCx, 0, 1).reshape(batch, count * size, *rest)[:, :length]
