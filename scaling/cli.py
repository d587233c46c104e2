"""Command lines of the front doors: flags, overrides, help. Refuses what it does not know.

    arguments = cli.parse(sys.argv[1:])            # of `python -m scaling.main`
    values, overrides = cli.read(argv, OPTIONS)    # of a door with its own options
    sys.exit(cli.run(door, sys.argv[1:]))          # door(argv) -> exit code; wrong usage is 2

Not argparse or absl.flags: the first has no `--config.any.key=value`, the second leaves what it
does not understand in argv without a word. No JAX is imported, so `--help` answers at once.
"""

import dataclasses
import pathlib
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal

from scaling.configs.errors import ConfigError, nearest
from scaling.configs.schema import Experiment

EXIT_USAGE = 2


@dataclasses.dataclass(frozen=True)
class Option:
    """One flag of a front door.

    Attributes:
      flag: without dashes.
      help: one line or more.
      metavar: shown for the value; "" for a switch, two words for a flag that takes two values.
      kind: what the value is, or a function of its text that raises ValueError saying what is wrong.
      repeat: the flag may be given several times, and its value is a list.
    """

    flag: str
    help: str
    metavar: str = ""
    kind: Literal["text", "integer", "number"] | Callable[[str], Any] = "text"
    repeat: bool = False

    @property
    def count(self) -> int:
        """How many values follow the flag."""
        return len(self.metavar.split())


HELP = Option("help", "Show this and stop.")
CONFIG = Option("config", "The experiment, and the argument of its get_config.", "FILE[:ARG]")
WORKDIR = Option("workdir", "Where the run lives. Default: runs/NAME of the experiment.", "DIR")

OPTIONS = (
    CONFIG,
    WORKDIR,
    Option("dry_run", "Show the complete config, defaults included, and stop."),
    Option("diff", "Show every key in which two runs or configs differ.", "A B"),
    Option("replay", "Do one step of a run again, from what the run saved about it.", "RUN"),
    Option("evaluate", "Score a run's newest checkpoint (or --step) on all held-out data.", "RUN"),
    Option("step", "The step to replay, or the checkpoint to evaluate or sample.", "N", "integer"),
    Option("sample", "Write text with a finished language model.", "RUN"),
    Option("prompt", "With --sample: the text to continue.", "TEXT"),
    Option("tokens", "With --sample: how many tokens at most (200).", "N", "integer"),
    Option("temperature", "With --sample: 0 always takes the most likely (0.8).", "X", "number"),
    Option("top_k", "With --sample: draw from the K most likely tokens (all).", "K", "integer"),
    Option("sample_seed", "With --sample: of the draws (0).", "N", "integer"),
    Option("coordinator", "Several processes: address of process 0.", "HOST:PORT"),
    Option("num_processes", "Several processes: how many.", "N", "integer"),
    Option("process_id", "Several processes: which one this is, from 0.", "I", "integer"),
)

USAGE = """\
Train one experiment, or look at one.

  python -m scaling.main --config=experiments/quickstart.py
  python -m scaling.main --config=experiments/gpt2.py:124m --workdir=runs/gpt2 \\
      --config.train.steps=1e4 --config.optim.learning_rate=3e-4
  python -m scaling.main --config=experiments/quickstart.py --dry_run
  python -m scaling.main --diff runs/a runs/b
  python -m scaling.main --evaluate=runs/a
  python -m scaling.main --sample=runs/a --prompt='Once upon a time'
  python -m scaling.main --replay=runs/a --step=1200

The same command again goes on where the run stopped."""

OVERRIDES = """\
Keys of the config: --config.SECTION.KEY=VALUE, as often as you like
  --config.train.steps=1e4          a value, of the key's own type
  --config.model.head_dim=None      no value, where the key may have none
  --config.mesh.rules='((mlp,None),)'   a tuple
  --config.optim.name=lion          another component; the keys that the file sets stay, and one
                                    that lion does not have is refused
  --config.optim=lion               another component, with its own defaults
  --config.optim.b2=DEFAULT         forget what the file sets"""


