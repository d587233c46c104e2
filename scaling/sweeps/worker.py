"""A worker: takes cells that are left and runs them, one unit after another, until none is left.

    python -m scaling.sweep --worker --workdir=DIR                 whatever is left
    python -m scaling.sweep --worker --workdir=DIR --cells=ID,ID   only these

Launchers start workers with this command, as child processes; any number of them, on any hosts that
share the directory, work on one sweep. One process for many cells starts up once. A cell runs as
`scaling.main` would run it, in its own run directory. Exit codes: 0 nothing is left to take; 75
stopped on request, start it again; 1 one of its cells has failed for good.
"""

import contextlib
import os
import pathlib
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from scaling.sweeps import schedule
from scaling.sweeps.cost import of_one_step
from scaling.sweeps.design import Cell, label
from scaling.sweeps.lease import Heartbeat, Lease, take
from scaling.sweeps.ledger import Ledger
from scaling.sweeps.study import watcher
from scaling.sweeps.sweep_dir import ENDS, SweepDir, open_sweep
from scaling.track.lock import LockedError, identity
from scaling.train.signals import EXIT_PREEMPTED, StopRequest

if TYPE_CHECKING:
    from scaling.experiment import Experiment

TRIES = 3
POLL_SECONDS = 2.0
IN_USE_SECONDS = 30.0  # before a cell whose run directory is in use is tried again
CLEAR_EVERY = 16  # units

# How an attempt ended: an event of the ledger, and the details to record with it.
Ended = tuple[str, dict[str, Any]]


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
        self.ledger = Ledger(sweep)
        self.schedule = schedule.Schedule(sweep, chosen, group)
        self.done: list[str] = []
        self.in_use: dict[str, float] = {}  # {cell: when its directory was seen to be in use}
        self.units_run = 0

    def run(self) -> int:
        """Runs to the end; returns the exit code."""
        while self.stop.reason is None:
            if not self.units_run and self.schedule.ready(self.tries):
                start_backend()
            leases = next(self._takeable(), None)
            if leases is None and not self.in_use and not self.schedule.waiting(self.tries):
                break
            if leases is None:
                time.sleep(POLL_SECONDS)
            else:
                self._run_unit(leases)
        if self.stop.reason is not None:
            return EXIT_PREEMPTED
        return 1 if "failed" in self.ledger.states(self.tries, self.done).values() else 0

    def _takeable(self) -> Iterator[list[Lease]]:
        """Leases of the next unit of which this process gets any."""
        old = time.monotonic() - IN_USE_SECONDS
        self.in_use = {cell: seen for cell, seen in self.in_use.items() if seen > old}
        for unit in self.schedule.ready(self.tries):
            free = [cell for cell in unit if cell not in self.in_use]
            held = [lease for cell in free if (lease := take(self.sweep.leases, cell))]
            leases = [lease for lease in held if self._is_left(lease)]
            if leases:
                yield leases

    def _is_left(self, lease: Lease) -> bool:
        """Under the lease: whether the cell still has to run. Records a vanished process."""
        end, tally = self.sweep.ended(lease.cell), self.ledger.tallies()[lease.cell]
        if end:
            lease.release(end)
            return False
        if tally.last == "running":
            self.ledger.append(lease.cell, lease.attempt - 1, "lost", reason="its process vanished")
        if tally.failed >= self.tries:
            lease.release("failed")
            return False
        return True

    def _run_unit(self, leases: list[Lease]) -> None:
        self.heart.watch(leases)
        process = identity()
        for lease in leases:
            self.ledger.append(
                lease.cell, lease.attempt, "running", pid=process["pid"], host=process["hostname"]
            )
        started = time.perf_counter()
        with output_into([self.sweep.log(lease.cell, lease.attempt) for lease in leases]):
            ends = self._execute([lease.cell for lease in leases])
        seconds = round(time.perf_counter() - started, 2)
        for lease, (event, details) in zip(leases, ends, strict=True):
            event = "preempted" if lease.lost else event
            self.ledger.append(lease.cell, lease.attempt, event, seconds=seconds, **details)
            lease.release(event)
            self.done.append(lease.cell)
            print(f"{event}: {lease.cell} ({label(self.sweep.axes[lease.cell])})", flush=True)
        self.heart.watch([])
        self.units_run += 1
        if self.units_run % CLEAR_EVERY == 0:
            import jax

            jax.clear_caches()  # programs of finished cells; about 10 MB per cell, measured

    def _execute(self, ids: list[str]) -> list[Ended]:
        """Runs the cells; an error becomes the end of each."""
        try:
            schedule.begin_branches(self.sweep, ids)
            locked = self._train([self.sweep.cell(cell) for cell in ids])
        except Exception as error:
            traceback.print_exc()
            reason = f"{type(error).__name__}: {error}"[:300]
            return [self._end(cell, reason) for cell in ids]
        self.in_use |= dict.fromkeys(locked, time.monotonic())
        return [
            ("preempted", {"reason": "its run directory is in use"})
            if cell in locked
            else self._end(cell, "")
            for cell in ids
        ]

    def _train(self, cells: list[Cell]) -> list[str]:
        """Runs cells of one unit, in as few programs as memory allows; returns those in use."""
        size, locked = len(cells), list[str]()
        if size > 1:
            import jax

            # CPU does not say.
            if memory := (jax.devices()[0].memory_stats() or {}).get("bytes_limit"):
                size = max_members(cells[0].config, memory)
        for start in range(0, len(cells), size):
            members = cells[start : start + size]
            ids = [cell.id for cell in members]
            watch = watcher(self.sweep.path, ids)
            if len(members) == 1 and watch is None:
                locked += self._alone(members[0])
                continue
            from scaling.train.population import run_population

            statuses = run_population(
                [cell.config for cell in members],
                [self.sweep.cell_dir(cell) for cell in ids],
                stop=self.stop,
                watch=watch,
            )
            locked += [cell for cell, s in zip(ids, statuses, strict=True) if s == "locked"]
        return locked

    def _alone(self, cell: Cell) -> list[str]:
        from scaling import parallel
        from scaling.train.run import run

        try:
            with parallel.start_processes(cell.config) as processes:
                run(cell.config, self.sweep.cell_dir(cell.id), processes, self.stop)
        except LockedError as error:
            print(error, flush=True)
            return [cell.id]
        return []

    def _end(self, cell: str, error: str) -> Ended:
        """How an attempt ended: as the run's summary says if it has ended, else by the error."""
        summary = self.sweep.summary(cell)
        if summary.get("status") in ENDS:
            loss = self.sweep.loss(cell, summary)
            reason = {"reason": summary["error"]} if summary.get("error") else {}
            return summary["status"], {"loss": loss, "step": summary.get("step")} | reason
        if error:
            return "failed", {"reason": error}
        if self.stop.reason is not None:
            return "preempted", {"reason": self.stop.reason}
        return "failed", {"reason": "went wrong, see its log"}


