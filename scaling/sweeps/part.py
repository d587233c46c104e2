"""One part of a sweep, cell by cell, each by `scaling.main` in a process of its own.

    python -m scaling.sweep --workdir=DIR --part=0/4

For TPU slices and pods, where every host runs this same command: all hosts walk the same list in the
same order, and `scaling.main` brings the hosts of each cell together. Parts share no cell, so no
leases are needed, and a bucket without locks will do. Finished cells are left alone. Exit codes: 0 all
cells of the part have ended; 75 stopped on request, start it again; 1 a cell failed, start it again
for another attempt.
"""

import os
import pathlib
import signal
import subprocess
import sys
import time

from scaling.configs import ConfigError
from scaling.parallel.processes import discover
from scaling.sweeps import schedule
from scaling.sweeps.sweep_dir import SweepDir, open_sweep
from scaling.train.signals import EXIT_PREEMPTED, StopRequest


def run_part(path: str | pathlib.Path, part: str) -> int:
    """Runs part `part` ("I/N", from 0) of the sweep in a directory; returns the exit code."""
    index, _, count = part.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise ConfigError("--part", f"{part!r} is not a part", "write --part=I/N with I < N")
    # The processes of a cell find one another by the variables of the pod, which they inherit.
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sweep, code, place = open_sweep(path), 0, discover()
    with StopRequest() as stop:
        for cell in schedule.parts(sweep, int(count))[int(index)]:
            if sweep.ended(cell):
                continue
            if place is None or place.process_id == 0:
                # The other hosts meet this one in scaling.main before they look for checkpoints.
                schedule.begin_branches(sweep, [cell])
            cell_code = _main(sweep, cell, stop)
            status = sweep.summary(cell).get("status", "no summary")
            print(f"{cell}: exit code {cell_code}, {status}", flush=True)
            if cell_code == EXIT_PREEMPTED or stop.reason is not None:
                return EXIT_PREEMPTED
            if not sweep.ended(cell):
                code = 1
    return code


def _main(sweep: SweepDir, cell: str, stop: StopRequest) -> int:
    """`scaling.main` of a cell; passes on a request to stop."""
    folder = sweep.cell_dir(cell)
    words = ["-m", "scaling.main", f"--config={folder / 'config.json'}", f"--workdir={folder}"]
    process = subprocess.Popen([sys.executable, *words])
    signalled = False
    while process.poll() is None:
        if stop.reason is not None and not signalled:
            process.send_signal(signal.SIGTERM)
            signalled = True
        time.sleep(0.2)
    return int(process.returncode)