@dataclasses.dataclass(frozen=True)
class Args:
    """A command line of `python -m scaling.main`; one of config, diff, evaluate, replay, sample.

    Attributes:
      config: "FILE[:ARG]" of the experiment.
      overrides: "section.key=value", in the order given.
      workdir: run directory, if given.
      dry_run: only show the complete config.
      diff: two run directories or config files to compare.
      replay: run directory of which `step` is done again.
      evaluate: run directory of which a checkpoint is scored.
      step: see `replay`, `evaluate` and `sample`.
      sample: run directory of a language model that writes text.
      prompt, tokens, temperature, top_k, sample_seed: see `scaling.train.sample.SampleOptions`.
      coordinator: "host:port" of process 0, if there are several processes.
      num_processes: how many.
      process_id: which one this is.
    """

    config: str | None = None
    overrides: tuple[str, ...] = ()
    workdir: str | None = None
    dry_run: bool = False
    diff: tuple[str, str] | None = None
    replay: str | None = None
    evaluate: str | None = None
    step: int | None = None
    sample: str | None = None
    prompt: str | None = None
    tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    sample_seed: int | None = None
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None


def parse(argv: Sequence[str]) -> Args:
    """The command line of `python -m scaling.main`, without the program's name.

    Raises:
      ConfigError: a flag that does not exist, a value that does not fit, flags that contradict.
      SystemExit: 0, after `--help`.
    """
    values, overrides = read(argv, OPTIONS, USAGE)
    arguments = Args(**values, overrides=overrides)
    _check_job(arguments)
    _check_processes(arguments)
    return arguments


def run(door: Callable[[Sequence[str]], int], argv: Sequence[str]) -> int:
    """Call a front door; a wrong command line or config becomes exit code 2 and one message."""
    try:
        return door(argv)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE


def diff(left: str, right: str) -> int:
    """Prints every key in which two runs (or config files) differ; returns exit code 0.

    Raises:
      ConfigError: one of them holds no config.
    """
    from scaling.configs import compare

    print(compare(left, right))
    return 0


