"""`python -m scaling.plan`: know before you pay, and learn afterwards how well you knew.

    argv -> cli.read -> one job of JOBS; without one of their flags, a plan:
    config, topology -> planning.topology -> planning.compile -> planning.report

Exit codes: 0 done (of a plan: it fits); 1 it does not fit, or something failed; 2 bad usage or
config. Needs no accelerator: the TPU compiler comes with the extra `tpu`.
"""

import dataclasses
import math
import os
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from scaling import cli, configs
from scaling.cli import Option
from scaling.configs import ConfigError
from scaling.track import files
from scaling.track.paths import cache_root

EXIT_DOES_NOT_FIT = 1
RATES = ("flops", "bandwidth", "link", "memory", "usable")

USAGE = """\
Plan a run, forecast it, and grade the forecast when it is over.

  python -m scaling.plan --config=experiments/llama.py:7b --topology=v5e-256
  python -m scaling.plan --config=experiments/llama.py:70b --topology=v5p:4x8x8 --slices=2
  python -m scaling.plan --config=experiments/quickstart.py --topology=cpu-8 --json=plan.json
  python -m scaling.plan --config=experiments/llama.py:7b --topology=v5e-64 --search
  python -m scaling.plan --config=experiments/llama.py:7b --topology=v5e-256 \\
      --budget=50000h --fit=runs/fit
  python -m scaling.plan --config=experiments/quickstart.py --forecast=runs/fit --workdir=runs/big
  python -m scaling.plan --grade=runs/big
  python -m scaling.plan --scoreboard=runs"""

OPTIONS = (
    cli.CONFIG,
    cli.WORKDIR,
    Option("topology", "v5e-256, v5p-128, v5p:4x4x8, v6e-64, v4-32, v7x-128, cpu-8, gpu.", "NAME"),
    Option("slices", "Slices of that topology, joined by the data-centre network.", "N", "integer"),
    Option("json", "Also write the report as JSON.", "FILE"),
    Option(
        "effort", "Of the compiler: default, or least (quicker, nearly the same program).", "EFFORT"
    ),
    Option("hlo", "Also write the compiled program as text.", "FILE"),
    Option("search", "Find mesh, microbatch and remat that fit and are fastest by the estimate."),
    Option("compiles", "With --search: compile at most so many candidates (8).", "N", "integer"),
    Option("jobs", "Compiles at a time (1; each takes a core and 1 to 2 GB).", "N", "integer"),
    Option("budget", "What size to train: 1000h (chip-hours) or 50000usd, with --fit.", "BUDGET"),
    Option("fit", "The law for --budget: a fit.json of scaling.fit.", "FIT"),
    Option("sweep", "Plan every cell of a sweep file.", "FILE"),
    Option(
        "hardware",
        "Numbers of a device in place of the table's: flops, bandwidth, link, usable, per second or "
        "bytes.",
        "KEY=VALUE,...",
    ),
    Option("forecast", "Write RUN/forecast.json from a fit.json, a run table or a sweep.", "FROM"),
    Option("law", "The law to fit where --forecast is not a fit.json.", "NAME"),
    Option("at", "Variables of the law that the config does not tell.", "NAME=VALUE,..."),
    Option("count", "Which parameters the table counts: total, non_embedding, active.", "COUNT"),
    Option("flops", "Which FLOPs the table counts, for laws of them: six_nd, exact.", "COUNT"),
    Option("plan", "Memory and step time from a plan of this config.", "PLAN_JSON"),
    Option("price", "Dollars of a chip-hour.", "USD", "number"),
    Option("grade", "Grade a run that has ended against its forecast, again.", "RUN"),
    Option("scoreboard", "Calibration over all graded runs below a directory.", "DIR"),
)

Values = Mapping[str, Any]
Job = Callable[[Values, Sequence[str]], int]


def main(argv: Sequence[str] | None = None) -> int:
    """The front door; returns the exit code."""
    return cli.run(door, sys.argv[1:] if argv is None else argv)


