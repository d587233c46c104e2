"""How every attempt at every cell ended: ledger.jsonl, append-only, one JSON object a line.

    {"time": ..., "cell": id, "attempt": 2, "event": "running" | a state, "reason": ..., ...}

The state of a cell comes from three things on disk, in this order:

    completed, diverged, pruned   its summary.json says so: the run itself is the witness, not this
                                  file
    running      a live process holds its lease
    failed       no attempts left: errors count, and processes that vanished; "reset" gives them back
    preempted    it stopped on request, or its process was lost: it goes on from its checkpoint
    pending      it never began, or failed and has an attempt left

So a lost line of the ledger costs at most one attempt, and never a second run of a finished cell.
"""

import collections
import contextlib
import dataclasses
import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

from scaling.sweeps import lease
from scaling.sweeps.sweep_dir import ENDS, SweepDir
from scaling.track import files, provenance

State = Literal["completed", "running", "pending", "preempted", "diverged", "pruned", "failed"]
LOST_LIMIT = 10  # attempts whose process vanished, such as for want of memory


class LedgerError(RuntimeError):
    """ledger.jsonl is damaged before its end."""


@dataclasses.dataclass
class Tally:
    """How the attempts at one cell ended: counts, and the last event."""

    failed: int = 0
    lost: int = 0
    last: str = ""


class Ledger:
    """The ledger of one sweep, written by many processes.

    All that reads it raises LedgerError when a line before the end is damaged, which names the line.
    """

    def __init__(self, sweep: SweepDir) -> None:
        self.sweep = sweep
        self.path = sweep.path / "ledger.jsonl"

    def append(self, cell: str, attempt: int, event: str, **details: Any) -> None:
        """Adds a line, durably. A torn last line (of a kill) is cut off first."""
        record = {"time": provenance.now(), "cell": cell, "attempt": attempt, "event": event}
        line = (files.to_json(record | details) + "\n").encode()
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            # Where the file system has no locks, whole lines still append as a piece.
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            cut_torn_line(descriptor)
            os.write(descriptor, line)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def read(self) -> list[dict[str, Any]]:
        """All whole lines; a torn last one is left out."""
        if not self.path.exists():
            return []
        records = []
        for number, line in enumerate(self.path.read_bytes().split(b"\n")[:-1], 1):
            try:
                record = json.loads(line)
                damaged = not {"cell", "event"} <= record.keys()
            except (ValueError, AttributeError):
                damaged = True
            if damaged:
                raise LedgerError(
                    f"{self.path}:{number} is not a line of a ledger: {line[:60]!r}; delete that "
                    "line (finished cells stay finished) and start again"
                )
            records.append(record)
        return records

    def tallies(self) -> dict[str, Tally]:
        """How the attempts ended, by cell; an empty tally for a cell without any."""
        tallies: dict[str, Tally] = collections.defaultdict(Tally)
        for record in self.read():
            event = record["event"]
            if event == "reset":
                tallies[record["cell"]] = Tally()
                continue
            tally = tallies[record["cell"]]
            tally.failed += event == "failed"
            tally.lost += event == "lost"
            tally.last = event
        return tallies

    def states(self, tries: int, cells: Iterable[str] | None = None) -> dict[str, State]:
        """The state of every cell (or of `cells`), now; one may fail in `tries` attempts."""
        tallies = self.tallies()
        chosen = self.sweep.ids if cells is None else cells
        return {cell: self._state(cell, tallies[cell], tries) for cell in chosen}

    def _state(self, cell: str, tally: Tally, tries: int) -> State:
        end = self.sweep.ended(cell)
        if end:
            return end
        if lease.holder(self.sweep.leases, cell):
            return "running"
        if tally.failed >= tries or tally.lost >= max(LOST_LIMIT, tries):
            return "failed"
        if tally.last in ("preempted", "lost", "running"):
            return "preempted"
        return "pending"

    def reset(self, tries: int) -> list[str]:
        """Gives every cell that has failed all its attempts back; returns those cells."""
        failed = [cell for cell, state in self.states(tries).items() if state == "failed"]
        for cell in failed:
            self.append(cell, 0, "reset", reason="on request")
        return failed

    def settle(self) -> None:
        """Writes the missing line of every cell that ended just before its process was killed."""
        tallies = self.tallies()
        for cell in self.sweep.ids:
            end = self.sweep.ended(cell)
            if not end or tallies[cell].last in ENDS:
                continue
            held = lease.take(self.sweep.leases, cell)
            if held is not None:
                if self.tallies()[cell].last not in ENDS:
                    self.append(cell, held.attempt, end, reason="found finished")
                held.release(end)


def cut_torn_line(descriptor: int) -> None:
    """Cuts off what follows the last newline of an open file: a record that a kill cut short."""
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        os.ftruncate(descriptor, os.pread(descriptor, size, 0).rfind(b"\n") + 1)


def counts(states: Mapping[str, State]) -> str:
    """Totals in one line: "20 completed, 3 running, 1 pending"."""
    totals = collections.Counter(states.values())
    return ", ".join(f"{totals[s]} {s}" for s in get_args(State) if totals[s]) or "no cells"
