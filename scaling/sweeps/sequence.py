"""One part of a sweep, cell by cell, each by `scaling.main` in a process of its own.

    python -m scaling.sweeps.sequence --sweep_dir=DIR --part=0/4

For TPU slices and pods, where every host runs this same command: all hosts walk the same list in the
same order, and `scaling.main` brings the hosts of each cell together. Parts share no cell, so no
leases are needed, and a bucket without locks will do. What is finished is left alone. Exit codes: 0
all cells of the part have ended; 75 told to stop, start it again; 1 a cell failed, start it again
for another try.
"""

import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from scaling import cli
from scaling.configs import ConfigError
from scaling.parallel.processes import discover
from scaling.sweeps import ledger, units
from scaling.sweeps.sweep_dir import SweepDir, open_sweep
from scaling.train.signals import EXIT_PREEMPTED, StopRequest

OPTIONS = (
    cli.Option("sweep_dir", "The directory of the sweep.", "DIR"),
    cli.Option("part", "Which part, from 0, of how many; default 0/1.", "I/N"),
)


def parts(sweep: SweepDir, count: int) -> list[list[str]]:
    """Cells shared out so that all parts cost about the same; cells that need one another together.

    The same on every host: dearest first, each to the part that has least.
    """
    loads, found = [0.0] * count, [[] for _ in range(count)]  # type: tuple[list[float], list[list[str]]]
    for family in units.families(sweep):
        lightest = loads.index(min(loads))
        found[lightest] += family
        loads[lightest] += sum(sweep.costs[one].flops for one in family)
    return found


def run(sweep: SweepDir, cells: Sequence[str]) -> int:
    """Runs cells one after another; returns the exit code."""
    worst, place = 0, discover()
    with StopRequest() as stop:
        for cell in cells:
            if ledger.finished(sweep.cell_dir(cell)) in ledger.ENDS:
                continue
            if place is None or place.process_id == 0:
                # The other hosts meet this one in scaling.main before they look for checkpoints.
                units.prepare(sweep, [cell])
            code = _main(sweep, cell, stop)
            state = ledger.finished(sweep.cell_dir(cell))
            print(f"{cell}: exit code {code}, {state or 'no summary'}", flush=True)
            if code == EXIT_PREEMPTED or stop.reason is not None:
                return EXIT_PREEMPTED
            if state not in ledger.ENDS:
                worst = 1
    return worst


def _main(sweep: SweepDir, cell: str, stop: StopRequest) -> int:
    """`scaling.main` of a cell; a signal to this process is passed on."""
    folder = sweep.cell_dir(cell)
    words = ["-m", "scaling.main", f"--config={folder / 'config.json'}", f"--workdir={folder}"]
    process = subprocess.Popen([sys.executable, *words])
    told = False
    while process.poll() is None:
        if stop.reason is not None and not told:
            process.send_signal(signal.SIGTERM)
            told = True
        time.sleep(0.2)
    return int(process.returncode)


def door(argv: Sequence[str]) -> int:
    """Does what the command line says.

    Raises:
      ConfigError: the command line is wrong.
    """
    values, _ = cli.read(argv, OPTIONS, (__doc__ or "").split("\n\n")[1])
    if "sweep_dir" not in values:
        raise ConfigError("--sweep_dir", "is required", "write --sweep_dir=DIR")
    index, _, count = values.get("part", "0/1").partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise ConfigError("--part", f"{values['part']!r} is no part", "write --part=I/N with I < N")
    # A cell's own processes find one another by the variables of the pod, not by ours.
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sweep = open_sweep(pathlib.Path(values["sweep_dir"]))
    return run(sweep, parts(sweep, int(count))[int(index)])


if __name__ == "__main__":
    sys.exit(cli.run(door, sys.argv[1:]))
