"""Attention: one function, four implementations, and the rule that chooses between them.

Legend: B batch, T time, H query heads, G key/value heads, R = H / G query heads of a group, K head
width, S key positions that a block of queries can see.

All of them divide scores by sqrt(K), take the softmax in float32, and let a query see keys of its own
segment, up to its own position when causal. Attention weights get no dropout: flash kernels never
hold them.

    xla      plain products in (batch, head, time, width) order, in which XLA on CPU runs them about
             twice as fast as in the order of `jax.nn.dot_product_attention`; holds T^2 weights.
    blocked  the same over blocks of queries, skipping the keys that the causal mask hides: half the
             work for long sequences. Keeps no weights: the backward pass computes a block's again.
             On CPU the batch goes in parts (see `_parts`).
    cudnn    the flash kernel of cuDNN on NVIDIA GPUs.
    splash   the flash kernel in Pallas for TPU, under `shard_map` on the mesh in force.
"""

import dataclasses
import functools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from scaling.ops import splash
from scaling.parallel.logical import active_rules

Implementation = Literal["auto", "xla", "blocked", "splash", "cudnn"]

# The name under which a rematerialisation policy finds the result (and splash's residuals).
SAVED_NAME = "attention_out"

# Finite, so that a row whose keys are all hidden stays free of NaN, in its gradient too.
HIDDEN = -1e30

# `auto` in order of preference, by platform; the first that can serve the call is taken.
PREFERENCE: dict[str, tuple[Implementation, ...]] = {
    "cpu": ("blocked", "xla"),
    "gpu": ("cudnn", "blocked", "xla"),
    "tpu": ("splash", "blocked", "xla"),
}
BLOCKED_MIN_LENGTH = 128  # below it, `auto` does not think that skipping pays for the slicing
BLOCKED_MIN_BLOCK, BLOCKED_MAX_BLOCKS = 64, 8
MAX_PARTS = 8  # of a batch on CPU; with more it compiles longer and runs no faster


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
    interpret: bool = False,
) -> jax.Array:
    """softmax(q k^T / sqrt(K)) v, [B, T, H, K] of the type of q.

    Args:
      q_BTHK: queries.
      k_BTGK: keys; head h of the queries reads head h // (H / G).
      v_BTGK: values.
      causal: whether keys after the query are hidden.
      segments_BT: int32 document of each token; queries see only keys of their own.
      softcap: c in c * tanh(score / c) before the mask; None leaves scores alone.
      implementation: see the module; `auto` takes the first of `PREFERENCE` that can serve.
      platform: where the compiled code will run: "cpu", "gpu" or "tpu".
      interpret: run splash in the Pallas interpreter, on any platform (for tests).

    Raises:
      ValueError: an explicit implementation cannot serve this call; says why.
    """
    call = Call(
        length=q_BTHK.shape[1],
        width=q_BTHK.shape[3],
        dtype=jnp.dtype(q_BTHK.dtype).name,
        causal=causal,
        segments=segments_BT is not None,
        softcap=softcap,
        platform=platform,
        interpret=interpret,
    )
    chosen = choose(implementation, call)
    arguments = (q_BTHK, k_BTGK, v_BTGK, segments_BT)
    if chosen == "splash":  # names its own result
        return splash.splash(
            *arguments, causal=causal, softcap=softcap, interpret=interpret, name=SAVED_NAME
        )
    if chosen == "cudnn":
        out_BTHK = jax.nn.dot_product_attention(
            q_BTHK, k_BTGK, v_BTGK, is_causal=causal, implementation="cudnn"
        )
    elif chosen == "blocked":
        out_BTHK = _blocked(*arguments, softcap=softcap, parts=_parts(len(q_BTHK), platform))
    else:
        out_BTHK = _plain(*arguments, causal=causal, softcap=softcap)
    return checkpoint_name(out_BTHK, SAVED_NAME)


def attention_to_cache(
    q_BTHK: jax.Array,
    k_BSGK: jax.Array,
    v_BSGK: jax.Array,
    start: jax.Array,
    softcap: float | None = None,
) -> jax.Array:
    """Attention of new tokens to a cache that holds them and all tokens before them.

    Args:
      q_BTHK: queries of tokens start, start + 1, ...
      k_BSGK: keys of tokens 0 to S - 1; those after a query are hidden from it.
      v_BSGK: values.
      start: int32[].
      softcap: as of `attention`.
    """
    return _plain(q_BTHK, k_BSGK, v_BSGK, causal=True, softcap=softcap, first=start)


