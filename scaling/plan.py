"""`python -m scaling.plan`: know before you pay, and learn afterwards how well you knew.

    argv -> cli.read -> one job of JOBS

Exit codes: 0 done; 2 bad usage or config; 1 anything else.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from scaling import cli
from scaling.configs import ConfigError
from scaling.planning import doors_forecast

USAGE = """\
Plan a run, forecast it, and grade the forecast when it is over.

  python -m scaling.plan --config=experiments/quickstart.py --forecast=runs/fit --workdir=runs/big
  python -m scaling.plan --grade=runs/big
  python -m scaling.plan --scoreboard=runs"""

OPTIONS = (cli.CONFIG, cli.WORKDIR, *doors_forecast.OPTIONS)

# The flag that asks for a job, what it does, and the flags that it understands beside its own.
Job = Callable[[Mapping[str, Any], Sequence[str]], int]
JOBS: dict[str, tuple[Job, tuple[str, ...]]] = {
    "forecast": (
        doors_forecast.run_forecast,
        ("config", "workdir", "law", "at", "count", "plan", "price"),
    ),
    "grade": (lambda values, _: doors_forecast.run_grade(values), ()),
    "scoreboard": (lambda values, _: doors_forecast.run_scoreboard(values), ()),
}


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
        raise ConfigError(
            "scaling.plan", "nothing was asked for",
            "give one of " + ", ".join(f"--{name}" for name in JOBS),
        )  # fmt: skip
    job, understood = JOBS[asked[0]]
    for name in (*values, *(["config"] if overrides else [])):
        if name not in (asked[0], *understood):
            raise ConfigError(f"--{name}", f"does not go with --{asked[0]}", "leave it out")
    return job(values, overrides)


if __name__ == "__main__":
    sys.exit(main())
