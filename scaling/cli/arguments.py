"""The command line of `python -m scaling.main`."""

import dataclasses
from collections.abc import Sequence

from scaling.cli.parser import CONFIG, WORKDIR, Option, files_here, job_of, read
from scaling.configs.errors import ConfigError
from scaling.configs.types import PositiveInt


def address(text: str) -> str:
    """HOST:PORT, checked."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ValueError(f"{text!r} is not an address")
    return text


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
    Option("tokens", "With --sample: how many tokens at most (200).", "N", PositiveInt),
    Option("temperature", "With --sample: 0 always takes the most likely (0.8).", "X", "number"),
    Option("top_k", "With --sample: draw from the K most likely tokens (all).", "K", PositiveInt),
    Option("sample_seed", "With --sample: of the draws (0).", "N", "integer"),
    Option("coordinator", "Several processes: address of process 0.", "HOST:PORT", address),
    Option("num_processes", "Several processes: how many.", "N", PositiveInt),
    Option("process_id", "Several processes: which one this is, from 0.", "I", "integer"),
)

SAMPLE_FLAGS = ("prompt", "tokens", "temperature", "top_k", "sample_seed")
_PROCESS_FLAGS = ("coordinator", "num_processes", "process_id")

# Jobs, of which a command line names exactly one, and the flags that each understands.
JOBS = {
    "config": ("workdir", "dry_run", *_PROCESS_FLAGS),
    "diff": (),
    "evaluate": ("step",),
    "replay": ("step",),
    "sample": ("step", *SAMPLE_FLAGS),
}

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


@dataclasses.dataclass(frozen=True)
class Args:
    """A command line of `python -m scaling.main`; each attribute is the flag of its name in OPTIONS.

    One of config, diff, evaluate, replay and sample is given.

    Attributes:
      overrides: "section.key=value", in the order given.
      prompt, tokens, temperature, top_k, sample_seed: see `scaling.train.sample.SampleOptions`.
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
    """The command line of `python -m scaling.main`, without the program's name."""
    values, overrides = read(argv, OPTIONS, USAGE)
    job = job_of(values, JOBS, overrides)
    if not job:
        remedy = f"write --config=FILE[:ARG]{files_here('experiments')}"
        raise ConfigError("--config", "is required", remedy)
    if job == "replay" and "step" not in values:
        raise ConfigError("--step", "is required with --replay", "write --step=N")
    arguments = Args(**values, overrides=overrides)
    _check_processes(arguments)
    return arguments


def _check_processes(arguments: Args) -> None:
    """The three flags of a start with several processes come together."""
    given = [flag for flag in _PROCESS_FLAGS if getattr(arguments, flag) is not None]
    for flag in _PROCESS_FLAGS if given else ():
        if flag not in given:
            raise ConfigError(f"--{flag}", f"is required with --{given[0]}", "give all three")
    count, index = arguments.num_processes or 1, arguments.process_id or 0
    if index >= count:
        what = f"{index} is not one of {count} processes"
        raise ConfigError("--process_id", what, f"give 0 to {count - 1}")
