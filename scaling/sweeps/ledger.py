"""What became of every attempt at every cell: ledger.jsonl, append-only, one JSON object a line.

    {"time": ..., "cell": id, "attempt": 2, "event": "running" | an end, "reason": ..., ...}

The state of a cell comes from three things on disk, in this order:

    completed, diverged   its summary.json says so: the run itself is the witness, not this file
                          (as it is of `pruned`, with which a search ends a run early)
    running               somebody alive holds its lease
    failed                it failed, or was lost with its process, as often as it may
    preempted             it stopped on request, or its process was lost: it goes on from its checkpoint
    pending               it never began, or failed and has another try

So a lost line of the ledger costs no more than a try, and never a second run of a finished cell.
"""

import collections
import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from scaling.sweeps import lease
from scaling.sweeps.sweep_dir import SweepDir
from scaling.track import files, provenance
from scaling.track.run_dir import RunDirError, read_summary

State = Literal["pending", "running", "completed", "diverged", "pruned", "failed", "preempted"]
ENDS = ("completed", "diverged", "pruned")  # nothing more is to be done
LOST_LIMIT = 10  # attempts whose process vanished, such as for want of memory


class LedgerError(RuntimeError):
    """ledger.jsonl is damaged before its end."""


@dataclasses.dataclass(frozen=True)
class Tally:
    """How the attempts at one cell ended."""

    failed: int = 0
    lost: int = 0
    reason: str = ""
    last: str = ""


class Ledger:
    """The ledger of one sweep, written by many processes."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path

    def append(self, cell: str, attempt: int, event: str, **details: Any) -> None:
        """Adds a line, durably. A torn last line (of a kill) is cut off first.

        Raises:
          OSError: the disk is full or gone.
        """
        record = {"time": provenance.now(), "cell": cell, "attempt": attempt, "event": event}
        line = (files.to_json(record | details) + "\n").encode()
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            # Where the file system has no locks, whole lines still append as a piece.
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            _cut_torn(descriptor)
            os.write(descriptor, line)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def read(self) -> list[dict[str, Any]]:
        """All whole lines; a torn last one is left out.

        Raises:
          LedgerError: a line before the end is damaged; names it.
        """
        if not self.path.exists():
            return []
        records = []
        lines = self.path.read_bytes().split(b"\n")
        for number, line in enumerate(lines[:-1], 1):
            try:
                record = json.loads(line)
                damaged = not {"cell", "event"} <= record.keys()
            except (ValueError, AttributeError):
                damaged = True
            if damaged:
                raise LedgerError(
                    f"{self.path}:{number} is no line of a ledger: {line[:60]!r}; delete that line "
                    "(finished cells stay finished) and start again"
                )
            records.append(record)
        return records

    def tallies(self) -> dict[str, Tally]:
        """How the attempts ended, by cell."""
        failed: collections.Counter[str] = collections.Counter()
        lost: collections.Counter[str] = collections.Counter()
        reason: dict[str, str] = {}
        last: dict[str, str] = {}
        for record in self.read():
            cell, event = record["cell"], record["event"]
            failed[cell] += event == "failed"
            lost[cell] += event == "lost"
            last[cell] = event
            if event in ("failed", "lost", "diverged"):
                reason[cell] = record.get("reason", "")
        return {
            cell: Tally(failed[cell], lost[cell], reason.get(cell, ""), last[cell]) for cell in last
        }


def _cut_torn(descriptor: int) -> None:
    size = os.fstat(descriptor).st_size
    if not size or os.pread(descriptor, 1, size - 1) == b"\n":
        return
    start = max(0, size - (1 << 16))
    keep = start + os.pread(descriptor, size - start, start).rfind(b"\n") + 1
    os.ftruncate(descriptor, keep)


def states(sweep: SweepDir, tries: int, cells: Iterable[str] | None = None) -> dict[str, State]:
    """The state of every cell, now.

    Args:
      sweep: the sweep.
      tries: attempts that may fail before a cell counts as failed.
      cells: only of these.

    Raises:
      LedgerError: the ledger is damaged.
    """
    tallies = Ledger(sweep.path / "ledger.jsonl").tallies()
    chosen = sweep.ids if cells is None else cells
    return {cell: _state(sweep, cell, tallies.get(cell, Tally()), tries) for cell in chosen}


def _state(sweep: SweepDir, cell: str, tally: Tally, tries: int) -> State:
    status = finished(sweep.cell_dir(cell))
    if status in ENDS:
        return status
    if lease.holder(sweep.path / "leases", cell):
        return "running"
    if tally.failed >= tries or tally.lost >= LOST_LIMIT:
        return "failed"
    if tally.last in ("preempted", "lost", "running"):
        return "preempted"
    return "pending"


def settle(sweep: SweepDir) -> None:
    """Writes down what is finished and not written down: its process was killed in between."""
    book = Ledger(sweep.path / "ledger.jsonl")
    tallies = book.tallies()
    for cell in sweep.ids:
        status = finished(sweep.cell_dir(cell))
        if status not in ENDS or tallies.get(cell, Tally()).last in ENDS:
            continue
        held = lease.take(sweep.path / "leases", cell)
        if held is not None:
            if book.tallies().get(cell, Tally()).last not in ENDS:
                book.append(cell, held.attempt, status, reason="found finished")
            held.release(status)


def finished(run: pathlib.Path) -> Any:
    """The status in a run's summary.json, or None. A damaged one counts as none."""
    try:
        return (read_summary(run) or {}).get("status")
    except RunDirError:
        return None


def counts(found: Mapping[str, State]) -> str:
    """Totals in one line: "20 completed, 3 running, 1 pending"."""
    totals = collections.Counter(found.values())
    order: tuple[State, ...] = (
        "completed",
        "running",
        "pending",
        "preempted",
        "diverged",
        "failed",
    )
    return ", ".join(f"{totals[one]} {one}" for one in order if totals[one]) or "no cells"
