"""Flags and overrides of the front doors, and their help. Refuses what it does not know.

    values, overrides = cli.read(argv, OPTIONS, USAGE)

Not argparse or absl.flags: the first has no `--config.any.key=value`, the second leaves what it
does not understand in argv without a word. No JAX is imported, so `--help` answers at once.
"""

import dataclasses
import inspect
import pathlib
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from scaling.configs import values as config_values
from scaling.configs.errors import ConfigError, RefusedError, nearest, place
from scaling.configs.overrides import RULES
from scaling.configs.types import NonNegativeFloat, NonNegativeInt
from scaling.experiment import Experiment

# Values that name a place in the file system of this machine.
PLACES = ("DIR", "FILE", "FILE[:ARG]", "RUN", "TABLE", "A B", "FROM", "FIT", "PLAN_JSON")
KINDS = {"integer": NonNegativeInt, "number": NonNegativeFloat}


@dataclasses.dataclass(frozen=True)
class Option:
    """One flag of a front door.

    Attributes:
      help: one line or more; "" hides the flag from `--help`.
      metavar: shown for the value; "" for a switch, two words for a flag that takes two values. `~`
        is expanded and URLs are refused where it is one of `PLACES`.
      kind: what the value is: "text" as it stands; "integer" or "number", at least 0; an annotation
        as in a config; or a function of the text that raises ValueError saying what is wrong.
      repeat: the flag may be given several times, and its value is a list.
    """

    flag: str
    help: str
    metavar: str = ""
    kind: object = "text"
    repeat: bool = False

    @property
    def count(self) -> int:
        """How many values follow the flag."""
        return len(self.metavar.split())


HELP = Option("help", "Show this and stop.")
CONFIG = Option("config", "The experiment, and the argument of its get_config.", "FILE[:ARG]")
WORKDIR = Option("workdir", "Where the run lives. Default: runs/NAME of the experiment.", "DIR")


