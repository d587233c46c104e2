"""`python -m scaling.sweep`: run a declared set of runs to the end, and make its table.

    sweep file -> cells, all checked -> table and warnings -> launcher -> workers -> table.csv

Everything that can be wrong with the file or the command line ends here with exit code 2, before a
run starts. Exit codes: 0 done; 2 bad usage or config; 75 stopped on request, run again; 1 anything
else.
"""

import os
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from scaling import cli
from scaling.configs import ConfigError

USAGE = """\
Run a sweep or a search, or look at one.

  python -m scaling.sweep --sweep=experiments/sweeps/isoflop_tiny.py --workdir=runs/isoflop --dry_run
  python -m scaling.sweep --sweep=experiments/sweeps/isoflop_tiny.py --workdir=runs/isoflop
  python -m scaling.sweep --table --workdir=runs/isoflop
  python -m scaling.fit --runs=runs/isoflop --law=chinchilla --out=runs/isoflop/fit
  python -m scaling.sweep --search=experiments/sweeps/rate_search.py --trials=32 --batch=16

The same command again runs only what is missing."""

# Launcher -> the flags that it understands. In jobs of skypilot and jobset the platform counts
# attempts, and one cell runs after another.
LAUNCHERS = {
    "local": ("workers", "tries", "group"),
    "slurm": ("workers", "tries", "group", "resources"),
    "skypilot": ("workers", "resources", "submit"),
    "jobset": ("workers", "resources", "submit"),
}
# What a command line asks for, and the other flags that go with it.
JOBS = {
    "sweep": ("workdir", "dry_run", "yes", "retry", "launcher", *LAUNCHERS["slurm"], "submit"),
    "search": ("workdir", "trials", "batch"),
    "table": ("workdir", "tries"),
    "worker": ("workdir", "cells", "tries", "group", "cores", "parent"),
    "part": ("workdir",),
}
NAMES = ", ".join(LAUNCHERS)
OPTIONS = (
    cli.Option("sweep", "The sweep, and the argument of its get_sweep.", "FILE[:ARG]"),
    cli.Option("search", "Or a search, and the argument of its get_search.", "FILE[:ARG]"),
    cli.Option("workdir", "Where it lives. Default: runs/NAME of the file.", "DIR"),
    cli.Option(
        "dry_run",
        "Show the cells, what they cost and what exists, and stop. Before anything ran, the time is "
        "that of steps timed on this machine (local), for which the data are prepared.",
    ),
    cli.Option("yes", "Also a design of more than 1,000 cells."),
    cli.Option("retry", "Give cells that have failed for good all their attempts again."),
    cli.Option("launcher", f"One of {NAMES}; default local.", "NAME"),
    cli.Option(
        "workers", "How many workers; default: one for each device or core.", "N", "integer"
    ),
    cli.Option("group", "Most cells that train in one program; 1 for none.", "N", "integer"),
    cli.Option("tries", "Attempts before a cell has failed; default 3.", "N", "integer"),
    cli.Option("resources", "What the launcher asks for, see its module.", "KEY=VALUE,..."),
    cli.Option("submit", "skypilot, jobset: hand the files over instead of only writing them."),
    cli.Option("trials", "With --search: stop after this many trials; default 32.", "N", "integer"),
    cli.Option("batch", "With --search: trials proposed at once; default 16.", "N", "integer"),
    cli.Option("table", "Write table.csv from the run directories, and stop."),
    cli.Option("worker", "Run what is left of the sweep in --workdir in this process."),
    cli.Option("cells", "With --worker: only these cells.", "ID,ID,..."),
    cli.Option("cores", "With --worker: stay on these processor cores.", "I,I,..."),
    cli.Option("parent", "With --worker: stop when this parent process ends.", "PID", "integer"),
    cli.Option("part", "Run part I (from 0) of N, as the hosts of a TPU pod do.", "I/N"),
)

Values = Mapping[str, Any]


@cli.front_door
def main(argv: Sequence[str]) -> int:
    """Does what the command line says; raises ConfigError where it, the file or a cell is wrong."""
    values, _ = cli.read(argv, OPTIONS, USAGE)
    job = _check(values)
    if job != "table" and not values.get("dry_run"):
        from scaling.track import allocator, machine

        if not machine.device_files():
            allocator.restart()  # workers that this process starts have its settings
    jobs = {"sweep": _sweep, "search": _search, "table": _table, "worker": _worker, "part": _part}
    return jobs[job](values)


