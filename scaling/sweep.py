"""`python -m scaling.sweep`: run a declared set of runs to the end, and make its table.

    sweep file -> cells, all checked -> table and warnings -> launcher -> workers -> table.csv

Everything that can be wrong with the file or the command line ends here with exit code 2, before a
run starts. Exit codes: 0 done; 2 bad usage or config; 75 told to stop, run again; 1 anything else.
"""

import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any

from scaling import cli
from scaling.configs import ConfigError

LAUNCHERS = ("local", "slurm", "skypilot", "jobset")
USAGE = """\
Run a sweep, or look at one.

  python -m scaling.sweep --sweep=experiments/sweeps/isoflop_tiny.py --workdir=runs/isoflop --dry_run
  python -m scaling.sweep --sweep=experiments/sweeps/isoflop_tiny.py --workdir=runs/isoflop
  python -m scaling.sweep --table --workdir=runs/isoflop
  python -m scaling.fit --runs=runs/isoflop --law=chinchilla --out=runs/isoflop/fit

The same command again runs only what is missing."""

OPTIONS = (
    cli.Option("sweep", "The sweep, and the argument of its get_sweep.", "FILE[:ARG]"),
    cli.Option("workdir", "Where the sweep lives. Default: runs/NAME of the sweep.", "DIR"),
    cli.Option("dry_run", "Show the cells, what they cost and what exists, and stop."),
    cli.Option("table", "Write table.csv from the run directories, and stop."),
    cli.Option("yes", "Also a design of more than 1,000 cells."),
    cli.Option("launcher", f"One of {', '.join(LAUNCHERS)}; default local.", "NAME"),
    cli.Option("workers", "How many workers; default: one a device or core.", "N", "integer"),
    cli.Option("group", "Most cells that train in one program; 1 for none.", "N", "integer"),
    cli.Option("tries", "Attempts that may fail before a cell has failed; default 3.", "N", "integer"),
    cli.Option("resources", "What the launcher asks for, see its module.", "KEY=VALUE,..."),
    cli.Option("submit", "skypilot, jobset: hand the files over instead of only writing them."),
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """The front door; returns the exit code."""
    return cli.run(door, sys.argv[1:] if argv is None else argv)


def door(argv: Sequence[str]) -> int:
    """Does what the command line says.

    Raises:
      ConfigError: the command line, the sweep file or one of its cells is wrong.
    """
    values, _ = cli.read(argv, OPTIONS, USAGE)
    _check(values)
    from scaling.sweeps.ledger import LedgerError
    from scaling.sweeps.local import LaunchError

    try:
        return _tabulate(values) if values.get("table") else _sweep(values)
    except (LedgerError, LaunchError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _check(values: dict[str, Any]) -> None:
    if values.get("table"):
        if "workdir" not in values:
            raise ConfigError("--workdir", "is required with --table", "write --workdir=DIR")
        for flag in values.keys() - {"table", "workdir", "tries"}:
            raise ConfigError(f"--{flag}", "does not go with --table", "leave it out")
        return
    if "sweep" not in values:
        folder = pathlib.Path("experiments/sweeps")
        found = ", ".join(sorted(str(path) for path in folder.glob("*.py")))
        here = f"; here are {found}" if found else ""
        raise ConfigError("--sweep", "is required", f"write --sweep=FILE[:ARG]{here}")
    launcher = values.get("launcher", "local")
    if launcher not in LAUNCHERS:
        raise ConfigError(
            "--launcher", f"there is no {launcher!r}", f"one of {', '.join(LAUNCHERS)}"
        )
    for flag in ("workers", "tries", "group"):
        if values.get(flag) == 0:
            raise ConfigError(f"--{flag}", "0 do nothing", f"write --{flag}=N, at least 1")
    # What these two write runs on a platform that counts attempts, and one cell after another.
    for flag in ("tries", "group"):
        if flag in values and launcher in ("skypilot", "jobset"):
            raise ConfigError(
                f"--{flag}", f"does not go with --launcher={launcher}", "leave it out"
            )
    if "resources" in values and launcher == "local":
        raise ConfigError("--resources", "does not go with --launcher=local", "leave it out")
    if values.get("submit") and launcher not in ("skypilot", "jobset"):
        raise ConfigError("--submit", f"does not go with --launcher={launcher}", "leave it out")


def _tabulate(values: dict[str, Any]) -> int:
    from scaling.sweeps import collect

    path = collect.write(values["workdir"], values.get("tries", 3))
    print(f"wrote {path}")
    return 0


def _sweep(values: dict[str, Any]) -> int:
    """Cells, table, launch, table."""
    from scaling.sweeps import collect, design, sweep_dir, table

    started = time.perf_counter()
    declared = design.load_sweep(values["sweep"])
    workdir = pathlib.Path(values.get("workdir", f"runs/{declared.name}")).absolute()
    many = None if values.get("yes") else design.MANY
    cells, notes = design.cells(declared, many=many)
    notes += sweep_dir.check_claim(workdir, cells) + _unshared(cells)
    tries = values.get("tries", 3)
    preview = sweep_dir.preview(workdir, declared.name, cells)
    print(f"sweep {declared.name} in {workdir}")
    print(
        "\n".join([table.overview(preview, declared, tries), *(f"note: {note}" for note in notes)])
    )
    if values.get("dry_run"):
        return 0
    sweep = sweep_dir.claim(workdir, declared.name, cells)
    code = _launch(sweep, values, tries)
    if values.get("launcher", "local") in ("local", "slurm"):
        path = collect.write(sweep.path, tries)
        print(f"wrote {path} after {time.perf_counter() - started:.0f} s")
    return code


def _unshared(cells: Sequence[Any]) -> list[str]:
    """A note on runs under warm-up, stable, decay that could share a trunk and do not."""
    from scaling.sweeps import trunks

    stable = [cell for cell in cells if cell.config.optim.schedule.name == "wsd"]
    refused = trunks.refused(stable)
    if not refused:
        return []
    why = next(iter(refused.values()))
    return [
        f"{len(refused)} cells differ from longer ones in length alone and share no trunk: {why}"
    ]


def _launch(sweep: Any, values: dict[str, Any], tries: int) -> int:
    launcher = values.get("launcher", "local")
    if launcher == "local":
        from scaling.sweeps import local

        return local.launch(sweep, values.get("workers"), tries, values.get("group"))
    import importlib

    module = importlib.import_module(f"scaling.sweeps.{launcher}")
    asked = module.parse(values.get("resources", ""))
    return module.launch(
        sweep, asked, values.get("workers"), tries, values.get("group"), bool(values.get("submit"))
    )


if __name__ == "__main__":
    sys.exit(main())