def read(
    argv: Sequence[str], options: Sequence[Option], usage: str = ""
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Flags and overrides of a command line.

    Args:
      options: of this door; overrides are taken only if `config` is among them.

    Returns:
      ({flag: value} of the flags given, overrides as "section.key=value"). A flag with two values
      gives a tuple, a switch a bool.

    Raises:
      ConfigError: a flag that does not exist or is given twice, or a value that does not fit.
      SystemExit: 0, after `--help`.
    """
    known = {option.flag: option for option in (*options, HELP)}
    values: dict[str, Any] = {}
    overrides: list[str] = []
    rest = list(argv)
    while rest:
        token = rest.pop(0)
        flag, equals, inline = token.removeprefix("--").partition("=")
        given = [inline] if equals else []
        if token.startswith("--config.") and "config" in known:
            (text,) = given or _take(rest, flag, 1, "VALUE")
            overrides.append(f"{flag.removeprefix('config.')}={text}")
            continue
        if not token.startswith("--") or flag not in known:
            raise _unknown(token, known)
        if flag == "help":
            print(help_text(options, usage))
            raise SystemExit(0)
        option = known[flag]
        value = _value(option, given + _take(rest, flag, option.count - len(given), option.metavar))
        if option.repeat:
            value = [*values.pop(flag, []), value]
        if values.setdefault(flag, value) != value:
            what = f"is given twice, as {values[flag]} and as {value}"
            raise ConfigError(f"--{flag}", what, "give it once")
    return values, tuple(overrides)


def job_of(
    values: Mapping[str, Any],
    jobs: Mapping[str, Sequence[str]],
    overrides: Sequence[str] = (),
    default: str = "",
) -> str:
    """The job that a command line names: the first of `jobs` among its flags, else the default.

    `jobs` has the flags that each understands beside its own, `config` with all overrides; one that the
    job would ignore is a ConfigError.
    """
    given = [flag for flag, value in values.items() if value is not False]
    job = next((job for job in jobs if job in given), default)
    known = {job, *jobs.get(job, ())}
    if "config" not in known:
        given += [f"config.{text}" for text in overrides]
    for flag in given if job else ():
        if flag not in known:
            raise ConfigError(f"--{flag}", f"does not go with --{job}", "leave it out")
    return job


def files_here(folder: str) -> str:
    """The python files of a folder, for the remedy of an error; "" without any."""
    files = sorted(str(path) for path in pathlib.Path(folder).glob("*.py"))
    return f"; here are {', '.join(files)}" if files else ""


def help_text(options: Sequence[Option], usage: str) -> str:
    """What `--help` shows: examples first, then flags, then how to override a config."""
    shown = [
        (f"--{one.flag}" + ("=" if one.count == 1 else " ") * bool(one.metavar) + one.metavar, one)
        for one in (*options, HELP)
        if one.help
    ]
    width = max(len(left) for left, _ in shown) + 4
    lines = [
        textwrap.fill(
            one.help, 100, initial_indent=f"  {left}".ljust(width), subsequent_indent=" " * width
        )
        for left, one in shown
    ]
    parts = [usage, "\n".join(["Flags", *lines])]
    if CONFIG.flag in {one.flag for one in options}:
        parts.append(RULES)
    return "\n\n".join(part for part in parts if part)


def _take(rest: list[str], flag: str, count: int, metavar: str) -> list[str]:
    """The next `count` tokens as values of a flag."""
    taken: list[str] = []
    while len(taken) < count:
        if not rest or rest[0].startswith("--"):
            shape = f"--{flag}={metavar}" if " " not in metavar else f"--{flag} {metavar}"
            raise ConfigError(f"--{flag}", "lacks a value", f"write {shape}")
        taken.append(rest.pop(0))
    return taken


def _value(option: Option, given: list[str]) -> Any:
    name, remedy = f"--{option.flag}", f"write --{option.flag}={option.metavar}"
    if not option.count:
        return config_values.parse(given[0], bool, name) if given else True
    if "" in given:
        raise ConfigError(name, "is empty", remedy)
    if option.metavar in PLACES:
        try:
            given = [place(text) for text in given]
        except RefusedError as error:
            raise ConfigError(name, error.reason, error.remedy) from None
    if option.kind in ("text", str):
        return tuple(given) if option.count > 1 else given[0]
    if not inspect.isfunction(option.kind):
        kind = KINDS[option.kind] if isinstance(option.kind, str) else option.kind
        return config_values.parse(given[0], kind, name)
    try:
        return option.kind(given[0])
    except ValueError as error:
        raise ConfigError(name, str(error), remedy) from None


def _unknown(token: str, known: dict[str, Option]) -> ConfigError:
    """The error for a token that is not a flag: what it was probably meant to be."""
    bare = token.lstrip("-\N{EN DASH}\N{EM DASH}\N{MINUS SIGN}")
    flag, equals, text = bare.partition("=")
    tail = equals + text
    key, what = token.partition("=")[0], "there is no such flag"
    if not token.startswith("--"):
        key, what = flag or token, "two dashes are missing" if flag else "is not a flag"
    if "config" in known:
        if flag in _TOP_LEVEL and equals:
            return ConfigError(key, what, f"did you mean --config.{bare}?")
        head, dot, path = flag.partition(".")
        if head == "config" and dot:
            return ConfigError(flag, what, f"write --{bare}")
        if dot and nearest(head, ["config"]) and path:
            return ConfigError(key, what, f"did you mean --config.{path}{tail}?")
        if dot and equals:
            return ConfigError(key, what, f"did you mean --config.{bare}?")
    if flag in known:
        return ConfigError(key, what, f"write --{bare}")
    close = nearest(flag.replace("-", "_"), known)
    if not token.startswith("-") and not equals and not close:
        key, what = token, "is not expected here"
    hint = "did you mean " + " or ".join(f"--{one}" for one in close) + "?"
    if not close:
        hint = "the flags are " + " ".join(f"--{one}" for one in known)
    if "config" in known and equals:
        hint += "\n  Keys of the config are --config.SECTION.KEY=VALUE."
    return ConfigError(key, what, hint)


_TOP_LEVEL = [field.name for field in dataclasses.fields(Experiment)]
