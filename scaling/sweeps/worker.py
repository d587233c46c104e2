"""Takes cells that are left and runs them, one after another, until none is.

    python -m scaling.sweeps.worker --sweep_dir=DIR                    whatever is left
    python -m scaling.sweeps.worker --sweep_dir=DIR --cells=ID,ID      only these

Every launcher starts workers and nothing else; start as many as you like, on any hosts that share the
directory. One process for many cells saves its start for each. A cell runs as `scaling.main` would
run it, in its own run directory. Exit codes: 0 nothing is left to take; 75 told to stop, start it
again; 1 one of its cells has failed for good; 2 wrong usage.
"""

import dataclasses
import os
import pathlib
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

from scaling import cli
from scaling.configs import ConfigError
from scaling.sweeps import ledger as ledger_lib
from scaling.sweeps import output, pruning, units
from scaling.sweeps.design import label
from scaling.sweeps.lease import Heartbeat, Lease, take
from scaling.sweeps.ledger import ENDS, Ledger
from scaling.sweeps.sweep_dir import SweepDir, open_sweep
from scaling.track.lock import LockedError
from scaling.train.signals import EXIT_PREEMPTED, StopRequest

TRIES = 3
POLL_SECONDS = 2.0
IN_USE_SECONDS = 30.0  # before a cell whose run directory is in use is tried again
CLEAR_EVERY = 16  # units

