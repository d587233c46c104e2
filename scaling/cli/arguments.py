"""The command line of `python -m scaling.main`."""

from collections.abc import Sequence
from typing import Any

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
PROCESS_FLAGS = ("coordinator", "num_processes", "process_id")

# Jobs, of which a command line names exactly one, and the flags that each understands.
JOBS = {
    "config": ("workdir", "dry_run", *PROCESS_FLAGS),
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


def parse(argv: Sequence[str]) -> tuple[str, dict[str, Any], tuple[str, ...]]:
    """(job, {flag: value}, overrides) of `python -m scaling.main`, without the program's name.

    Raises:
      ConfigError: no job, a flag that it would ignore or lacks, or what `read` refuses.
    """
    values, overrides = read(argv, OPTIONS, USAGE)
    job = job_of(values, JOBS, overrides)
    if not job:
        remedy = f"write --config=FILE[:ARG]{files_here('experiments')}"
        raise ConfigError("--config", "is required", remedy)
    if job == "replay" and "step" not in values:
        raise ConfigError("--step", "is required with --replay", "write --step=N")
    # The three flags of a start with several processes come together.
    given = [flag for flag in PROCESS_FLAGS if flag in values]
    for flag in PROCESS_FLAGS if given else ():
        if flag not in values:
            raise ConfigError(f"--{flag}", f"is required with --{given[0]}", "give all three")
    if given and values["process_id"] >= values["num_processes"]:
        what = "{process_id} is not one of {num_processes} processes".format(**values)
        raise ConfigError("--process_id", what, f"give 0 to {values['num_processes'] - 1}")
    return job, values, overrides