def read(
    argv: Sequence[str], options: Sequence[Option], usage: str = ""
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Flags and overrides of a command line.

    Args:
      argv: without the program's name.
      options: of this door; overrides are taken only if `config` is among them.
      usage: examples for `--help`.

    Returns:
      ({flag: value} of the flags given, overrides as "section.key=value"). A flag with two values
      gives a tuple, a switch a bool.

    Raises:
      ConfigError, SystemExit: see `parse`.
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
            value = given or _take(rest, flag, 1, "VALUE")
            overrides.append(f"{flag.removeprefix('config.')}={value[0]}")
            continue
        if not token.startswith("--") or flag not in known:
            raise _unknown(token, known)
        if flag == "help":
            print(help_text(options, usage))
            raise SystemExit(0)
        option = known[flag]
        given += _take(rest, flag, option.count - len(given), option.metavar)
        value = _value(option, given)
        if option.repeat:
            value = [*values.pop(flag, []), value]
        if flag in values and values[flag] != value:
            raise ConfigError(
                f"--{flag}", f"is given twice, as {values[flag]} and as {value}", "give it once"
            )
        values[flag] = value
    return values, tuple(overrides)


def help_text(options: Sequence[Option], usage: str) -> str:
    """What `--help` shows: examples first, then flags, then how to override a config."""
    shown = [
        (f"--{one.flag}" + ("=" if one.count == 1 else " ") * bool(one.metavar) + one.metavar, one)
        for one in (*options, HELP)
    ]
    width = max(len(left) for left, _ in shown)
    flags = "\n".join(f"  {left:<{width}}  {one.help}" for left, one in shown)
    parts = [usage, "Flags\n" + flags]
    if CONFIG.flag in {one.flag for one in options}:
        parts.append(OVERRIDES)
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
    name = f"--{option.flag}"
    if not option.count:
        words = {"true": True, "1": True, "false": False, "0": False}
        if given and given[0].lower() not in words:
            raise ConfigError(name, f"{given[0]!r} is not true or false", f"write {name} alone")
        return words[given[0].lower()] if given else True
    if "" in given:
        raise ConfigError(name, "is empty", f"write {name}={option.metavar}")
    if callable(option.kind):
        try:
            return option.kind(given[0])
        except ValueError as error:
            raise ConfigError(name, str(error), f"write {name}={option.metavar}") from None
    if option.kind == "integer":
        if not re.fullmatch(r"\d{1,18}", given[0]):
            raise ConfigError(name, f"{given[0]!r} is not an integer >= 0", f"write {name}=N")
        return int(given[0])
    if option.kind == "number":
        if not re.fullmatch(r"\d+(\.\d*)?|\.\d+", given[0]):
            raise ConfigError(name, f"{given[0]!r} is not a number >= 0", f"write {name}=0.8")
        return float(given[0])
    return tuple(given) if option.count > 1 else given[0]


def _unknown(token: str, known: dict[str, Option]) -> ConfigError:
    """The error for a token that is no flag: what it was probably meant to be."""
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


def _check_job(arguments: Args) -> None:
    """Exactly one job, and no flag that it would ignore."""
    choices = ("config", "diff", "evaluate", "replay", "sample")
    jobs = [job for job in choices if getattr(arguments, job) is not None]
    if not jobs:
        files = sorted(str(path) for path in pathlib.Path("experiments").glob("*.py"))
        here = f"; here are {', '.join(files)}" if files else ""
        raise ConfigError("--config", "is required", f"write --config=FILE[:ARG]{here}")
    if len(jobs) > 1:
        raise ConfigError(f"--{jobs[1]}", f"does not go with --{jobs[0]}", "give one of the two")
    if jobs == ["replay"] and arguments.step is None:
        raise ConfigError("--step", "is required with --replay", "write --step=N")
    used = {
        "config": {"config", "overrides", "workdir", "dry_run", *_PROCESS_FLAGS},
        "diff": {"diff"},
        "evaluate": {"evaluate", "step"},
        "replay": {"replay", "step"},
        "sample": {"sample", "step", *SAMPLE_FLAGS},
    }[jobs[0]]
    for field in dataclasses.fields(Args):
        value = getattr(arguments, field.name)
        if field.name not in used and value != field.default:
            name = "--" + field.name if field.name != "overrides" else f"--config.{value[0]}"
            raise ConfigError(name, f"does not go with --{jobs[0]}", "leave it out")


_TOP_LEVEL = [field.name for field in dataclasses.fields(Experiment)]
SAMPLE_FLAGS = ("prompt", "tokens", "temperature", "top_k", "sample_seed")
_PROCESS_FLAGS = ("coordinator", "num_processes", "process_id")


def _check_processes(arguments: Args) -> None:
    """The three flags of a multi-process start come together and make sense."""
    given = [flag for flag in _PROCESS_FLAGS if getattr(arguments, flag) is not None]
    if not given:
        return
    for flag in _PROCESS_FLAGS:
        if flag not in given:
            raise ConfigError(f"--{flag}", f"is required with --{given[0]}", "give all three")
    host, _, port = str(arguments.coordinator).rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ConfigError(
            "--coordinator", f"{arguments.coordinator!r} is no address", "write HOST:PORT"
        )
    count, index = arguments.num_processes or 0, arguments.process_id or 0
    if count < 1:
        raise ConfigError("--num_processes", f"{count} processes cannot run", "give at least 1")
    if index >= count:
        raise ConfigError(
            "--process_id", f"{index} is not one of {count} processes", f"give 0 to {count - 1}"
        )
