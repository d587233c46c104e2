"""The command line of `python -m scaling.fit`, as options. Imports neither JAX nor numpy."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from typing import Literal

from scaling import cli
from scaling.configs.errors import ConfigError

USAGE = """\
Fit a scaling law to a table of runs; writes DIR/fit.json, DIR/report.html and DIR/figures/*.svg.

  python -m scaling.fit --runs=runs.csv --law=chinchilla --out=out \\
      --columns=params=n_params,tokens=train_tokens,loss=eval_loss \\
      --budgets=1e21,1e22 --predict=params=7e9,tokens=2e11"""


def pairs(text: str) -> dict[str, str]:
    """`a=x,b=y` as a dictionary. A part without = goes on with the value before, comma and all."""
    values: dict[str, str] = {}
    last = ""
    for part in text.split(","):
        name, sign, value = part.partition("=")
        if not sign and last and part.strip():
            values[last] = f"{values[last]},{part}".rstrip()
            continue
        last = name.strip()
        if not sign or not last or not value.strip():
            raise ValueError(f"{part!r} is not NAME=VALUE")
        values[last] = value.strip()
    return values


def numbers(text: str) -> dict[str, float]:
    """`a=1,b=2` as a dictionary of finite numbers."""
    return {name: number(value) for name, value in pairs(text).items()}


def number(text: str) -> float:
    """A finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is not a finite number")
    return value


def power(text: str) -> float:
    """A finite number, at least 0."""
    if number(text) < 0:
        raise ValueError(f"{text} is below 0")
    return number(text)


def positive(text: str) -> float:
    """A finite number above 0."""
    if number(text) <= 0:
        raise ValueError(f"{text} is not above 0")
    return number(text)


def tokens(text: str) -> float:
    """A finite number of at least 0."""
    if number(text) < 0:
        raise ValueError(f"{text} is below 0")
    return number(text)


def count(text: str) -> int:
    """A whole number of at least 0, also written as 1e6."""
    if number(text) < 0 or not number(text).is_integer():
        raise ValueError(f"{text!r} is not a whole number of at least 0")
    return int(number(text))


def level(text: str) -> float:
    """A number between 0 and 1."""
    if not 0 < number(text) < 1:
        raise ValueError(f"{text} is not between 0 and 1")
    return number(text)


def bounds(text: str) -> dict[str, tuple[float, float]]:
    """`a=LOW:HIGH,b=LOW:` as a dictionary; an end left out is open."""
    values = {}
    for name, value in pairs(text).items():
        low, colon, high = value.partition(":")
        if not colon:
            raise ValueError(f"{name}={value} is not NAME=LOW:HIGH")
        values[name] = (
            number(low) if low else -math.inf,
            number(high) if high else math.inf,
        )
    return values


def names(text: str) -> list[str]:
    """`a,b` as a list."""
    return [part.strip() for part in text.split(",") if part.strip()]


def budgets(text: str) -> list[float]:
    """`1e21,1e22` as a list of numbers above 0."""
    return [positive(part) for part in names(text)]


def one_of(*choices: str) -> Callable[[str], str]:
    """One of some words."""

    def read(text: str) -> str:
        if text not in choices:
            raise ValueError(f"{text!r} is not one of {', '.join(choices)}")
        return text

    return read


@dataclasses.dataclass(frozen=True)
class FitOptions:
    """A command line of `python -m scaling.fit`; each attribute is the flag of its name in OPTIONS.

    Attributes:
      columns, fix, tie, bounds, at: by name, of all times that the flag was given.
      space, weights, resample: None for the default that depends on the law or the table.
    """

    runs: str = ""
    law: str = ""
    out: str = ""
    list: bool = False
    columns: dict[str, str] = dataclasses.field(default_factory=dict)
    spelled: bool = False
    exclude: Sequence[str] = ()
    last_of: str | None = None
    best_of: Sequence[str] = ()
    all_rows: bool = False
    by: str | None = None
    count: str = "total"
    flops: str = "six_nd"
    curves: bool = False
    max_rows: int = 1_000_000
    loss: Literal["huber", "lsq", "l1"] = "huber"
    delta: float | None = None
    space: Literal["log", "raw", "log1p"] | None = None
    reduction: Literal["sum", "mean"] = "sum"
    over: float = 1.0
    weights: str | None = None
    lean: float | None = None
    fix: dict[str, float] = dataclasses.field(default_factory=dict)
    tie: dict[str, str] = dataclasses.field(default_factory=dict)
    bounds: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    starts: int = 32
    bootstrap: int = 1000
    resample: Literal["points", "runs", "parametric"] | None = None
    profiles: str = "yes"
    level: float = 0.95
    seed: int = 0
    budgets: Sequence[float] = ()
    cost: str = "6nd"
    inference_tokens: float = 0.0
    at: dict[str, float] = dataclasses.field(default_factory=dict)
    predict: Sequence[dict[str, float]] = ()
    compare: Sequence[str] = ()
    device: str = "cpu"
    debug: bool = False


def _choice(flag: str, help_: str, *choices: str) -> cli.Option:
    return cli.Option(flag, help_, "|".join(choices), one_of(*choices))


def _repeated(flag: str, help_: str, metavar: str, kind: Callable[[str], object]) -> cli.Option:
    return cli.Option(flag, help_, metavar, kind, repeat=True)


OPTIONS = (
    cli.Option("runs", "Table (.csv, .tsv, .jsonl, .json), folder of them, or of runs.", "TABLE"),
    cli.Option("law", "A law of the catalogue, or package.module:LAW.", "NAME"),
    cli.Option("out", "Where fit.json, report.html and figures/ go.", "DIR"),
    cli.Option("list", "List the laws and stop."),
    _repeated("columns", "Where columns come from; repeat.", "NAME=COLUMN[*FACTOR],...", pairs),
    _repeated("exclude", "Rows to leave out (> >= < <= == !=); repeat.", "COLUMN>VALUE", str),
    cli.Option("spelled", "Read 1,018 as 1018, 12B as 12e9, 45% as 0.45."),
    cli.Option("last_of", "Of each run that COLUMN names, the last row.", "COLUMN"),
    cli.Option("best_of", "At each point, the best of the settings swept.", "COLUMN,...", names),
    cli.Option("all_rows", "Logged runs and sweeps: every row counts."),
    cli.Option("by", "Fit each value of COLUMN by itself, in a sub-folder.", "COLUMN"),
    _choice("count", "Parameters of a run (total).", "total", "non_embedding", "active"),
    _choice("flops", "FLOP of a run (six_nd).", "six_nd", "exact"),
    cli.Option("curves", "Every evaluation of a run, not only the last."),
    cli.Option("max_rows", "Where reading stops (1e6).", "N", count),
    _choice("loss", "What is minimised (huber).", "huber", "lsq", "l1"),
    cli.Option("delta", "Huber's delta (from the residuals; papers: 1e-3).", "X", positive),
    _choice("space", "Of the residuals (the law's).", "log", "raw", "log1p"),
    _choice("reduction", "Of the reported objective (sum).", "sum", "mean"),
    cli.Option("over", "Weight of over-estimates (1).", "X", positive),
    cli.Option("weights", "A column; seeds: from the noise between repeats.", "COLUMN|seeds"),
    cli.Option("lean", "Weights grow as compute^X (0; combinations: chosen).", "X", power),
    _repeated("fix", "Parameters that are not fitted; repeat.", "NAME=VALUE,...", numbers),
    _repeated("tie", "Parameters that are equal; repeat.", "NAME=OTHER,...", pairs),
    _repeated("bounds", "Ranges of parameters; repeat.", "NAME=LOW:HIGH,...", bounds),
    cli.Option("starts", "Starts that are polished (32).", "N", count),
    cli.Option("bootstrap", "Resamples, 0 for none (1000).", "N", count),
    _choice(
        "resample", "What is drawn (runs if a run_id repeats).", "points", "runs", "parametric"
    ),
    _choice("profiles", "Profile intervals (yes).", "yes", "no"),
    cli.Option("level", "Of all intervals (0.95).", "X", level),
    cli.Option("seed", "Of starts and resamples (0).", "N", count),
    cli.Option("budgets", "Allocate these budgets.", "FLOP,...", budgets),
    _choice("cost", "FLOP per token (6nd); table: from its flops.", "6nd", "table"),
    cli.Option("inference_tokens", "Tokens to be served, paid too (0).", "N", tokens),
    _repeated("at", "Other variables of an allocation; repeat.", "NAME=VALUE,...", numbers),
    _repeated("predict", "A run to predict; repeat.", "NAME=VALUE,...", numbers),
    cli.Option("compare", "Judge these laws too.", "LAW,...", names),
    _choice("device", "Where fits run (cpu).", "cpu", "gpu"),
    cli.Option("debug", "Show the traceback of an internal error."),
)
MAPPINGS = ("columns", "fix", "tie", "bounds", "at")


def _underscored(match: re.Match[str]) -> str:
    return "--" + match[0].removeprefix("--").replace("-", "_")


def parse(arguments: Sequence[str]) -> FitOptions:
    """Read and check everything that needs no data.

    Raises:
      ConfigError: a flag that does not exist, lacks or has a wrong value, or is required.
      SystemExit: 0, after `--help`.
    """
    # Flags were spelt with dashes once, and fit.json holds such command lines.
    flags = [re.sub(r"^--[\w-]+", _underscored, argument) for argument in arguments]
    values, _ = cli.read(flags, OPTIONS, USAGE)
    for name in MAPPINGS:
        if name in values:
            values[name] = {key: v for part in values[name] for key, v in part.items()}
    options = FitOptions(**values)
    if not options.list:
        for name in ("runs", "law", "out"):
            if not getattr(options, name):
                raise ConfigError(f"--{name}", "is required", "--help shows an example")
    return options
