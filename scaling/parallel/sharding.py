"""Where every array of a train state lives.

Parameters follow their logical axis names; parameters without names are split by a safe default;
optimizer state follows the parameter it belongs to. A dimension that does not divide its mesh axis
is an error, never a silent copy on every device.
"""

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax.core.meta import Partitioned
from jax.sharding import NamedSharding, PartitionSpec

from scaling.experiment import MeshConfig
from scaling.parallel import logical
from scaling.parallel.axes import axes_with, rules

PyTree = Any


class ShardingError(ValueError):
    """An array that the mesh cannot hold as its names ask."""


def path_name(path: Sequence[Any]) -> str:
    """A key path as `params/block/kernel`."""
    return jax.tree_util.keystr(tuple(path), simple=True, separator="/")


def waived(name: str, waivers: Sequence[str]) -> bool:
    """Whether a pattern of `mesh.allow_replicated` covers this path."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in waivers)


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def unbox(tree: PyTree) -> PyTree:
    """The tree without the boxes that hold axis names (no sharding constraint is added)."""
    return jax.tree.map(_value, tree, is_leaf=_is_box)


def axis_names(boxed: PyTree) -> PyTree:
    """The logical axis names of every array, shaped like the unboxed tree; None without names."""
    return jax.tree.map(_names, boxed, is_leaf=_is_box)


def param_shardings(boxed: PyTree, mesh: jax.sharding.Mesh, config: MeshConfig) -> PyTree:
    """Shardings of freshly made variables, shaped like the unboxed ones.

    `boxed` are abstract variables (`jax.eval_shape(init, key)`), annotated leaves in flax boxes.

    Raises:
      ShardingError: a dimension does not divide its mesh axis and no waiver covers it.
    """
    table = rules(config)

    def place(
        path: jax.tree_util.KeyPath, box: Partitioned | jax.ShapeDtypeStruct
    ) -> NamedSharding:
        x, axes = _value(box), _names(box)
        if axes is None:
            partition = _default_spec(x.shape, x.dtype, mesh, config.shard_bytes)
        else:
            partition = _named_spec(
                path_name(path), x.shape, axes, table, mesh, config.allow_replicated
            )
        return NamedSharding(mesh, partition)

    return jax.tree_util.tree_map_with_path(place, boxed, is_leaf=_is_box)


def state_shardings(state: PyTree, placed: Mapping[str, PyTree], mesh: jax.sharding.Mesh) -> PyTree:
    """Shardings of a whole train state.

    Every collection of the task is placed as its names ask. An array whose path ends in the path of
    a parameter (optimizer moments, averages) is placed like it if it has its shape; if it lacks one
    dimension (row and column statistics of Adafactor), like it without that dimension. Everything
    else (counters, keys) is replicated.

    Args:
      state: abstract state with the attributes `params`, `frozen` and `model_state`.
      placed: shardings of the task's variables, by collection.
    """
    shapes = jax.tree_util.tree_flatten_with_path(state.params)[0]
    known = {
        tuple(path): (x.shape, sharding.spec)
        for (path, x), sharding in zip(shapes, jax.tree.leaves(placed["params"]), strict=True)
    }

    def place(path: tuple[Any, ...], x: Any) -> NamedSharding:
        for start in range(len(path)):
            if path[start:] in known:
                return NamedSharding(mesh, _derived_spec(x.shape, *known[path[start:]]))
        return replicated(mesh)

    derived = jax.tree_util.tree_map_with_path(place, state)
    collections = {name: placed[name] for name in state.model_state}
    return derived.replace(model_state=collections, frozen=placed.get("frozen", {}))


def _is_box(x: Any) -> bool:
    return isinstance(x, Partitioned)


def _value(x: Any) -> Any:
    return x.value if _is_box(x) else x


def _names(x: object) -> tuple[str | None, ...] | None:
    return tuple(x.names) if isinstance(x, Partitioned) else None


def _named_spec(
    name: str,
    shape: tuple[int, ...],
    axes: tuple[str | None, ...],
    table: logical.Rules,
    mesh: jax.sharding.Mesh,
    waivers: Sequence[str],
) -> PartitionSpec:
    """The spec that the names ask for; waived dimensions that do not divide stay whole."""
    if len(axes) != len(shape):
        raise ShardingError(f"{name}: {len(axes)} axis names {axes} for shape {shape}")
    try:
        partition = logical.spec(axes, table)
    except ValueError as error:
        raise ShardingError(f"{name}: {error}") from None
    bad = logical.indivisible(shape, partition, mesh)
    if bad and not waived(name, waivers):
        dim = bad[0]
        on = "*".join(logical.axes_of(partition[dim]))
        raise ShardingError(
            f"{name}: dimension {dim} ({axes[dim]!r}) of {shape} is {shape[dim]}, which mesh axis "
            f"{on} of size {logical.parts(partition[dim], mesh)} does not divide. Change the size "
            f"or mesh.{on.split('*')[-1]}, or give {axes[dim]!r} another rule in mesh.rules, or "
            f"let this array be whole along it with mesh.allow_replicated=({name!r},)"
        )
    return PartitionSpec(*(None if i in bad else entry for i, entry in enumerate(partition)))


def _default_spec(
    shape: tuple[int, ...], dtype: Any, mesh: jax.sharding.Mesh, shard_bytes: int
) -> PartitionSpec:
    """Un-annotated: the largest dimension that divides goes to the first axis of parameters in use.

    Small arrays are replicated. A large one that cannot be split is left to the audit.
    """
    if np.prod(shape, dtype=np.int64) * np.dtype(dtype).itemsize < shard_bytes:
        return PartitionSpec()
    of_parameters = axes_with("parameters")
    axis = next((axis for axis in of_parameters if mesh.shape[axis] > 1), of_parameters[0])
    dims = [dim for dim, size in enumerate(shape) if size % mesh.shape[axis] == 0]
    if not dims:
        return PartitionSpec()
    # The last of the largest: fan-out, as `embed -> fsdp` keeps matmul inputs whole in the forward.
    chosen = max(dims, key=lambda dim: (shape[dim], dim))
    return PartitionSpec(*(axis if dim == chosen else None for dim in range(len(shape))))


def _derived_spec(
    shape: tuple[int, ...], parameter: tuple[int, ...], partition: PartitionSpec
) -> PartitionSpec:
    if shape == parameter:
        return partition
    entries = list(partition) + [None] * (len(parameter) - len(partition))
    for dim in range(len(parameter)):
        if shape == parameter[:dim] + parameter[dim + 1 :]:
            return PartitionSpec(*entries[:dim], *entries[dim + 1 :])
    return PartitionSpec()
