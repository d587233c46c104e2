"""Cells in groups that train together in one program, as populations."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from scaling.train.population_key import population_key

if TYPE_CHECKING:
    from scaling.sweeps.design import Cell

__all__ = ["groups", "max_members", "population_key"]


def groups(cells: Sequence["Cell"], max_size: int) -> list[list["Cell"]]:
    """Cells in groups of one key, at most `max_size` in each, in the order in which they come.

    Raises:
      ValueError: max_size is below 1.
    """
    if max_size < 1:
        raise ValueError(f"max_size={max_size} must be at least 1")
    by_key: dict[str, list[Cell]] = {}
    for cell in cells:
        by_key.setdefault(population_key(cell.config), []).append(cell)
    found = []
    for members in by_key.values():
        # Of nearly equal size: a last group of one would waste what a population saves.
        count = -(-len(members) // max_size)
        bounds = [len(members) * i // count for i in range(count + 1)]
        found += [members[a:b] for a, b in itertools.pairwise(bounds)]
    return found


def max_members(config: Any, params: int, memory_bytes: int) -> int:
    """How many members fit into a device's memory, at least 1.

    Args:
      config: of any member.
      params: its parameters, `Cost.params`.
      memory_bytes: of the device, for the population.

    A state is taken as parameters and two moments in float32, and their average where
    `train.ema_decay` asks for it. Half of the memory is left for activations and for the copies
    that a step makes.
    """
    copies = 3 + (config.train.ema_decay is not None)
    return max(1, memory_bytes // 2 // (4 * copies * params))
