"""The sharding audit: what is large, where it lives, and whether anybody decided that.

A model that compiles can still waste a cluster: one big array without a rule is copied to every
device. The audit lists large arrays and refuses such copies unless `mesh.allow_replicated` allows them.
"""

import math
from typing import Any, NamedTuple

import jax
import numpy as np

from scaling.experiment import MeshConfig
from scaling.parallel import logical
from scaling.parallel.axes import axes_with
from scaling.parallel.sharding import PyTree, ShardingError, path_name, waived
from scaling.track.progress import aligned


class Row(NamedTuple):
    """One large array.

    Attributes:
      path: where in the tree, `params/block/kernel`.
      spec: its PartitionSpec, as text.
      bytes_per_device: of one device's part.
      problem: what is wrong with it; empty if nothing.
      waived: whether a pattern of `mesh.allow_replicated` covers it.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    spec: str
    bytes: int
    bytes_per_device: int
    problem: str
    waived: bool


def audit(
    tree: PyTree, shardings: PyTree, mesh: jax.sharding.Mesh, config: MeshConfig
) -> list[Row]:
    """Checks every array of a state and lists the large ones, largest share of a device first.

    Raises:
      ShardingError: some array (of any size) does not divide its mesh axes, or one of
        `mesh.large_bytes` is replicated over `fsdp` or `tensor` though no rule says so, and no
        waiver covers it. All such arrays are named.
    """
    rows, failed = [], []
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    for (path, x), sharding in zip(leaves, jax.tree.leaves(shardings), strict=True):
        row = _row(path_name(path), x, sharding, mesh, config)
        if row.problem and not row.waived:
            failed.append(row)
        if row.bytes >= config.large_bytes:
            rows.append(row)
    if failed:
        lines = [f"  {row.path} {row.shape} {row.spec}: {row.problem}" for row in failed]
        raise ShardingError(
            f"sharding audit: {len(failed)} arrays on mesh {dict(mesh.shape)}\n"
            + "\n".join(lines)
            + "\nGive their dimensions names with rules (mesh.rules), change the mesh, or allow "
            "them: mesh.allow_replicated=('pattern of paths',)"
        )
    return sorted(rows, key=lambda row: (-row.bytes_per_device, row.path))


def format_rows(rows: list[Row]) -> str:
    """The rows as an aligned table, with their sum."""
    cells = [("array", "shape", "type", "spec", "MiB", "MiB/device", "")]
    for row in rows:
        shape = "x".join(map(str, row.shape))
        sizes = (f"{row.bytes / 2**20:.1f}", f"{row.bytes_per_device / 2**20:.1f}")
        note = f"waived: {row.problem}" if row.problem else ""
        cells.append((row.path, shape, row.dtype, row.spec, *sizes, note))
    total = sum(row.bytes for row in rows) / 2**20
    per_device = sum(row.bytes_per_device for row in rows) / 2**20
    cells.append(("sum", "", "", "", f"{total:.1f}", f"{per_device:.1f}", ""))
    return aligned(cells, left=(0, 1, 2, 3, 6))


def _row(
    name: str,
    x: Any,
    sharding: jax.sharding.NamedSharding,
    mesh: jax.sharding.Mesh,
    config: MeshConfig,
) -> Row:
    shape, partition = tuple(x.shape), sharding.spec
    size = math.prod(shape) * np.dtype(x.dtype).itemsize
    split = math.prod(logical.parts(entry, mesh) for entry in partition)
    bad = logical.indivisible(shape, partition, mesh)
    problem = ""
    if bad:
        problem = f"dimension {bad[0]} is not divisible by {logical.parts(partition[bad[0]], mesh)}"
    elif size >= config.large_bytes and split == 1:
        problem = _copy_problem(partition, mesh)
    return Row(
        path=name,
        shape=shape,
        dtype=str(np.dtype(x.dtype)),
        spec=f"({', '.join('+'.join(logical.axes_of(e)) or '-' for e in partition)})",
        bytes=size,
        bytes_per_device=-(-size // split),
        problem=problem,
        waived=bool(problem) and waived(name, config.allow_replicated),
    )


def _copy_problem(partition: jax.sharding.PartitionSpec, mesh: jax.sharding.Mesh) -> str:
    """Why a large array that is whole on every device is a problem, if it is.

    Where an axis splits batch and parameters, no large array should be whole. An axis that splits
    parameters alone splits only what has a rule: an array that a rule gives to an axis of size 1
    (`embed` to `fsdp`) is whole by the choice of mesh, one that no rule places is whole by oversight.
    """
    both = [axis for axis in axes_with("batch", "parameters") if mesh.shape.get(axis, 1) > 1]
    if both:
        return f"large and copied to all devices, though mesh.{both[0]}={mesh.shape[both[0]]}"
    placed = any(logical.axes_of(entry) for entry in partition)
    split = [axis for axis in axes_with("parameters") if mesh.shape.get(axis, 1) > 1]
    if split and not placed:
        size = mesh.shape[split[0]]
        return f"large and copied to all devices, though mesh.{split[0]}={size}; no rule places it"
    return ""