def door(argv: Sequence[str]) -> int:
    """Does what the command line says.

    Raises:
      ConfigError: the command line or the config is wrong.
    """
    values, overrides = cli.read(argv, OPTIONS, USAGE)
    asked = [name for name in JOBS if name in values]
    if not asked:
        if "config" in values:
            _target(values)  # says which topologies there are
        jobs = ", ".join(f"--{name}" for name in JOBS)
        raise ConfigError("scaling.plan", "nothing was asked for", f"give one of {jobs}")
    job, understood = JOBS[asked[0]]
    for name in (*values, *(["config"] if overrides else [])):
        if name not in (asked[0], *understood):
            raise ConfigError(f"--{name}", f"does not go with --{asked[0]}", "leave it out")
    return job(values, overrides)


# --- jobs ------------------------------------------------------------------------------------


def plan(values: Values, overrides: Sequence[str]) -> int:
    """Compiles one config for one target and reports; with a budget, says what it buys."""
    config, target, changes = _config(values, overrides), _target(values), hardware_changes(values)
    if ("budget" in values) != ("fit" in values):
        given, lacking = ("budget", "fit") if "budget" in values else ("fit", "budget")
        raise ConfigError(f"--{lacking}", f"is required with --{given}", "give both")
    from scaling.planning import compile as compiling
    from scaling.planning import cost, report
    from scaling.track import compile_cache

    if target.platform != "tpu":
        # A run of the same config, code, compiler and devices on this machine finds the step in the
        # cache that it uses itself, whose key is all of these; anything else it compiles anew.
        note = compile_cache.enable()
        if note:
            print(note, file=sys.stderr)
    effort = values.get("effort", "default")
    if effort not in ("default", "least"):
        raise ConfigError("--effort", f"{effort!r} is not a level", "give default or least")
    text_path = pathlib.Path(values["hlo"]) if "hlo" in values else None
    compiled = compiling.compile_plan(config, target, text_path, changes, effort)
    paid = cost.cost(compiled, values.get("price"))
    print(report.text(compiled, paid))
    if "json" in values:
        data = compiling.to_json(compiled)
        data["cost"] = None if paid is None else dataclasses.asdict(paid)
        files.write_json(values["json"], data)
    if "budget" in values:
        return _budget(compiled, values)
    return 0 if compiled.fits else EXIT_DOES_NOT_FIT


def _budget(compiled: Any, values: Values) -> int:
    """Prints the model size and tokens that a budget buys, at both ends of the step time.

    Args:
      compiled: plan of a config like the one to train, on the hardware to pay for: gives the FLOP/s.
      values: flags: `budget`, `fit`, `price`.
    """
    from scaling.laws import allocation
    from scaling.planning import cost, law_fit, report

    hours = cost.chip_hours(values["budget"], cost.price_of(compiled.target, values.get("price")))
    if compiled.estimate is None:
        raise ConfigError(
            "--budget",
            f"needs the speed of {compiled.device_kind}, which is not known",
            "give --hardware=flops=...,bandwidth=...,link=...",
        )
    # The law counts FLOPs as its table does, so the rate is of 6 N D: tokens and parameters alone.
    per_step = 6.0 * compiled.params * compiled.tokens
    seconds = hours * 3600 / compiled.target.chips
    ends = (compiled.estimate.high, compiled.estimate.low)
    law = law_fit.load(values["fit"], None)
    best = allocation.optimum(law.result, [per_step * seconds / end for end in ends], law.draws)
    rows = []
    for label, one in zip(("nothing overlapped", "all overlapped"), best, strict=True):
        ranges = one.intervals or {}
        numbers = (
            f"{getattr(one, name):.3g} [{ranges[name][0]:.3g}, {ranges[name][1]:.3g}]"
            for name in ("params", "tokens", "loss")
        )
        rows.append((label, f"{one.flops:.3g}", *numbers, "; ".join(one.warnings)))
    print(f"\n{hours:,.0f} chip-hours of {compiled.target.name} under {law.result.law.name}, 95 %:")
    header = ("step time", "FLOPs (6ND)", "parameters", "tokens", "loss", "")
    print(report.table(header, rows))
    return 0


