"""Which cells run together, and which wait for another: the plan that every worker makes alike.

Cells that may share one program make a unit (`grouping`). A cell that branches off a trunk waits until
the trunk has its checkpoint at the branch point (`trunks`); if the trunk ends without one, the cell
runs from its own beginning.
"""

from collections.abc import Mapping, Sequence

from scaling.sweeps import grouping, ledger, trunks
from scaling.sweeps.ledger import State
from scaling.sweeps.sweep_dir import SweepDir

GROUP = 16  # cells that train in one program, at most
LEFT = ("pending", "preempted")


class Plan:
    """The units of a sweep, dearest first.

    Attributes:
      sweep: the sweep.
      units: lists of cell ids that run in one program.
    """

    def __init__(self, sweep: SweepDir, chosen: Sequence[str], group: int = GROUP) -> None:
        """Makes the plan.

        Args:
          sweep: the sweep.
          chosen: the cells to run.
          group: most cells in a unit.

        Raises:
          ConfigError: there is no such cell.
        """
        self.sweep = sweep
        grouped = grouping.groups([sweep.cell(one) for one in chosen], group)
        units = [[cell.id for cell in members] for members in grouped]
        self.units = sorted(units, key=lambda unit: -sum(sweep.costs[one].flops for one in unit))

    def ready(self, tries: int) -> list[list[str]]:
        """Units with what of them can start now, those that failed before last."""
        found = ledger.states(self.sweep, tries)
        tallies = ledger.Ledger(self.sweep.path / "ledger.jsonl").tallies()
        left = [
            [one for one in unit if found[one] in LEFT and not self._blocked(one, found)]
            for unit in self.units
        ]
        failures = {one: tally.failed for one, tally in tallies.items()}
        return sorted(
            (unit for unit in left if unit),
            key=lambda unit: max(failures.get(one, 0) for one in unit),
        )

    def waiting(self, tries: int) -> bool:
        """Whether a cell is left that waits for its trunk."""
        found = ledger.states(self.sweep, tries)
        cells = [one for unit in self.units for one in unit]
        return any(found[one] in LEFT and self._blocked(one, found) for one in cells)

    def _blocked(self, cell: str, found: Mapping[str, State]) -> bool:
        """Whether the cell's trunk has yet to reach the branch point."""
        branch = self.sweep.branches.get(cell)
        if branch is None or found[branch.trunk] in (*ledger.ENDS, "failed"):
            return False
        return not trunks.ready(self.sweep.cell_dir(branch.trunk), branch.step)


def families(sweep: SweepDir) -> list[list[str]]:
    """Cells that must run in one place, in the order that they must run; dearest family first."""
    found: dict[str, list[str]] = {one: [one] for one in sweep.ids if one not in sweep.branches}
    for one, branch in sweep.branches.items():
        found[branch.trunk].append(one)
    return sorted(found.values(), key=lambda family: -sum(sweep.costs[one].flops for one in family))


def prepare(sweep: SweepDir, cells: Sequence[str]) -> None:
    """Begins the directories of branches with what they share with their trunks.

    Raises:
      TrunkError: a trunk's checkpoint is not what the branch needs.
    """
    for one in cells:
        branch = sweep.branches.get(one)
        if branch and trunks.ready(sweep.cell_dir(branch.trunk), branch.step):
            trunks.seed(sweep.cell_dir(one), sweep.cell_dir(branch.trunk), branch.step)
