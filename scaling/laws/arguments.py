"""The command line of `python -m scaling.fit`, as options. Imports neither JAX nor numpy."""

# ruff: noqa: RUF009 (a field for each attribute is what `_flag` is for)
import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, TypeVar, get_args, get_origin

from scaling import cli
from scaling.configs.errors import ConfigError
from scaling.configs.types import NonNegativeInt, Range

T = TypeVar("T")

Positive = Annotated[float, Range(above=0, below=math.inf)]
NonNegative = Annotated[float, Range(low=0, below=math.inf)]

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


def ranges(text: str) -> dict[str, tuple[float, float]]:
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


def positives(text: str) -> list[float]:
    """`1e21,1e22` as a list of numbers above 0."""
    values = [number(part) for part in names(text)]
    if low := [value for value in values if value <= 0]:
        raise ValueError(f"{low[0]:g} is not above 0")
    return values


def _flag(
    default: T, help_: str, metavar: str = "", kind: object = None, repeat: bool = False
) -> T:
    """A field of `FitOptions`: what it is without its flag, and the flag, see `cli.Option`.

    A value is read as the field is annotated, where `kind` does not say how.
    """
    option = {"help": help_, "metavar": metavar, "kind": kind, "repeat": repeat}
    return dataclasses.field(default_factory=lambda: default, metadata=option)


@dataclasses.dataclass(frozen=True)
class FitOptions:
    """A command line of `python -m scaling.fit`: each attribute is the flag of its name.

    `delta`, `space`, `lean` and `resample` are None for what suits the law or the table.
    """

    runs: str = _flag("", "Table (.csv, .tsv, .jsonl, .json), folder of them, or of runs.", "TABLE")
    law: str = _flag("", "A law of the catalogue, or package.module:LAW.", "NAME")
    out: str = _flag("", "Where fit.json, report.html and figures/ go.", "DIR")
    list: bool = _flag(False, "List the laws and stop.")
    columns: Mapping[str, str] = _flag(
        {}, "Where columns come from; repeat.", "NAME=COLUMN[*FACTOR],...", pairs, repeat=True
    )
    exclude: Sequence[str] = _flag(
        (), "Rows to leave out (> >= < <= == !=); repeat.", "COLUMN>VALUE", str, repeat=True
    )
    spelled: bool = _flag(False, "Read 1,018 as 1018, 12B as 12e9, 45% as 0.45.")
    last_of: str = _flag("", "Of each run that COLUMN names, the last row.", "COLUMN")
    best_of: Sequence[str] = _flag(
        (), "At each point, the best of the settings swept.", "COLUMN,...", names
    )
    all_rows: bool = _flag(False, "Logged runs and sweeps: every row counts.")
    by: str = _flag("", "Fit each value of COLUMN by itself, in a sub-folder.", "COLUMN")
    count: Literal["total", "non_embedding", "active"] = _flag(
        "total", "Parameters of a run (total)."
    )
    flops: Literal["six_nd", "exact"] = _flag("six_nd", "FLOP of a run (six_nd).")
    curves: bool = _flag(False, "Every evaluation of a run, not only the last.")
    max_rows: NonNegativeInt = _flag(1_000_000, "Where reading stops (1e6).", "N")
    loss: Literal["huber", "lsq", "l1"] = _flag("huber", "What is minimised (huber).")
    delta: Positive | None = _flag(None, "Huber's delta (from the residuals; papers: 1e-3).", "X")
    space: Literal["log", "raw", "log1p"] | None = _flag(None, "Of the residuals (the law's).")
    reduction: Literal["sum", "mean"] = _flag("sum", "Of the reported objective (sum).")
    over: Positive = _flag(1.0, "Weight of over-estimates (1).", "X")
    weights: str = _flag("", "A column; seeds: from the noise between repeats.", "COLUMN|seeds")
    lean: NonNegative | None = _flag(
        None, "Weights grow as compute^X (0; combinations: chosen).", "X"
    )
    fix: Mapping[str, float] = _flag(
        {}, "Parameters that are not fitted; repeat.", "NAME=VALUE,...", numbers, repeat=True
    )
    tie: Mapping[str, str] = _flag(
        {}, "Parameters that are equal; repeat.", "NAME=OTHER,...", pairs, repeat=True
    )
    bounds: Mapping[str, tuple[float, float]] = _flag(
        {}, "Ranges of parameters; repeat.", "NAME=LOW:HIGH,...", ranges, repeat=True
    )
    starts: NonNegativeInt = _flag(32, "Starts that are polished (32).", "N")
    bootstrap: NonNegativeInt = _flag(1000, "Resamples, 0 for none (1000).", "N")
    resample: Literal["points", "runs", "parametric"] | None = _flag(
        None, "What is drawn (runs if a run_id repeats)."
    )
    profiles: Literal["yes", "no"] = _flag("yes", "Profile intervals (yes).")
    level: Annotated[float, Range(above=0, below=1)] = _flag(0.95, "Of all intervals (0.95).", "X")
    seed: NonNegativeInt = _flag(0, "Of starts and resamples (0).", "N")
    budgets: Sequence[float] = _flag((), "Allocate these budgets.", "FLOP,...", positives)
    cost: Literal["6nd", "table"] = _flag("6nd", "FLOP per token (6nd); table: from its flops.")
    inference_tokens: NonNegative = _flag(0.0, "Tokens to be served, paid too (0).", "N")
    at: Mapping[str, float] = _flag(
        {}, "Other variables of an allocation; repeat.", "NAME=VALUE,...", numbers, repeat=True
    )
    predict: Sequence[Mapping[str, float]] = _flag(
        (), "A run to predict; repeat.", "NAME=VALUE,...", numbers, repeat=True
    )
    compare: Sequence[str] = _flag((), "Judge these laws too.", "LAW,...", names)
    device: Literal["cpu", "gpu"] = _flag("cpu", "Where fits run (cpu).")
    debug: bool = _flag(False, "Show the traceback of an internal error.")


def _option(field: dataclasses.Field) -> cli.Option:
    option = {**field.metadata, "kind": field.metadata["kind"] or field.type}
    choices = [kind for kind in (field.type, *get_args(field.type)) if get_origin(kind) is Literal]
    if choices:
        option["metavar"] = "|".join(get_args(choices[0]))
    return cli.Option(field.name, **option)


OPTIONS = tuple(map(_option, dataclasses.fields(FitOptions)))
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
