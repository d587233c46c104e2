"""Splash, the flash attention kernel in Pallas for TPU, under `shard_map`: each device's rows and heads.

Legend: as of `scaling.ops.attention`.
"""

import functools
import math
from typing import Any

import jax

from scaling.parallel.logical import active_rules, check_divides, no_rules, spec

LANES = 128  # a length is a multiple of it


def splash(
    q_BTHK: jax.Array,
    k_BTGK: jax.Array,
    v_BTGK: jax.Array,
    segments_BT: jax.Array | None,
    *,
    causal: bool,
    softcap: float | None,
    interpret: bool,
    name: str,
) -> jax.Array:
    """softmax(q k^T / sqrt(K)) v, [B, T, H, K], under the mesh and rules in force.

    Args:
      q_BTHK: queries.
      k_BTGK: keys.
      v_BTGK: values.
      segments_BT: as of `attention`, like causal and softcap.
      causal: see there.
      softcap: see there.
      interpret: run the kernel in the Pallas interpreter.
      name: under which a rematerialisation policy finds the result and the normalisers.

    Raises:
      ValueError: the rules split queries and keys in different ways, or the length.
    """
    q_BHTK, k_BGTK, v_BGTK = (x.transpose(0, 2, 1, 3) for x in (q_BTHK, k_BTGK, v_BTGK))
    q_BHTK = (q_BHTK / math.sqrt(q_BHTK.shape[-1])).astype(q_BHTK.dtype)
    local = functools.partial(
        _local, causal=causal, softcap=softcap, interpret=interpret, name=name
    )
    active = active_rules()
    if active is None:
        out_BHTK = local(q_BHTK, k_BGTK, v_BGTK, segments_BT)
        return out_BHTK.transpose(0, 2, 1, 3)

    mesh, rules = active
    q_spec = spec(("batch", "heads", "length", None), rules)
    kv_spec = spec(("batch", "kv_heads", "length", None), rules)
    if q_spec != kv_spec or q_spec[2] is not None:
        raise ValueError(
            "splash attention needs mesh.rules that split heads and kv_heads alike and leave "
            f"length whole; queries are split as {q_spec}, keys as {kv_spec}"
        )
    check_divides("splash attention's queries (batch, heads)", q_BHTK.shape, q_spec, mesh)
    check_divides("splash attention's keys (batch, kv_heads)", k_BGTK.shape, kv_spec, mesh)
    segments_spec = None if segments_BT is None else spec(("batch", "length"), rules)

    def shard(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array | None) -> jax.Array:
        with no_rules():
            return local(q, k, v, segments)

    out_BHTK = jax.shard_map(
        shard,
        mesh=mesh,
        in_specs=(q_spec, kv_spec, kv_spec, segments_spec),
        out_specs=q_spec,
        check_vma=False,  # the kernel's outputs carry no replication type
    )(q_BHTK, k_BGTK, v_BGTK, segments_BT)
    return out_BHTK.transpose(0, 2, 1, 3)


def _local(
    q_BHTK: jax.Array,
    k_BGTK: jax.Array,
    v_BGTK: jax.Array,
    segments_BT: jax.Array | None,
    *,
    causal: bool,
    softcap: float | None,
    interpret: bool,
    name: str,
) -> jax.Array:
    from jax.experimental.pallas.ops.tpu import splash_attention as kernels

    heads, length = q_BHTK.shape[1:3]
    block = next(b for b in (512, 256, LANES) if length % b == 0)
    shape = (length, length)
    mask: Any = kernels.CausalMask(shape) if causal else kernels.FullMask(shape)
    kernel = kernels.make_splash_mha_single_device(
        kernels.MultiHeadMask([mask] * heads),
        block_sizes=kernels.BlockSizes(
            block_q=block,
            block_kv=block,
            block_q_dkv=block,
            block_kv_dkv=block,
            block_q_dq=block,
            block_kv_dq=block,
        ),
        attn_logits_soft_cap=softcap,
        residual_checkpoint_name=name,
        interpret=interpret,
    )
    if segments_BT is None:
        return jax.vmap(kernel)(q_BHTK, k_BGTK, v_BGTK)
    ids = kernels.SegmentIds(q=segments_BT, kv=segments_BT)
    return jax.vmap(kernel)(q_BHTK, k_BGTK, v_BGTK, ids)
