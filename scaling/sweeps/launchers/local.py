"""Launcher `local`: a pool of workers on this machine, each on cores or a device of its own."""

import contextlib
import itertools
import os
import pathlib
import signal
import subprocess
import time
from collections.abc import Sequence
from typing import NamedTuple

from scaling.sweeps.display import Display, tail
from scaling.sweeps.launchers import LaunchError, Request
from scaling.sweeps.ledger import Ledger
from scaling.sweeps.schedule import GROUP, Schedule
from scaling.sweeps.sweep_dir import ENDS, SweepDir
from scaling.sweeps.worker import command
from scaling.train.signals import EXIT_PREEMPTED, StopRequest

TICK = 0.25  # seconds between two looks at the workers
LOOK = 2.0  # seconds between two looks at the cells
STILLBORN = 3  # workers, or all there are, that end at once before the launcher gives up


class Slot(NamedTuple):
    """Where a worker runs: on which cores, with variables that show it one device."""

    cores: tuple[int, ...]
    env: dict[str, str]


def slots(workers: int | None, cells: int) -> list[Slot]:
    """Places for workers: one for each visible GPU, else for each core; cores are shared evenly.

    `workers` of None means as many as there are devices or cores, at most one for each of `cells`.
    """
    cores, devices = sorted(os.sched_getaffinity(0)), visible_gpus()
    count = min(workers or len(devices) or len(cores), max(1, cells))
    share = max(1, len(cores) // count)
    return [
        Slot(
            tuple(cores[(i * share + k) % len(cores)] for k in range(share)),
            {"CUDA_VISIBLE_DEVICES": devices[i % len(devices)]} if devices else {},
        )
        for i in range(count)
    ]


def visible_gpus() -> list[str]:
    """Names for CUDA_VISIBLE_DEVICES of the GPUs that this process may use; none under CPU.

    A list in that variable ends before its first invalid entry, as CUDA reads it (CUDA C++
    Programming Guide, "CUDA Environment Variables"): `0,-1,1` shows one device, `-1` none.
    """
    if os.environ.get("JAX_PLATFORMS", "").split(",")[0] == "cpu":
        return []
    stated = os.environ.get("CUDA_VISIBLE_DEVICES")
    if stated is None:
        return _gpus()
    names = [name.strip() for name in stated.split(",")]
    indices = _gpus() if any(map(str.isdecimal, names)) else []

    def valid(name: str) -> bool:
        if name.isdecimal():  # without an answer of nvidia-smi, any index may be one
            return not indices or str(int(name)) in indices
        return name.startswith(("GPU-", "MIG-"))

    return list(itertools.takewhile(valid, names))


def _gpus() -> list[str]:
    """The index of every GPU of this machine by nvidia-smi; empty where that does not answer."""
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(
            query, capture_output=True, text=True, timeout=20, check=True, encoding="utf-8"
        ).stdout.split()
    return []


class Pool:
    """The workers of one launcher; a context manager that leaves none behind."""

    def __init__(self, sweep: SweepDir, places: Sequence[Slot], tries: int, group: int) -> None:
        self.sweep, self.places, self.tries, self.group = sweep, places, tries, group
        self.running: dict[int, subprocess.Popen[bytes]] = {}
        self.stillborn = 0

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        self.end(signal.SIGKILL)

    def fill(self, count: int) -> None:
        """Starts workers until `count` run, or all places are taken."""
        free = [index for index in range(len(self.places)) if index not in self.running]
        for index in free[: max(0, count - len(self.running))]:
            with open(self.log(index), "ab") as log:
                self.running[index] = subprocess.Popen(
                    command(self.sweep.path, self.tries, self.group, self.places[index].cores),
                    stdout=log,
                    stderr=log,
                    env=os.environ | self.places[index].env,
                    start_new_session=True,
                )

    def reap(self, events: int) -> None:
        """Removes workers that have ended, of which `events` new lines of the ledger tell.

        Raises:
          LaunchError: the last few ended at once, without running a cell.
        """
        if events:
            self.stillborn = 0
        for index, process in list(self.running.items()):
            code = process.poll()
            if code is None:
                continue
            del self.running[index]
            # Its lines may have been read at an earlier look: look for them in the whole ledger.
            if code not in (0, EXIT_PREEMPTED) and not events:
                lines = Ledger(self.sweep).read()
                self.stillborn += all(line.get("pid") != process.pid for line in lines)
            if self.stillborn >= min(STILLBORN, len(self.places)):
                many = "workers in a row" if self.stillborn > 1 else "worker"
                raise LaunchError(
                    f"{self.stillborn} {many} ended with code {code} and ran no cell:\n"
                    f"{tail(self.log(index))}\nCorrect that; {self.log(index)} has all of it"
                )

    def log(self, index: int) -> pathlib.Path:
        """The output of a worker outside its cells."""
        return self.sweep.path / "logs" / f"worker-{index}.log"

    def all_run(self) -> bool:
        """Whether no worker has ended since the last `reap`."""
        return all(process.poll() is None for process in self.running.values())

    def end(self, number: int) -> None:
        """Sends a signal to every worker, and waits until all have ended."""
        for process in self.running.values():
            process.send_signal(number)
        for process in self.running.values():
            process.wait()


def launch(sweep: SweepDir, request: Request) -> int:
    """Runs a sweep to its end on this machine.

    Cells that another launcher runs are waited for, and taken over should it die. Without
    `request.group`, as many cells train in one program as leave no worker idle.

    Returns:
      0 all cells have ended (diverged ones too), 1 some failed for good, 75 stopped on request.

    Raises:
      LaunchError: workers do not start up.
      LedgerError: the ledger is damaged.
    """
    places, tries, ledger = slots(request.workers, len(sweep.ids)), request.tries, Ledger(sweep)
    group = request.group or min(GROUP, -(-len(sweep.ids) // len(places)))
    schedule = Schedule(sweep, sweep.ids, group)
    with (
        StopRequest() as stop,
        Pool(sweep, places[: len(schedule.units)], tries, group) as pool,
        Display(sweep, tries) as display,
    ):
        looked = -LOOK
        while stop.reason is None:
            time.sleep(TICK)
            if time.monotonic() - looked < LOOK and pool.all_run():
                continue
            looked = time.monotonic()
            pool.reap(display.update())
            states = ledger.states(tries)
            if not pool.running and set(states.values()) <= {*ENDS, "failed"}:
                break
            # One more than needed finds nothing to take, and ends before it imports JAX.
            pool.fill(len(pool.running) + len(schedule.ready(tries)))
        if stop.reason is not None:
            pool.end(signal.SIGTERM)
            display.update()
            display.say("stopped; the same command goes on from here")
            return EXIT_PREEMPTED
        ledger.settle()
        display.update()
    return 1 if "failed" in states.values() else 0
