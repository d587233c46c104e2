"""Communication in a compiled step: by kind, mesh axis and bytes, inside and across slices.

The text numbers devices by their place in the mesh; the members of a group differ in some mesh axes
and those are the axes that the bytes travel along.
"""

import dataclasses
import math
import re
from collections.abc import Sequence

import numpy as np

from scaling.planning import hlo
from scaling.planning.hlo import Instruction, Module

KINDS = (
    *("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all"),
    *("collective-permute", "collective-broadcast"),
)
_MESH_GROUPS = re.compile(
    r"replica_groups=mesh\[([^\]]*)\](?:,? ?device_ids=\(?([^ {]*)\)?)? *\{([^}]*)\}"
)
_IOTA_GROUPS = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_LIST_GROUPS = re.compile(r"replica_groups=(\{\{[\d,{}]*\}\}|\{\})")
_PAIRS = re.compile(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}")


@dataclasses.dataclass(frozen=True)
class Traffic:
    """All collectives of one kind along the same mesh axes.

    Attributes:
      kind: as in the text: "all-gather", ...; "send" between slices.
      axes: mesh axes that members of a group differ in, joined by "+"; "?" where it is not clear.
      across: whether a group spans slices.
      group: members of a group.
      count: how many run in a step.
      bytes: of whole results (all-gather: gathered; all-reduce: reduced), a device and step.
      wire_bytes: what a device sends for it by the ring algorithm.
    """

    kind: str
    axes: str
    across: bool
    group: int
    count: float
    bytes: float
    wire_bytes: float


def collectives(
    module: Module, mesh_shape: dict[str, int], slice_of: Sequence[int] | None = None
) -> list[Traffic]:
    """Communication of a program, most bytes first.

    `mesh_shape` is {axis: size}, the first axis varies slowest over device numbers; `slice_of` the
    slice of each device in the mesh's order (None: one slice).
    """
    places = np.arange(math.prod(mesh_shape.values())).reshape(tuple(mesh_shape.values()))
    totals: dict[tuple[str, str, bool, int], list[float]] = {}
    for computation, times in hlo.walk(module):
        seen: set[tuple[str, ...]] = set()
        for one, _ in hlo.within(module, computation):
            kind = one.opcode.removesuffix("-start")
            if kind not in KINDS and kind != "send":
                continue
            # The pieces of one asynchronous operation share channel and chain.
            chain = re.search(r'(?:chain_id|async_collective_name)="([^"]*)"', one.attributes)
            key = (kind, one.attribute("channel_id"), chain[1] if chain else one.name)
            if key in seen:
                continue
            seen.add(key)
            axes, group, across = _where(one, places, tuple(mesh_shape), slice_of)
            size = _bytes(one)
            total = totals.setdefault((kind, axes, across, group), [0.0, 0.0, 0.0])
            total[0] += times
            total[1] += times * size
            total[2] += times * size * _wire(kind, group)
    traffic = [Traffic(*key, *values) for key, values in totals.items()]
    return sorted(traffic, key=lambda traffic: -traffic.bytes)


def _bytes(one: Instruction) -> float:
    """Bytes of the whole result; of the operand for a reduce-scatter."""
    sizes = [array.bytes for array in one.type if array.size > 1 or len(one.type) == 1]
    if one.opcode == "all-reduce-start" or not one.opcode.endswith("-start"):
        return sum(sizes)
    # (operands, results, ...): the halves are equal, except of gathers and scatters
    return max(sizes, default=0.0) if len(sizes) <= 4 else sum(sizes) / 2


def _wire(kind: str, group: int) -> float:
    """Bytes that a device sends, per byte of `_bytes`, by rings."""
    share = (group - 1) / group
    if kind == "all-reduce":
        return 2 * share
    if kind == "reduce-scatter":
        return float(group - 1)  # its result is one part of the whole
    if kind in ("collective-permute", "collective-broadcast", "send"):
        return 1.0
    return share


def _where(
    one: Instruction, places: np.ndarray, names: tuple[str, ...], slice_of: Sequence[int] | None
) -> tuple[str, int, bool]:
    """(mesh axes, members of a group, whether it spans slices)."""
    if one.opcode.startswith("send"):
        return "across slices", 2, True
    groups = _groups(one, places.size)
    if groups is None:
        return "?", places.size, False
    varying: set[int] = set()
    for group in groups[:: max(1, len(groups) // 16)]:
        coordinates = np.stack(np.unravel_index(np.asarray(group), places.shape))
        if one.opcode.startswith("collective-permute"):
            varying |= {i for i, row in enumerate(coordinates) if row[0] != row[-1]}
        else:
            varying |= {i for i, row in enumerate(coordinates) if len(set(row.tolist())) > 1}
    across = slice_of is not None and any(len({slice_of[d] for d in g}) > 1 for g in groups)
    members = len(groups[0])
    if one.opcode.startswith("collective-permute"):
        members = math.prod(places.shape[i] for i in varying)
    return "+".join(names[i] for i in sorted(varying)) or "none", members, across


def _groups(one: Instruction, devices: int) -> list[list[int]] | None:
    """Members of every group by device number; None where the notation is not known."""
    text = one.attributes
    if match := _PAIRS.search(text):
        return [[int(n) for n in pair] for pair in re.findall(r"\{(\d+),(\d+)\}", match[1])] or None
    if match := _IOTA_GROUPS.search(text):
        shape, dims = _integers(match[1]), _integers(match[2])
        ids = np.arange(math.prod(dims)).reshape(dims)
        if match[3]:
            ids = ids.transpose(_integers(match[3]))
        return ids.reshape(shape).tolist()
    if match := _LIST_GROUPS.search(text):
        groups = [_integers(part) for part in re.findall(r"\{([\d,]+)\}", match[1])]
        return groups or [list(range(devices))]
    if match := _MESH_GROUPS.search(text):
        return _mesh_groups(match[1], match[2] or "", match[3])
    return None


def _mesh_groups(axes: str, order: str, along: str) -> list[list[int]] | None:
    """`mesh['a'=4,'b'=2] {'b'}`: groups along b; with an order of devices where one is given."""
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
    chosen = re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", along)
    if any(part for _, part, _ in chosen):
        return None  # a part of an axis
    ids = np.arange(math.prod(sizes.values()))
    if order:
        match = re.match(r"\[([\d,]+)\]T\(([\d,]+)\)", order.lstrip("("))
        if match is None:
            return None
        ids = ids.reshape(_integers(match[1])).transpose(_integers(match[2])).reshape(-1)
    grid, names = ids.reshape(tuple(sizes.values())), list(sizes)
    moved = [names.index(name) for name, _, _ in chosen]
    kept = [i for i in range(len(names)) if i not in moved]
    members = math.prod(grid.shape[i] for i in moved)
    return grid.transpose(kept + moved).reshape(-1, members).tolist()


def _integers(text: str) -> list[int]:
    return [int(n) for n in text.split(",") if n]
