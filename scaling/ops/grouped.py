"""Products of rows with the matrix of their group, and the dispatch of tokens to experts.

Legend: N tokens, D model width, K experts of a token, M = N * K rows, E experts, F hidden width of an
expert, J blocks of R rows.

Dropless: rows are sorted by expert, and every expert gets as many as chose it. On accelerators that
is `jax.lax.ragged_dot`. Elsewhere JAX 0.10 lowers it to products of all rows with all experts, E
times the work and an array [E, M, D]; on CPU the sorted rows are therefore cut into blocks of one
expert each, the last of an expert filled up with zeros. With R rows a block these are at most
M / R + E blocks, known before the run. Measured 2026-11-26 with JAX 0.10.2 on 2 shared CPU cores,
4,096 rows, 8 experts of 128 x 172, product and both gradients: 20 ms in blocks, 100 ms by `ragged_dot`,
10 ms of one dense kernel for all rows (XLA counts 1.26, 8.2 and 1 times the work). A GPU ran
`ragged_dot` in `experiments/moe.py`; no TPU ran it yet.

On a mesh every device sorts its own rows. Experts that are split over an axis that does not split the
batch are each computed where they are, and so are hidden units; one sum over that axis follows. With
experts split a device has room for all its rows, since all may choose its experts: `ragged_dot` skips
those that did not, blocks do not. Splitting hidden units (`mlp`, the default rule) is even at any load.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from scaling.parallel.axes import Rules
from scaling.parallel.logical import active_rules, axes_of, check_divides, no_rules, spec

# The name under which a rematerialisation policy finds what the up (and gate) products gave.
SAVED_NAME = "experts_hidden"
MIN_BLOCK, MAX_BLOCK = 8, 128
BLOCKS_PER_EXPERT = 4  # of the mean; more waste less work on zeros and copy more weights

KERNEL_AXES = (("experts", "embed", "mlp"), ("experts", "mlp", "embed"))

# hidden units of the products with the up kernels, [M, F] each -> [M, F]
Activate = Callable[..., jax.Array]


def grouped_matmul(
    x_MD: jax.Array, kernel_EDF: jax.Array, sizes_E: jax.Array, platform: str
) -> jax.Array:
    """y_m = x_m @ kernel[group of m], [M, F]; rows behind the last group give zeros.

    Args:
      x_MD: rows sorted by group, of the compute type.
      kernel_EDF: of the compute type.
      sizes_E: int32 rows of each group; sums to at most M.
      platform: where it runs: "cpu", "gpu" or "tpu".
    """
    if platform == "cpu":
        return _in_blocks(x_MD, kernel_EDF, sizes_E)
    # What `ragged_dot` and its gradient give behind the last group is not documented.
    inside_M1 = (jnp.arange(x_MD.shape[0]) < jnp.sum(sizes_E))[:, None]
    y_MF = jax.lax.ragged_dot(jnp.where(inside_M1, x_MD, 0), kernel_EDF, sizes_E)
    return jnp.where(inside_M1, y_MF, 0)


def _in_blocks(x_MD: jax.Array, kernel_EDF: jax.Array, sizes_E: jax.Array) -> jax.Array:
    rows, experts = x_MD.shape[0], kernel_EDF.shape[0]
    size = block_size(rows, experts)
    blocks_E = -(-sizes_E // size)
    ends_E, block_ends_E = jnp.cumsum(sizes_E), jnp.cumsum(blocks_E)
    starts_E, block_starts_E = ends_E - sizes_E, block_ends_E - blocks_E

    block_J = jnp.arange(rows // size + experts)
    expert_J = _group(block_ends_E, block_J)
    first_J = starts_E[expert_J] + (block_J - block_starts_E[expert_J]) * size
    row_JR = first_J[:, None] + jnp.arange(size)[None]
    # Behind the rows of its expert a slot is empty, and so is every block that is left over.
    row_JR = jnp.where(row_JR < ends_E[expert_J][:, None], row_JR, rows)
    x_JRD = x_MD.at[row_JR].get(mode="fill", fill_value=0)
    y_JRF = jnp.einsum("jrd,jdf->jrf", x_JRD, kernel_EDF[expert_J])

    row_M = jnp.arange(rows)
    expert_M = _group(ends_E, row_M)
    slot_M = block_starts_E[expert_M] * size + row_M - starts_E[expert_M]
    slot_M = jnp.where(row_M < ends_E[-1], slot_M, block_J.shape[0] * size)
    return y_JRF.reshape(-1, y_JRF.shape[-1]).at[slot_M].get(mode="fill", fill_value=0)


def block_size(rows: int, experts: int) -> int:
    """Rows of a block: a power of two, so that an expert has about `BLOCKS_PER_EXPERT`."""
    size = MIN_BLOCK
    while size < MAX_BLOCK and 2 * size * BLOCKS_PER_EXPERT * experts <= rows:
        size *= 2
    return size


def _group(ends_E: jax.Array, index: jax.Array) -> jax.Array:
    """The group that each index falls into; the last one for those behind all."""
    group = jnp.searchsorted(ends_E, index, side="right", method="compare_all")
    return jnp.minimum(group, ends_E.shape[0] - 1)


def experts(
    x_BTD: jax.Array,
    chosen_BTK: jax.Array,
    weights_BTK: jax.Array,
    ups: Sequence[jax.Array],
    down_EFD: jax.Array,
    activate: Activate,
    platform: str,
) -> jax.Array:
    """sum_k weight_k * down(activate(x @ up, ...)) of the chosen experts, [B, T, D].

    Args:
      x_BTD: of the compute type.
      chosen_BTK: int32, distinct experts of each token.
      weights_BTK: what their outputs are multiplied by.
      ups: one or two kernels [E, D, F] of the compute type.
      down_EFD: likewise.
      activate: hidden units of what the ups gave.
      platform: where it runs.

    Raises:
      ValueError: a split dimension does not divide its mesh axes.
    """
    active = active_rules()
    if active is None or active[0].size == 1:
        return _local(x_BTD, chosen_BTK, weights_BTK, ups, down_EFD, activate, platform)
    mesh, rules = active
    rows = spec(("batch", "length", None), rules)
    check_divides("the tokens of experts (batch, length)", x_BTD.shape, rows, mesh)
    up_spec, down_spec = (_kernel_spec(axes, rules, rows) for axes in KERNEL_AXES)
    check_divides("kernels of experts (experts, embed, mlp)", ups[0].shape, up_spec, mesh)
    split = axes_of(up_spec[0])  # axes over which experts are split
    summed = tuple(sorted({*split, *axes_of(up_spec[2]), *axes_of(down_spec[0])}))

    def shard(
        x: jax.Array, chosen: jax.Array, weights: jax.Array, ups: list[jax.Array], down: jax.Array
    ) -> jax.Array:
        with no_rules():
            if split:
                chosen = chosen - jax.lax.axis_index(split) * down.shape[0]
            y_BTD = _local(x, chosen, weights, ups, down, activate, platform)
            return jax.lax.psum(y_BTD, summed) if summed else y_BTD

    return jax.shard_map(
        shard,
        mesh=mesh,
        in_specs=(rows, rows, rows, [up_spec] * len(ups), down_spec),
        out_specs=rows,
        check_vma=False,  # as in attention: kernels' outputs carry no replication type
    )(x_BTD, chosen_BTK, weights_BTK, list(ups), down_EFD)


def _kernel_spec(axes: Sequence[str], rules: Rules, rows: PartitionSpec) -> PartitionSpec:
    """How the products want a kernel: whole in the model width, and over axes that split tokens."""
    taken = {axis for entry in rows for axis in axes_of(entry)}
    partition = spec([None if name == "embed" else name for name in axes], rules)
    return PartitionSpec(
        *(
            tuple(axis for axis in axes_of(entry) if axis not in taken) or None
            for entry in partition
        )
    )


def _local(
    x_BTD: jax.Array,
    chosen_BTK: jax.Array,
    weights_BTK: jax.Array,
    ups: Sequence[jax.Array],
    down_EFD: jax.Array,
    activate: Activate,
    platform: str,
) -> jax.Array:
    """The part of the experts that are here: numbers outside of [0, E) are elsewhere."""
    width, per_token, count = x_BTD.shape[-1], chosen_BTK.shape[-1], down_EFD.shape[0]
    chosen_M = chosen_BTK.reshape(-1)
    chosen_M = jnp.where((chosen_M >= 0) & (chosen_M < count), chosen_M, count)
    order_M = jnp.argsort(chosen_M, stable=True)
    sizes_E = jnp.sum(chosen_M[None] == jnp.arange(count)[:, None], axis=1, dtype=jnp.int32)
    x_MD = x_BTD.reshape(-1, width)[order_M // per_token]
    products = [
        checkpoint_name(grouped_matmul(x_MD, up_EDF, sizes_E, platform), SAVED_NAME)
        for up_EDF in ups
    ]
    y_MD = grouped_matmul(activate(*products), down_EFD, sizes_E, platform)
    # Back in the order of tokens: a gather, and in its gradient another, nothing is added up.
    y_NKD = y_MD[jnp.argsort(order_M)].reshape(-1, per_token, width)
    weights_NK = weights_BTK.reshape(-1, per_token).astype(y_MD.dtype)
    return jnp.einsum("nkd,nk->nd", y_NKD, weights_NK).reshape(x_BTD.shape)