def start_backend() -> None:
    """Starts JAX, before a cell is taken: where that ends the process, no attempt is used up.

    Not in a process of several, whose start comes first (`parallel.start_processes`).
    """
    from scaling.parallel.processes import discover
    from scaling.track import allocator

    if discover() is None:
        import jax

        allocator.run_inline()
        jax.devices()


def max_members(config: "Experiment", memory_bytes: int) -> int:
    """How many runs like `config` fit into a device's memory together, at least 1.

    Half of the memory is left for activations and for the copies that a step makes.
    """
    return max(1, memory_bytes // 2 // of_one_step(config).kept_bytes)


@contextlib.contextmanager
def output_into(logs: Sequence[pathlib.Path]) -> Iterator[None]:
    """Sends file descriptors 1 and 2 to the first log; the others become links to it.

    Descriptors and not `sys.stdout`, because compilers and drivers print too.
    """
    logs[0].parent.mkdir(parents=True, exist_ok=True)
    for other in logs[1:]:
        with contextlib.suppress(OSError):
            other.symlink_to(logs[0].name)
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    file = os.open(logs[0], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.dup2(file, 1)
        os.dup2(file, 2)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(saved[0], 1)
        os.dup2(saved[1], 2)
        for descriptor in (*saved, file):
            os.close(descriptor)


def work(
    path: str | pathlib.Path,
    chosen: Sequence[str] = (),
    *,
    tries: int = TRIES,
    group: int = schedule.GROUP,
    parent: int | None = None,
) -> int:
    """Runs the rest of a sweep, or of the cells `chosen`, in this process; returns the exit code.

    `parent` is a process that must stay this one's. Raises ConfigError (no such sweep or cell) and
    LedgerError.
    """
    with StopRequest() as stop:

        def halt(reason: str) -> None:
            stop.reason = stop.reason or reason

        sweep = open_sweep(path)
        heart = Heartbeat(halt, parent)
        try:
            return Worker(sweep, chosen or sweep.ids, tries, group, stop, heart).run()
        finally:
            heart.close()


def command(sweep: pathlib.Path, tries: int, group: int, cores: Sequence[int] = ()) -> list[str]:
    """The command line of a child process that works on a sweep until this process is gone.

    It stays on the processor cores `cores`, if there are any.
    """
    words = [sys.executable, "-m", "scaling.sweep", "--worker", f"--workdir={sweep}"]
    words += [f"--tries={tries}", f"--group={group}", f"--parent={os.getpid()}"]
    return [*words, "--cores=" + ",".join(map(str, cores))] if cores else words
