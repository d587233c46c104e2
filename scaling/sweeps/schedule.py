"""Which cells run next and together: the schedule, which every worker computes alike.

Cells of one `population_key` make a unit: they train together in one program. A cell that branches
off a trunk waits until the trunk has its checkpoint at the branch point (`trunks`); if the trunk ends
without one, the cell runs from its own beginning.
"""

import itertools
from collections.abc import Mapping, Sequence

from scaling.sweeps import trunks
from scaling.sweeps.design import Cell
from scaling.sweeps.ledger import Ledger, State
from scaling.sweeps.sweep_dir import ENDS, SweepDir
from scaling.train.population_key import population_key

GROUP = 16  # cells that train in one program, at most
LEFT = ("pending", "preempted")


class Schedule:
    """The units of a sweep, most expensive first: lists of cell ids that run in one program."""

    def __init__(self, sweep: SweepDir, chosen: Sequence[str], group: int = GROUP) -> None:
        """Of the cells `chosen`, at most `group` in a unit; ConfigError if there is no such cell."""
        self.sweep, self.ledger = sweep, Ledger(sweep)
        units = groups([sweep.cell(cell) for cell in chosen], group)
        self.units = _by_cost(sweep, [[cell.id for cell in members] for members in units])

    def ready(self, tries: int) -> list[list[str]]:
        """The cells of each unit that can start now; units with failures come last."""
        states, tallies = self.ledger.states(tries), self.ledger.tallies()
        left = [
            [cell for cell in unit if states[cell] in LEFT and not self._blocked(cell, states)]
            for unit in self.units
        ]
        return sorted(
            (unit for unit in left if unit),
            key=lambda unit: max(tallies[cell].failed for cell in unit),
        )

    def waiting(self, tries: int) -> bool:
        """Whether a cell waits for its trunk."""
        states = self.ledger.states(tries)
        cells = itertools.chain.from_iterable(self.units)
        return any(states[cell] in LEFT and self._blocked(cell, states) for cell in cells)

    def _blocked(self, cell: str, states: Mapping[str, State]) -> bool:
        """Whether the cell's trunk has yet to reach the branch point."""
        branch = self.sweep.branches.get(cell)
        if branch is None or states[branch.trunk] in (*ENDS, "failed"):
            return False
        return not trunks.ready(self.sweep.cell_dir(branch.trunk), branch.step)


def groups(cells: Sequence[Cell], max_size: int) -> list[list[Cell]]:
    """Cells in groups of one `population_key`, at most `max_size` in each, in their order."""
    by_key: dict[str, list[Cell]] = {}
    for cell in cells:
        by_key.setdefault(population_key(cell.config), []).append(cell)
    result = []
    for members in by_key.values():
        # Of nearly equal size: a last group of one would waste what a population saves.
        count = -(-len(members) // max_size)
        bounds = [len(members) * i // count for i in range(count + 1)]
        result += [members[a:b] for a, b in itertools.pairwise(bounds)]
    return result


def parts(sweep: SweepDir, count: int) -> list[list[str]]:
    """The cells in `count` parts of about the same cost, each with the trunks that its cells need.

    The same on every host: a trunk with its branches goes to the part with the least cost so far,
    most expensive first.
    """
    families = {cell: [cell] for cell in sweep.ids if cell not in sweep.branches}
    for cell, branch in sweep.branches.items():
        families[branch.trunk].append(cell)
    result: list[list[str]] = [[] for _ in range(count)]
    for family in _by_cost(sweep, list(families.values())):
        cheapest = min(result, key=lambda part: _flops(sweep, part))
        cheapest += family
    return result


def begin_branches(sweep: SweepDir, cells: Sequence[str]) -> None:
    """Begins the directories of branches with what they share with their trunks.

    Raises TrunkError where a trunk's checkpoint is not what the branch needs.
    """
    for cell in cells:
        branch = sweep.branches.get(cell)
        if branch and trunks.ready(sweep.cell_dir(branch.trunk), branch.step):
            trunks.seed(sweep.cell_dir(cell), sweep.cell_dir(branch.trunk), branch.step)


def _by_cost(sweep: SweepDir, units: list[list[str]]) -> list[list[str]]:
    return sorted(units, key=lambda unit: -_flops(sweep, unit))


def _flops(sweep: SweepDir, cells: Sequence[str]) -> float:
    return sum(sweep.costs[cell].flops for cell in cells)