def search(values: Values, overrides: Sequence[str]) -> int:
    """Searches for the fastest settings that fit, prints what it tried and the lines to paste."""
    from scaling.planning import report
    from scaling.planning import search as searching

    result = searching.search(
        _config(values, overrides),
        _target(values),
        changes=hardware_changes(values),
        most=_at_least_1(values, "compiles", 8),
        jobs=_at_least_1(values, "jobs", 1),
        cache=plan_cache(),
        say=lambda line: print(line, flush=True),
    )
    rows = [(one.candidate.label(), *one.cells()) for one in result.tried]
    print("\n" + report.table(("settings", *searching.HEADER), rows))
    print(f"{result.pruned} could not fit by the lower bound, {result.left} were not compiled")
    if result.best is None:
        print("nothing fits: take more chips, a smaller batch or a smaller model")
    else:
        print("\nfastest that fits, by the estimate:")
        print("\n".join("  " + line for line in result.best.candidate.lines()))
    if "json" in values:
        files.write_json(values["json"], result.to_json())
    return 0 if result.best else EXIT_DOES_NOT_FIT


def sweep(values: Values, _: Sequence[str]) -> int:
    """Plans every cell of a sweep: which fit, and what would help the others."""
    from scaling.planning import report
    from scaling.planning import search as searching
    from scaling.sweeps import design

    target, changes = _target(values), hardware_changes(values)
    cells, warnings = design.cells(design.load_sweep(values["sweep"]))
    for warning in warnings:
        print(warning)
    chosen = [searching.Candidate(dict(cell.axes), cell.config) for cell in cells]
    jobs = _at_least_1(values, "jobs", 1)
    tried = []
    for one in searching.compile_all(
        chosen, target, jobs=jobs, cache=plan_cache(), effort="default", changes=changes
    ):
        tried.append(one)
        print(f"[{len(tried)}/{len(chosen)}] {one}", flush=True)
    rows = [
        (
            one.candidate.label(),
            *one.cells(),
            "" if one.fits else searching.remedy(one.candidate.config, target, changes),
        )
        for one in tried
    ]
    print("\n" + report.table(("cell", *searching.HEADER, "would fit with"), rows))
    return 0 if all(one.fits for one in tried) else EXIT_DOES_NOT_FIT


def forecast(values: Values, overrides: Sequence[str]) -> int:
    """Forecasts a run before it starts: writes RUN/forecast.json."""
    at = numbers(values, "at")
    # Before JAX is imported. Fits run on the CPU: a forecast must not grab an accelerator's memory.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    config = _config(values, overrides)
    workdir = pathlib.Path(values.get("workdir") or f"runs/{config.name}")  # as scaling.main
    from scaling.data import DataError
    from scaling.planning import forecast as forecasting
    from scaling.planning import law_fit, target
    from scaling.planning.plan_record import PlanRecord

    given = PlanRecord.read(values["plan"]) if "plan" in values else None
    law = law_fit.load(values["forecast"], values.get("law"))
    try:
        counts = values.get("count", law.count), values.get("flops", law.flops)
        run = target.describe(config, *counts)
    except DataError as error:
        raise ConfigError("data", str(error)) from error
    content = forecasting.build(run, law, at, given, values.get("price"))
    path = forecasting.write(workdir, content)
    print(forecasting.describe(content))
    print(f"wrote {path}; start the run there and it grades itself")
    return 0


def grade(values: Values, _: Sequence[str]) -> int:
    """Grades a run directory again."""
    from scaling.track import grade as grading

    folder = _folder(values, "grade")
    try:
        result = grading.regrade(folder)
    except grading.GradeError as error:
        raise ConfigError("--grade", str(error)) from error
    print(grading.describe(result))
    return 0