def cross_attention(
    q_BTHK: jax.Array,
    k_BSGK: jax.Array,
    v_BSGK: jax.Array,
    visible_BS: jax.Array,
    softcap: float | None = None,
) -> jax.Array:
    """Attention of every query to those keys of its row that are visible, by plain products.

    Args:
      q_BTHK: queries.
      k_BSGK: keys, of another sequence than the queries.
      v_BSGK: values.
      visible_BS: bool; where a row has none, all keys count alike.
      softcap: as of `attention`.
    """
    qkv = (q_BTHK, k_BSGK, v_BSGK)
    out_BTHK = _plain(*qkv, causal=False, softcap=softcap, visible_BS=visible_BS)
    return checkpoint_name(out_BTHK, SAVED_NAME)


@dataclasses.dataclass(frozen=True)
class Call:
    """What the choice of an implementation depends on; fields as in `attention`."""

    length: int
    width: int
    dtype: str
    causal: bool
    segments: bool
    softcap: float | None
    platform: str
    interpret: bool = False


def choose(implementation: Implementation, call: Call) -> Implementation:
    """Resolves `auto`, or confirms an explicit choice.

    Raises:
      ValueError: the explicit choice cannot serve the call, or the platform is unknown.
    """
    if call.platform not in PREFERENCE:
        raise ValueError(f"attention: platform {call.platform!r} is none of {list(PREFERENCE)}")
    if implementation != "auto":
        reason = refusal(implementation, call)
        if reason:
            raise ValueError(
                f"model.attention={implementation!r} cannot serve this model: {reason}; "
                "use model.attention='auto'"
            )
        return implementation
    for name in PREFERENCE[call.platform]:
        if name == "blocked" and call.length < BLOCKED_MIN_LENGTH:
            continue
        if not refusal(name, call):
            return name
    return "xla"


def refusal(implementation: Implementation, call: Call) -> str | None:
    """Why an implementation cannot serve a call, or None when it can."""
    if implementation == "blocked" and not call.causal:
        return "it skips what a causal mask hides, and this attention is not causal"
    if implementation == "splash":
        if call.platform != "tpu" and not call.interpret:
            return f"it is a TPU kernel and the platform is {call.platform}"
        if call.length % splash.LANES:
            return f"the length {call.length} is not a multiple of {splash.LANES}"
    if implementation == "cudnn":
        if call.platform != "gpu":
            return f"it is an NVIDIA kernel and the platform is {call.platform}"
        if call.dtype not in ("bfloat16", "float16"):
            return f"it computes in 16 bits and the type is {call.dtype}"
        if call.width % 8 or call.width > 128:
            return f"the head width {call.width} is not a multiple of 8 up to 128"
        if call.length % 2:
            return f"the length {call.length} is odd, which its backward pass does not take"
        if call.segments:
            return "it does not take segments (data.text.mask_documents)"
        if call.softcap is not None:
            return "it has no soft-cap (model.attention_softcap)"
    return None


def _plain(
    q_BTHK: jax.Array,
    k_BTGK: jax.Array,
    v_BTGK: jax.Array,
    segments_BT: jax.Array | None = None,
    *,
    causal: bool,
    softcap: float | None,
    first: int | jax.Array = 0,
    visible_BS: jax.Array | None = None,
) -> jax.Array:
    q_BGRTK, k_BGSK, v_BGSK = _head_major(q_BTHK, k_BTGK, v_BTGK)
    score_BGRTS, _ = _scores(q_BGRTK, k_BGSK, softcap)
    score_BGRTS = _hide(score_BGRTS, first, causal, segments_BT)
    if visible_BS is not None:
        score_BGRTS = jnp.where(visible_BS[:, None, None, None], score_BGRTS, HIDDEN)
    return _time_major(_average(score_BGRTS, v_BGSK))


@jax.custom_vjp
def _average(score_BGRTS: jax.Array, v_BGSK: jax.Array) -> jax.Array:
    """The values, averaged with the softmax of the scores as weights."""
    return _average_forward(score_BGRTS, v_BGSK)[0]


def _average_forward(score_BGRTS: jax.Array, v_BGSK: jax.Array) -> tuple[jax.Array, Any]:
    weight_BGRTS = jax.nn.softmax(score_BGRTS, axis=-1)
    out_BGRTK = jnp.einsum("bgrts,bgsk->bgrtk", weight_BGRTS.astype(v_BGSK.dtype), v_BGSK)
    return out_BGRTK, (weight_BGRTS, v_BGSK, out_BGRTK)


