"""Which cells run together, and which wait for another: the plan that every worker makes alike.

Cells that may share one program make a unit (`grouping`); a cell that branches off a trunk waits
until the trunk has its checkpoint (`trunks`). Both follow from the configs alone, so nothing of the
plan is on disk.
"""

from collections.abc import Sequence

from scaling.sweeps import ledger
from scaling.sweeps.ledger import State
from scaling.sweeps.sweep_dir import SweepDir


class Plan:
    """The units of a sweep, dearest first.

    Attributes:
      sweep: the sweep.
      units: lists of cell ids that run in one program.
    """

    def __init__(self, sweep: SweepDir, chosen: Sequence[str]) -> None:
        for one in chosen:
            sweep.cell(one)  # names an unknown one
        self.sweep = sweep
        self.units = sorted(
            ([one] for one in chosen),
            key=lambda unit: -sum(sweep.costs[one].flops for one in unit),
        )

    def ready(self, tries: int) -> list[list[str]]:
        """Units with what is left of them, those that failed before last."""
        found = self._states(tries)
        tallies = ledger.Ledger(self.sweep.path / "ledger.jsonl").tallies()
        left = [
            [one for one in unit if found[one] in ("pending", "preempted")] for unit in self.units
        ]
        failures = {one: tally.failed for one, tally in tallies.items()}
        return sorted(
            (unit for unit in left if unit),
            key=lambda unit: max(failures.get(one, 0) for one in unit),
        )

    def waiting(self, tries: int) -> bool:
        """Whether a cell will become ready that is not now."""
        return False

    def _states(self, tries: int) -> dict[str, State]:
        return ledger.states(self.sweep, tries, [one for unit in self.units for one in unit])


def families(sweep: SweepDir) -> list[list[str]]:
    """Cells that must run in one place, in the order that they must run; dearest family first."""
    found = [[one] for one in sweep.ids]
    return sorted(found, key=lambda family: -sum(sweep.costs[one].flops for one in family))


def prepare(sweep: SweepDir, cells: Sequence[str]) -> None:
    """What must be in place before cells start."""