def scoreboard(values: Values, _: Sequence[str]) -> int:
    """Scores all graded runs below a directory; writes scoreboard.json and pictures there."""
    from scaling.planning import scoreboard as scoring

    folder = _folder(values, "scoreboard")
    try:
        record = scoring.score(folder)
        files.write_json(folder / scoring.NAME, record)
    except (scoring.ScoreboardError, OSError) as error:
        raise ConfigError("--scoreboard", str(error)) from error
    print(scoring.describe(record))
    try:
        from scaling.planning.scoreboard_figure import draw

        pictures = draw(record, folder)
    except ImportError as error:
        print(f"no picture: {error}; pip install 'scaling[fit]'")
        pictures = []
    print("wrote " + ", ".join(str(path) for path in (folder / scoring.NAME, *pictures)))
    return 0


# The flag that asks for a job, what it does, and the flags that it understands beside its own.
JOBS: dict[str, tuple[Job, tuple[str, ...]]] = {
    "forecast": (
        forecast,
        ("config", "workdir", "law", "at", "count", "flops", "plan", "price"),
    ),
    "grade": (grade, ()),
    "scoreboard": (scoreboard, ()),
    "sweep": (sweep, ("topology", "slices", "jobs", "hardware")),
    "search": (
        search,
        ("config", "topology", "slices", "json", "compiles", "jobs", "hardware"),
    ),
    # Last: the others take the topology as a flag of theirs.
    "topology": (
        plan,
        ("config", "slices", "json", "hlo", "price", "hardware", "budget", "fit", "effort"),
    ),
}


# --- flags -----------------------------------------------------------------------------------


def plan_cache() -> pathlib.Path:
    """Where reports of compiles are kept: plans/ in the cache."""
    return cache_root() / "plans"


def hardware_changes(values: Values) -> dict[str, float]:
    """The numbers of `--hardware`.

    Raises:
      ConfigError: an unknown key, or a value that is not above 0.
    """
    changes = numbers(values, "hardware")
    for key, value in changes.items():
        if key not in RATES:
            raise ConfigError(
                "--hardware", f"{key!r} is not a number of a device", f"choose of {RATES}"
            )
        if value <= 0:
            raise ConfigError("--hardware", f"{key}={value:g} is not above 0", "give its size")
    return changes


def numbers(values: Values, flag: str) -> dict[str, float]:
    """The flag's `a=1,b=2e9` as numbers; empty where it is not given.

    Raises:
      ConfigError: a part of it is not NAME=VALUE with a finite number.
    """
    pairs: dict[str, float] = {}
    for part in filter(None, values.get(flag, "").split(",")):
        name, _, text = part.partition("=")
        try:
            pairs[name.strip()] = float(text)
        except ValueError:
            pairs[name.strip()] = math.nan
        if not name or not math.isfinite(pairs[name.strip()]):
            raise ConfigError(
                f"--{flag}", f"{part!r} is not NAME=VALUE with a number", f"write --{flag}=x=1e9"
            )
    return pairs


def _config(values: Values, overrides: Sequence[str]) -> Any:
    if "config" not in values:
        raise ConfigError("--config", "is required", "write --config=FILE[:ARG]")
    return configs.load_resolved(values["config"], overrides)


def _target(values: Values) -> Any:
    """The hardware that `--topology` and `--slices` name, with the process made ready for it."""
    from scaling.planning import topology

    if "topology" not in values:
        raise ConfigError("--topology", "is required", topology.listing())
    target = topology.parse(values["topology"], values.get("slices", 1))
    topology.prepare(target)
    return target


def _folder(values: Values, flag: str) -> pathlib.Path:
    path = pathlib.Path(values[flag])
    if not path.is_dir():
        raise ConfigError(
            f"--{flag}", f"{path} is not a directory", "give a directory that holds runs"
        )
    return path


def _at_least_1(values: Values, flag: str, default: int) -> int:
    number = int(values.get(flag, default))
    if number < 1:
        raise ConfigError(f"--{flag}", f"is {number}", "give at least 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