def _average_backward(kept: tuple[jax.Array, ...], grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    # A rule of its own, for the sum over keys in the derivative of a softmax is slow on CPU.
    weight, v, out = kept
    einsum = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    grad_score = weight * (einsum("bgrtk,bgsk->bgrts", grad, v) - _row_sums(grad, out))
    return grad_score, einsum("bgrts,bgrtk->bgsk", weight.astype(v.dtype), grad).astype(v.dtype)


_average.defvjp(_average_forward, _average_backward)


def _row_sums(grad_BGRTK: jax.Array, out_BGRTK: jax.Array) -> jax.Array:
    """sum_s weight * d weight of every row, without the weights: section 3.1 of FlashAttention-2."""
    grad, out = grad_BGRTK.astype(jnp.float32), out_BGRTK.astype(jnp.float32)
    return jnp.sum(grad * out, axis=-1, keepdims=True)


def _parts(batch: int, platform: str) -> int:
    """Into how many parts of equal size attention cuts a batch.

    XLA on CPU keeps a batched product on one core, however many there are, but runs independent
    products side by side; and the scores of a part stay in a core's cache. Not on a mesh, which has
    cut the batch itself.
    """
    active = active_rules()
    if platform != "cpu" or (active is not None and active[0].size > 1):
        return 1
    return max(parts for parts in range(1, MAX_PARTS + 1) if batch % parts == 0)


def _blocked(
    q_BTHK: jax.Array,
    k_BTGK: jax.Array,
    v_BTGK: jax.Array,
    segments_BT: jax.Array | None,
    *,
    softcap: float | None,
    parts: int,
) -> jax.Array:
    """n blocks of queries, each with the keys up to its end: (n + 1) / 2n of the products."""
    # Slices would have as their gradient a sum of arrays padded to the batch; `split` concatenates.
    split = [jnp.split(x, parts) for x in (q_BTHK, k_BTGK, v_BTGK)]
    segments = [None] * parts if segments_BT is None else jnp.split(segments_BT, parts)
    outs = [
        _time_major(_flash(softcap, *_head_major(q, k, v), own))
        for q, k, v, own in zip(*split, segments, strict=True)
    ]
    return jnp.concatenate(outs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _flash(
    softcap: float | None,
    q_BGRTK: jax.Array,
    k_BGSK: jax.Array,
    v_BGSK: jax.Array,
    segments_BT: jax.Array | None,
) -> jax.Array:
    """Causal attention whose backward pass needs its result and normalisers, not its weights.

    The products of FlashAttention-2 (Dao 2023, 2307.08691, algorithms 1 and 2), with blocks of
    queries alone: a row of scores is short enough to hold.
    """
    return _flash_forward(softcap, q_BGRTK, k_BGSK, v_BGSK, segments_BT)[0]


def _flash_forward(
    softcap: float | None,
    q_BGRTK: jax.Array,
    k_BGSK: jax.Array,
    v_BGSK: jax.Array,
    segments_BT: jax.Array | None,
) -> tuple[jax.Array, Any]:
    outs, norms = [], []
    for first, end in _blocks(q_BGRTK.shape[3]):
        score_BGRTS, _ = _scores(q_BGRTK[:, :, :, first:end], k_BGSK[:, :, :end], softcap)
        score_BGRTS = _hide(score_BGRTS, first, True, segments_BT)
        norm_BGRT1 = jax.nn.logsumexp(score_BGRTS, axis=-1, keepdims=True)
        weight_BGRTS = jnp.exp(score_BGRTS - norm_BGRT1).astype(v_BGSK.dtype)
        outs.append(jnp.einsum("bgrts,bgsk->bgrtk", weight_BGRTS, v_BGSK[:, :, :end]))
        norms.append(norm_BGRT1)
    out_BGRTK, norm_BGRT1 = jnp.concatenate(outs, axis=3), jnp.concatenate(norms, axis=3)
    return out_BGRTK, (q_BGRTK, k_BGSK, v_BGSK, segments_BT, out_BGRTK, norm_BGRT1)


def _flash_backward(
    softcap: float | None, residuals: tuple[jax.Array, ...], grad_BGRTK: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, None]:
    q_BGRTK, k_BGSK, v_BGSK, segments_BT, out_BGRTK, norm_BGRT1 = residuals
    sum_BGRT1 = _row_sums(grad_BGRTK, out_BGRTK)
    grad_q = []
    grad_k = jnp.zeros(k_BGSK.shape, jnp.float32)
    grad_v = jnp.zeros(v_BGSK.shape, jnp.float32)
    einsum = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    for first, end in _blocks(q_BGRTK.shape[3]):
        q, g = q_BGRTK[:, :, :, first:end], grad_BGRTK[:, :, :, first:end]
        k, v = k_BGSK[:, :, :end], v_BGSK[:, :, :end]
        score, slope = _scores(q, k, softcap)
        score = _hide(score, first, True, segments_BT)
        weight = jnp.exp(score - norm_BGRT1[:, :, :, first:end])
        grad_weight = einsum("bgrtk,bgsk->bgrts", g, v)
        grad_score = weight * (grad_weight - sum_BGRT1[:, :, :, first:end]) * slope
        grad_score = grad_score.astype(q.dtype)
        grad_q.append(jnp.einsum("bgrts,bgsk->bgrtk", grad_score, k))
        grad_k = grad_k.at[:, :, :end].add(einsum("bgrts,bgrtk->bgsk", grad_score, q))
        grad_v = grad_v.at[:, :, :end].add(einsum("bgrts,bgrtk->bgsk", weight.astype(g.dtype), g))
    dtype = q_BGRTK.dtype
    return jnp.concatenate(grad_q, axis=3), grad_k.astype(dtype), grad_v.astype(dtype), None


_flash.defvjp(_flash_forward, _flash_backward)


def _blocks(length: int) -> list[tuple[int, int]]:
    """(first, end) of each block of queries."""
    block = max(BLOCKED_MIN_BLOCK, math.ceil(length / BLOCKED_MAX_BLOCKS))
    return [(first, min(first + block, length)) for first in range(0, length, block)]


def _scores(
    q_BGRTK: jax.Array, k_BGSK: jax.Array, softcap: float | None
) -> tuple[jax.Array, jax.Array | float]:
    """Scores in float32, and their derivative by the plain product q k^T."""
    scale = 1.0 / math.sqrt(q_BGRTK.shape[-1])
    score_BGRTS = scale * jnp.einsum(
        "bgrtk,bgsk->bgrts", q_BGRTK, k_BGSK, preferred_element_type=jnp.float32
    )
    if softcap is None:
        return score_BGRTS, scale
    squashed_BGRTS = jnp.tanh(score_BGRTS / softcap)
    return squashed_BGRTS * softcap, (1.0 - jnp.square(squashed_BGRTS)) * scale


def _hide(
    score_BGRTS: jax.Array, first: int | jax.Array, causal: bool, segments_BT: jax.Array | None
) -> jax.Array:
    """Masks the scores of queries at positions first, first + 1, ... to keys at 0, 1, ..."""
    queries, keys = score_BGRTS.shape[3:]
    if causal:
        t = jax.lax.broadcasted_iota(jnp.int32, score_BGRTS.shape, 3) + first
        s = jax.lax.broadcasted_iota(jnp.int32, score_BGRTS.shape, 4)
        score_BGRTS = jnp.where(s <= t, score_BGRTS, HIDDEN)
    if segments_BT is not None:
        own_BT1 = segments_BT[:, first : first + queries, None]
        same_BTS = own_BT1 == segments_BT[:, None, :keys]
        score_BGRTS = jnp.where(same_BTS[:, None, None], score_BGRTS, HIDDEN)
    return score_BGRTS


def _head_major(
    q_BTHK: jax.Array, k_BTGK: jax.Array, v_BTGK: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    batch, length, heads, width = q_BTHK.shape
    groups = k_BTGK.shape[2]
    q_BTGRK = q_BTHK.reshape(batch, length, groups, heads // groups, width)
    k_BGSK, v_BGSK = k_BTGK.transpose(0, 2, 1, 3), v_BTGK.transpose(0, 2, 1, 3)
    return q_BTGRK.transpose(0, 2, 3, 1, 4), k_BGSK, v_BGSK


def _time_major(out_BGRTK: jax.Array) -> jax.Array:
    batch, groups, rest, length, width = out_BGRTK.shape
    return out_BGRTK.transpose(0, 3, 1, 2, 4).reshape(batch, length, groups * rest, width)