OPTIONS = (
    cli.Option("sweep_dir", "The directory of the sweep.", "DIR"),
    cli.Option("cells", "Only these cells.", "ID,ID,..."),
    cli.Option("tries", f"Attempts that may fail before a cell has failed ({TRIES}).", "N", "integer"),
    cli.Option("group", f"Most cells that train in one program ({units.GROUP}).", "N", "integer"),
    cli.Option("cores", "Stay on these processor cores.", "I,I,..."),
    cli.Option("parent", "Stop when process PID is the parent no longer.", "PID", "integer"),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Ended:
    """How an attempt ended: an event of the ledger, and what to note with it."""

    event: str
    details: dict[str, Any]


class Worker:
    """The loop of one process; see the module."""

    def __init__(
        self,
        sweep: SweepDir,
        chosen: Sequence[str],
        tries: int,
        group: int,
        stop: StopRequest,
        heart: Heartbeat,
    ) -> None:
        self.sweep, self.tries, self.stop, self.heart = sweep, tries, stop, heart
        self.ledger = Ledger(sweep.path / "ledger.jsonl")
        self.plan = units.Plan(sweep, chosen, group)
        self.done: list[str] = []
        self.in_use: dict[str, float] = {}  # when cells were found in use
        self.ran = 0

    def run(self) -> int:
        """Runs to an end; returns the exit code."""
        while self.stop.reason is None:
            leases = next(self._takeable(), None)
            if leases is None and not self.in_use and not self.plan.waiting(self.tries):
                break
            if leases is None:
                time.sleep(POLL_SECONDS)
            else:
                self._run_unit(leases)
        if self.stop.reason is not None:
            return EXIT_PREEMPTED
        found = ledger_lib.states(self.sweep, self.tries, self.done)
        return 1 if "failed" in found.values() else 0

    def _takeable(self) -> Iterator[list[Lease]]:
        """Leases of the next unit of which this process gets any."""
        old = time.monotonic() - IN_USE_SECONDS
        self.in_use = {cell: seen for cell, seen in self.in_use.items() if seen > old}
        for unit in self.plan.ready(self.tries):
            leases = []
            for cell in unit:
                if cell in self.in_use:
                    continue
                lease = take(self.sweep.path / "leases", cell)
                if lease and self._wanted(lease):
                    leases.append(lease)
            if leases:
                yield leases

    def _wanted(self, lease: Lease) -> bool:
        """Under the lease: whether the cell still is to be run; writes down a vanished process."""
        status = ledger_lib.finished(self.sweep.cell_dir(lease.cell))
        tally = self.ledger.tallies().get(lease.cell, ledger_lib.Tally())
        if status in ENDS:
            lease.release(status)
            return False
        if tally.last == "running":
            self.ledger.append(lease.cell, lease.attempt - 1, "lost", reason="its process vanished")
        if tally.failed >= self.tries:
            lease.release("failed")
            return False
        return True

    def _run_unit(self, leases: list[Lease]) -> None:
        self.heart.watch(leases)
        for lease in leases:
            self.ledger.append(lease.cell, lease.attempt, "running", **_who())
        started = time.perf_counter()
        with output.into([self.sweep.log(lease.cell, lease.attempt) for lease in leases]):
            ends = self._execute(leases)
        seconds = round(time.perf_counter() - started, 2)
        for lease, end in zip(leases, ends, strict=True):
            event = "preempted" if lease.lost else end.event
            self.ledger.append(lease.cell, lease.attempt, event, seconds=seconds, **end.details)
            lease.release(event)
            self.done.append(lease.cell)
            print(f"{event}: {lease.cell} ({label(self.sweep.axes[lease.cell])})", flush=True)
        self.heart.watch([])
        self.ran += 1
        if self.ran % CLEAR_EVERY == 0:
            import jax

            jax.clear_caches()  # programs of cells that are done; about 10 MB a cell, measured

    def _execute(self, leases: list[Lease]) -> list[Ended]:
        """Runs the cells; whatever goes wrong becomes an end of each."""
        try:
            units.prepare(self.sweep, [lease.cell for lease in leases])
            ids = [lease.cell for lease in leases]
            watch = pruning.watcher(self.sweep.path, ids)
            locked: list[str] = []
            if len(ids) == 1 and watch is None:
                try:
                    self._solo(ids[0])
                except LockedError as error:
                    print(error, flush=True)
                    locked = ids
            else:
                locked = self._together(ids)
            self.in_use |= dict.fromkeys(locked, time.monotonic())
        except Exception as error:
            traceback.print_exc()
            reason = f"{type(error).__name__}: {error}"[:300]
            return [self._end(lease.cell, reason) for lease in leases]
        return [
            Ended("preempted", {"reason": "its run directory is in use"})
            if lease.cell in locked
            else self._end(lease.cell, "")
            for lease in leases
        ]

    def _solo(self, cell_id: str) -> None:
        from scaling import parallel
        from scaling.train.run import run

        cell = self.sweep.cell(cell_id)
        with parallel.start_processes(cell.config, cli.Args()) as processes:
            run(cell.config, self.sweep.cell_dir(cell_id), processes, self.stop)

    def _together(self, ids: list[str]) -> list[str]:
        """Runs cells as one program; those that another process trains."""
        from scaling.sweeps.grouping import max_members
        from scaling.train.population import run_population

        cells = [self.sweep.cell(one) for one in ids]
        memory = _device_memory()
        count = len(cells)
        if memory is not None:
            count = max_members(cells[0].config, self.sweep.costs[ids[0]].params, memory)
        locked = []
        for start in range(0, len(cells), count):
            members = cells[start : start + count]
            statuses = run_population(
                [cell.config for cell in members],
                [self.sweep.cell_dir(cell.id) for cell in members],
                stop=self.stop,
                watch=pruning.watcher(self.sweep.path, [cell.id for cell in members]),
            )
            locked += [
                cell.id for cell, one in zip(members, statuses, strict=True) if one == "locked"
            ]
        return locked

    def _end(self, cell: str, error: str) -> Ended:
        """What an attempt came to: the run's own word where it ended, else the error."""
        from scaling.track.run_dir import read_summary

        status = ledger_lib.finished(self.sweep.cell_dir(cell))
        if status in ENDS:
            summary = read_summary(self.sweep.cell_dir(cell)) or {}
            loss = summary.get("eval", {}).get("loss")
            reason = {"reason": summary["error"]} if summary.get("error") else {}
            return Ended(status, {"loss": loss, "step": summary.get("step")} | reason)
        if error:
            return Ended("failed", {"reason": error})
        if self.stop.reason is not None:
            return Ended("preempted", {"reason": self.stop.reason})
        return Ended("failed", {"reason": "went wrong, see its log"})


def _device_memory() -> int | None:
    """Bytes of the first device; None where the backend does not say (CPU)."""
    import jax

    stats = jax.devices()[0].memory_stats() or {}
    return stats.get("bytes_limit")


def _who() -> dict[str, Any]:
    import socket

    return {"pid": os.getpid(), "host": socket.gethostname()}


def work(
    sweep_dir: pathlib.Path,
    chosen: Sequence[str] | None = None,
    *,
    tries: int = TRIES,
    group: int = units.GROUP,
    parent: int | None = None,
) -> int:
    """Runs what is left of a sweep in this process; returns the exit code.

    Args:
      sweep_dir: the sweep's directory.
      chosen: only these cells; None for all.
      tries: attempts that may fail before a cell has failed.
      group: most cells that train in one program.
      parent: process that must stay this one's parent.

    Raises:
      ConfigError: no such sweep or cell.
      LedgerError: the ledger is damaged.
    """
    with StopRequest() as stop:

        def halt(reason: str) -> None:
            stop.reason = stop.reason or reason

        sweep = open_sweep(sweep_dir)
        heart = Heartbeat(halt, parent)
        try:
            return Worker(sweep, chosen or sweep.ids, tries, group, stop, heart).run()
        finally:
            heart.close()


def door(argv: Sequence[str]) -> int:
    """Does what the command line says.

    Raises:
      ConfigError: the command line is wrong.
    """
    values, _ = cli.read(argv, OPTIONS, (__doc__ or "").split("\n\n")[1])
    if "sweep_dir" not in values:
        raise ConfigError("--sweep_dir", "is required", "write --sweep_dir=DIR")
    if "cores" in values:
        # Before JAX counts the cores that it may use.
        os.sched_setaffinity(0, _cores(values["cores"]))
    chosen = [one for one in values.get("cells", "").split(",") if one]
    try:
        return work(
            pathlib.Path(values["sweep_dir"]), chosen or None,
            tries=values.get("tries", TRIES), group=values.get("group", units.GROUP),
            parent=values.get("parent"),
        )  # fmt: skip
    except ledger_lib.LedgerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _cores(text: str) -> set[int]:
    have = os.sched_getaffinity(0)
    parts = text.split(",")
    if not all(part.isdecimal() for part in parts) or not {int(part) for part in parts} <= have:
        raise ConfigError(
            "--cores", f"{text!r} are not cores of this process", f"it has {sorted(have)}"
        )
    return {int(part) for part in parts}


if __name__ == "__main__":
    sys.exit(cli.run(door, sys.argv[1:]))