def _check(values: Values) -> str:
    """The job; refuses flags that it would ignore."""
    job = cli.job_of(values, JOBS)
    if not job:
        remedy = f"write --sweep=FILE[:ARG]{cli.files_here('experiments/sweeps')}"
        raise ConfigError("--sweep", "is required", remedy)
    launcher = values.get("launcher", "local")
    if launcher not in LAUNCHERS:
        raise ConfigError("--launcher", f"there is no {launcher!r}", f"one of {NAMES}")
    foreign = {flag for flags in LAUNCHERS.values() for flag in flags} - {*LAUNCHERS[launcher]}
    for flag, value in values.items():
        if value is False:
            continue
        if job == "sweep" and flag in foreign:
            what = f"does not go with --launcher={launcher}"
            raise ConfigError(f"--{flag}", what, "leave it out")
        if value == 0:
            raise ConfigError(f"--{flag}", "must be at least 1", f"write --{flag}=N")
    if job in ("table", "worker", "part") and "workdir" not in values:
        raise ConfigError("--workdir", f"is required with --{job}", "write --workdir=DIR")
    return job


def _sweep(values: Values) -> int:
    """Cells, table, launch, table."""
    from scaling.sweeps import collect, design, display, launchers, sweep_dir, timing, trunks
    from scaling.sweeps.launchers import local
    from scaling.sweeps.ledger import Ledger

    started = time.perf_counter()
    launcher = values.get("launcher", "local")
    flags = LAUNCHERS[launcher]
    request = launchers.Request(**{flag: values[flag] for flag in flags if flag in values})
    declared = design.load_sweep(values["sweep"])
    workdir = pathlib.Path(values.get("workdir", f"runs/{declared.name}")).absolute()
    cells, notes = design.cells(declared, many=None if values.get("yes") else design.MANY)
    notes += sweep_dir.check_claim(workdir, cells) + trunks.notes(cells)
    print(f"sweep {declared.name} in {workdir}")

    def place() -> timing.Place:
        return local.slots(request.workers, len(cells))[0]

    here = place if launcher == "local" else None
    preview, speeds, basis = timing.look(workdir, declared.name, cells, here)
    print(display.overview(preview, declared, request.tries, speeds, basis))
    for note in notes:
        print(f"note: {note}")
    if values.get("dry_run"):
        return 0
    sweep = sweep_dir.claim(workdir, declared.name, cells, preview.held_out)
    if values.get("retry"):
        print(f"{len(Ledger(sweep).reset(request.tries))} failed cells get their attempts again")
    code = launchers.launch(launcher, sweep, request)
    if launcher in ("local", "slurm"):
        path = collect.write(sweep.path, request.tries)
        print(f"wrote {path} after {time.perf_counter() - started:.0f} s")
    return code


def _search(values: Values) -> int:
    from scaling.sweeps import search
    from scaling.sweeps.design import load_declared

    declared, name = load_declared(values["search"], "--search", search.Search)
    folder = pathlib.Path(values.get("workdir", f"runs/{name}")).absolute()
    trials, batch = values.get("trials", search.TRIALS), values.get("batch", search.BATCH)
    return search.run(folder, declared, trials, batch, name)


def _table(values: Values) -> int:
    from scaling.sweeps import collect, worker

    print(f"wrote {collect.write(values['workdir'], values.get('tries', worker.TRIES))}")
    return 0


def _worker(values: Values) -> int:
    if "cores" in values:
        available = os.sched_getaffinity(0)
        if not set(values["cores"].split(",")) <= {str(core) for core in available}:
            what = f"{values['cores']!r} are not cores of this process"
            raise ConfigError("--cores", what, f"it has {sorted(available)}")
        # Before JAX counts the cores that it may use.
        os.sched_setaffinity(0, {int(core) for core in values["cores"].split(",")})
    from scaling.sweeps import worker

    cells = [cell for cell in values.get("cells", "").split(",") if cell]
    limits = {flag: values[flag] for flag in ("tries", "group", "parent") if flag in values}
    return worker.work(values["workdir"], cells, **limits)


def _part(values: Values) -> int:
    from scaling.sweeps.part import run_part

    return run_part(values["workdir"], values["part"])


if __name__ == "__main__":
    sys.exit(main())
