"""The command line of `python -m scaling.plan`. Imports neither JAX nor numpy."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from scaling import cli
from scaling.cli import Option
from scaling.configs.errors import ConfigError
from scaling.configs.types import PositiveFloat, PositiveInt
from scaling.laws.arguments import numbers

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

RATES = ("flops", "bandwidth", "link", "memory", "usable")

Values = Mapping[str, Any]


def hardware(text: str) -> dict[str, float]:
    """`flops=1e12,link=1e10`: numbers of a device, above 0."""
    changes = numbers(text)
    for key, value in changes.items():
        if key not in RATES:
            raise ValueError(f"{key!r} is not a number of a device: {', '.join(RATES)}")
        if value <= 0:
            raise ValueError(f"{key}={value:g} is not above 0")
    return changes


OPTIONS = (
    cli.CONFIG,
    cli.WORKDIR,
    Option("topology", "v5e-256, v5p-128, v5p:4x4x8, v6e-64, v4-32, v7x-128, cpu-8, gpu.", "NAME"),
    Option(
        "slices", "Slices of that topology, joined by the data-centre network.", "N", PositiveInt
    ),
    Option("json", "Also write the report as JSON.", "FILE"),
    Option(
        "effort", "Of the compiler: default, or least (quicker, nearly the same program).", "EFFORT",
        Literal["default", "least"],
    ),
    Option("hlo", "Also write the compiled program as text.", "FILE"),
    Option("search", "Find mesh, microbatch and remat that fit and are fastest by the estimate."),
    Option("compiles", "With --search: compile at most so many candidates (8).", "N", PositiveInt),
    Option("jobs", "Compiles at a time (1; each takes a core and 1 to 2 GB).", "N", PositiveInt),
    Option("budget", "What size to train: 1000h (chip-hours) or 50000usd, with --fit.", "BUDGET"),
    Option("fit", "The law for --budget: a fit.json of scaling.fit.", "FIT"),
    Option("sweep", "Plan every cell of a sweep file.", "FILE"),
    Option(
        "hardware",
        "Numbers of a device in place of the table's: flops, bandwidth, link, usable, per second or "
        "bytes.",
        "KEY=VALUE,...", hardware,
    ),
    Option("forecast", "Write RUN/forecast.json from a fit.json, a run table or a sweep.", "FROM"),
    Option("law", "The law to fit where --forecast is not a fit.json (combined).", "NAME"),
    Option(
        "at", "Variables of the law that the config does not tell.", "NAME=VALUE,...", numbers
    ),
    Option(
        "count", "Which parameters the table counts: total, non_embedding, active.", "COUNT",
        Literal["total", "non_embedding", "active"],
    ),
    Option(
        "flops", "Which FLOPs the table counts, for laws of them: six_nd, exact.", "COUNT",
        Literal["six_nd", "exact"],
    ),
    Option(
        "graded", "Runs whose graded forecasts scale the error of the law's form.", "DIR"
    ),
    Option("plan", "Memory and step time from a plan of this config.", "PLAN_JSON"),
    Option("price", "Dollars of a chip-hour.", "USD", PositiveFloat),
    Option("grade", "Grade a run that has ended against its forecast, again.", "RUN"),
    Option("scoreboard", "Calibration over all graded runs below a directory.", "DIR"),
)  # fmt: skip

# The flag that asks for a job, and the flags that the job understands beside its own.
JOBS = {
    "forecast": ("config", "workdir", "law", "at", "count", "flops", "graded", "plan", "price"),
    "grade": (),
    "scoreboard": (),
    "sweep": ("topology", "slices", "jobs", "hardware"),
    "search": ("config", "topology", "slices", "json", "compiles", "jobs", "hardware"),
    # Last: the others take the topology as a flag of theirs.
    "topology": ("config", "slices", "json", "hlo", "price", "hardware", "budget", "fit", "effort"),
}


def parse(argv: Sequence[str]) -> tuple[str, Values, tuple[str, ...]]:
    """(job, {flag: value}, overrides) of a command line; ConfigError for what the job does not take."""
    values, overrides = cli.read(argv, OPTIONS, USAGE)
    if not {"config", *JOBS} & values.keys():
        jobs = ", ".join(f"--{name}" for name in JOBS)
        raise ConfigError("scaling.plan", "nothing was asked for", f"give one of {jobs}")
    job = cli.job_of(values, JOBS, overrides, default="topology")
    if "config" in JOBS[job] and "config" not in values:
        raise ConfigError("--config", "is required", "write --config=FILE[:ARG]")
    if ("budget" in values) != ("fit" in values):
        given, lacking = ("budget", "fit") if "budget" in values else ("fit", "budget")
        raise ConfigError(f"--{lacking}", f"is required with --{given}", "give both")
    return job, values, overrides
