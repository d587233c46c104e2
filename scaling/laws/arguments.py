"""The command line of `python -m scaling.fit`, as options. Imports neither JAX nor numpy."""

from __future__ import annotations

import argparse
import difflib
import math
from collections.abc import Sequence
from typing import NoReturn

EXAMPLE = """example:
  python -m scaling.fit --runs=runs.csv --law=chinchilla --out=out \\
      --columns=params=n_params,tokens=train_tokens,loss=eval_loss \\
      --budgets=1e21,1e22 --predict=params=7e9,tokens=2e11
"""


class UsageError(Exception):
    """A command line that cannot be run; the message names the flag and the remedy."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def _pairs(text: str) -> dict[str, str]:
    """`a=x,b=y` as a dictionary; commas inside values need a second flag."""
    found: dict[str, str] = {}
    for part in text.split(","):
        name, sign, value = part.partition("=")
        if not sign or not name.strip() or not value.strip():
            raise argparse.ArgumentTypeError(f"{part!r} is not NAME=VALUE")
        found[name.strip()] = value.strip()
    return found


def _numbers(text: str) -> dict[str, float]:
    return {k: _number(v) for k, v in _pairs(text).items()}


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
    return value


def _positive(text: str) -> float:
    value = _number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _tokens(text: str) -> float:
    value = _number(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return value


def _count(text: str) -> int:
    value = _number(text)
    if value < 0 or value != int(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(value)


def _level(text: str) -> float:
    value = _number(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def _bounds(text: str) -> dict[str, tuple[float, float]]:
    found = {}
    for name, value in _pairs(text).items():
        low, colon, high = value.partition(":")
        if not colon:
            raise argparse.ArgumentTypeError(f"{name}={value} is not NAME=LOW:HIGH")
        found[name] = (float(low or "-inf"), float(high or "inf"))
    return found


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def build_parser() -> argparse.ArgumentParser:
    """The flags of the command."""
    parser = _Parser(
        prog="python -m scaling.fit", description=__doc__, epilog=EXAMPLE, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--runs", help="table (.csv, .tsv, .jsonl) or a directory of runs")
    add("--law", help="a law of the catalogue, or package.module:LAW; --list shows them")
    add("--out", help="directory for fit.json, report.html and figures/")
    add("--list", action="store_true", help="list the laws and stop")
    add("--columns", type=_pairs, action="append", default=[], metavar="NAME=COLUMN[*FACTOR],...")
    add(
        "--exclude",
        action="append",
        default=[],
        metavar="COLUMN>VALUE",
        help="leave rows out, recorded in the result (>, >=, <, <=; ==, != on text too); repeat",
    )
    add("--loss", default="huber", choices=("huber", "lsq", "l1"))
    add("--delta", type=_positive, default=1e-3, help="Huber's delta, in units of the residual")
    add("--space", choices=("log", "raw", "log1p"), help="of the residuals; default: the law's")
    add("--reduction", default="sum", choices=("sum", "mean"))
    add("--over", type=_positive, default=1.0, help="weight of over-estimates (asymmetric loss)")
    add("--weights", help="a column, or 'seeds': from the noise between repeated seeds")
    add("--fix", type=_numbers, action="append", default=[], metavar="NAME=VALUE,...")
    add("--tie", type=_pairs, action="append", default=[], metavar="NAME=OTHER,...")
    add("--bounds", type=_bounds, action="append", default=[], metavar="NAME=LOW:HIGH,...")
    add("--starts", type=_count, default=32, help="starts that are polished")
    add("--bootstrap", type=_count, default=1000, help="resamples; 0 for none")
    add("--resample", choices=("points", "runs", "parametric"), help="default: by run if repeated")
    add("--profiles", default="yes", choices=("yes", "no"))
    add("--level", type=_level, default=0.95)
    add("--seed", type=_count, default=0)
    add("--budgets", type=_list, default=[], metavar="FLOP,...", help="allocate these budgets")
    add("--cost", default="6nd", choices=("6nd", "table"), help="table: from its flops column")
    add("--inference-tokens", type=_tokens, default=0.0)
    add(
        "--at",
        type=_numbers,
        action="append",
        default=[],
        metavar="NAME=VALUE,...",
        help="other variables of the law, for the allocation",
    )
    add("--predict", type=_numbers, action="append", default=[], metavar="NAME=VALUE,...")
    add("--compare", type=_list, default=[], metavar="LAW,...", help="judge these laws too")
    add(
        "--count",
        default="total",
        choices=("total", "non_embedding", "active"),
        help="parameters of a run directory",
    )
    add("--flops", default="six_nd", choices=("six_nd", "exact"), help="FLOP of a run directory")
    add("--curves", action="store_true", help="every evaluation of a run, not only the last")
    add("--max-rows", type=_count, default=1_000_000)
    add("--device", default="cpu", choices=("cpu", "gpu"))
    add("--debug", action="store_true", help="show the traceback of an internal error")
    return parser  # fmt: skip


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse and check everything that needs no data. Raises UsageError."""
    parser = build_parser()
    flags = [o for action in parser._actions for o in action.option_strings]
    for argument in arguments:
        name = argument.partition("=")[0]
        if not argument.startswith("-") and not _follows_flag(argument, arguments):
            raise UsageError(f"{argument!r} is not a flag: flags begin with --")
        if argument.startswith("--") and name not in flags:
            near = difflib.get_close_matches(name, flags, 1, 0.5)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UsageError(f"unknown flag {name}{hint} (--help lists them)")
    options = parser.parse_args(list(arguments))
    if options.list:
        return options
    for name in ("runs", "law", "out"):
        if not getattr(options, name):
            raise UsageError(f"--{name} is required (--help shows an example)")
    for name in ("columns", "fix", "tie", "bounds", "at"):
        merged: dict[str, object] = {}
        for part in getattr(options, name):
            merged.update(part)
        setattr(options, name, merged)
    try:
        options.budgets = [_positive(b) for b in options.budgets]
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"argument --budgets: {error}") from None
    return options


def _follows_flag(argument: str, arguments: Sequence[str]) -> bool:
    """Whether `argument` is the value of a `--flag value` pair."""
    place = list(arguments).index(argument)
    before = arguments[place - 1] if place else ""
    return (
        before.startswith("--")
        and "=" not in before
        and before not in ("--list", "--curves", "--debug")
    )
