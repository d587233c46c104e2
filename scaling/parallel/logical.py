"""Logical axis names: what an array's dimensions mean, and which mesh axes split them.

Models name dimensions (`nn.with_partitioning(init, ("embed", "mlp"))`, `constrain(x, ("batch",
"length", "embed"))`); one table says where each name goes. A model never sees the mesh.
"""

import contextlib
import contextvars
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from scaling.configs.errors import nearest
from scaling.parallel.axes import Rules

Names = Sequence[str | None]
_active: contextvars.ContextVar[tuple[jax.sharding.Mesh, Rules] | None] = contextvars.ContextVar(
    "scaling_logical_rules", default=None
)


def spec(names: Names, rules: Rules) -> PartitionSpec:
    """The partition of an array whose dimensions have these names; one of None is never split.

    A mesh axis splits one dimension of an array at most; the first that asks gets it. Raises ValueError
    for a name that is not in the table.
    """
    taken: set[str] = set()
    entries: list[str | tuple[str, ...] | None] = []
    for name in names:
        if name is not None and name not in rules:
            near = nearest(name, rules, count=1)
            raise ValueError(
                f"logical axis {name!r} of {tuple(names)} has no rule"
                + (f"; nearest is {near[0]!r}" if near else "")
                + f". Add (({name!r}, None),) or a mesh axis to mesh.rules"
            )
        axes = tuple(axis for axis in rules[name] if axis not in taken) if name else ()
        taken.update(axes)
        entries.append(None if not axes else axes[0] if len(axes) == 1 else axes)
    return PartitionSpec(*entries)


@contextlib.contextmanager
def _within(active: tuple[jax.sharding.Mesh, Rules] | None) -> Iterator[None]:
    token = _active.set(active)
    try:
        yield
    finally:
        _active.reset(token)


def logical_rules(mesh: jax.sharding.Mesh, rules: Rules) -> AbstractContextManager[None]:
    """Within it (while tracing), `constrain` acts and `active_rules` answers."""
    return _within((mesh, rules))


def no_rules() -> AbstractContextManager[None]:
    """Within it `constrain` does nothing: for code that sees one shard (`jax.shard_map`)."""
    return _within(None)


def active_rules() -> tuple[jax.sharding.Mesh, Rules] | None:
    """The mesh and rules of the surrounding `logical_rules`, for kernels that split by hand."""
    return _active.get()


def constrain(x: jax.Array, names: Names) -> jax.Array:
    """Tells the compiler how an activation is split; without `logical_rules` returns `x`.

    Raises:
      ValueError: the wrong number of names, an unknown name, or a dimension that does not divide
        the mesh axes of its name.
    """
    active = _active.get()
    if active is None:
        return x
    mesh, table = active
    if len(names) != x.ndim:
        raise ValueError(f"constrain: {len(names)} names {tuple(names)} for shape {x.shape}")
    partition = spec(names, table)
    check_divides(f"activation {tuple(names)}", x.shape, partition, mesh)
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, partition))


def axes_of(entry: Any) -> tuple[str, ...]:
    """The mesh axes of one entry of a PartitionSpec."""
    return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)


def parts(entry: Any, mesh: jax.sharding.Mesh) -> int:
    """Into how many parts one entry of a PartitionSpec splits its dimension."""
    return math.prod(mesh.shape[axis] for axis in axes_of(entry))


def indivisible(
    shape: Sequence[int], partition: PartitionSpec, mesh: jax.sharding.Mesh
) -> list[int]:
    """Dimensions that their mesh axes do not divide."""
    return [
        dim
        for dim, (size, entry) in enumerate(zip(shape, partition, strict=False))
        if size % parts(entry, mesh)
    ]


def gathered(kernel: jax.Array, names: Names) -> jax.Array:
    """A parameter as a product wants it: whole over the axes that split the batch."""
    active = _active.get()
    if active is None or not is_split(kernel.shape, names):
        return kernel
    mesh, table = active
    batch = set(table["batch"])
    partition = [
        tuple(axis for axis in axes_of(entry) if axis not in batch) or None
        for entry in spec(names, table)
    ]
    return jax.lax.with_sharding_constraint(kernel, NamedSharding(mesh, PartitionSpec(*partition)))


def is_split(shape: Sequence[int], names: Names) -> bool:
    """Whether the surrounding `logical_rules` split a parameter; False if whole by waiver."""
    active = _active.get()
    if active is None:
        return False
    mesh, table = active
    partition = spec(names, table)
    split = any(parts(entry, mesh) > 1 for entry in partition)
    return split and not indivisible(shape, partition, mesh)


def check_divides(
    what: str, shape: Sequence[int], partition: PartitionSpec, mesh: jax.sharding.Mesh
) -> None:
    """Raises ValueError naming the array, the dimension, its size and the mesh axes."""
    for dim in indivisible(shape, partition, mesh):
        axes = "*".join(axes_of(partition[dim]))
        raise ValueError(
            f"{what}: dimension {dim} of {tuple(shape)} is {shape[dim]}, which mesh axis {axes} "
            f"of size {parts(partition[dim], mesh)} does not divide; change the size or the mesh"
        )
