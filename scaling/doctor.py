"""`python -m scaling.doctor`: is this machine fit for a run, and if not, what to do.

Versions, devices, who holds the accelerator, variables, caches and disks, and what two seconds of
matrix products reach. Exit codes: 0 healthy; 1 with advice; 2 bad usage.
"""

import sys
from collections.abc import Sequence

from scaling import cli
from scaling.configs.types import PositiveFloat
from scaling.track import files, machine

USAGE = """\
Say what this machine has, and what is wrong with it.

  python -m scaling.doctor
  python -m scaling.doctor --json"""

OPTIONS = (
    cli.Option("json", "Print the report as JSON."),
    cli.Option("timeout", "How long the backend may take to start (90).", "SECONDS", PositiveFloat),
    cli.Option("seconds", "How long to multiply matrices (2).", "SECONDS", PositiveFloat),
    cli.Option("probe", ""),  # what the doctor runs in a process of its own
)


@cli.front_door
def main(argv: Sequence[str]) -> int:
    """Examines the machine. Raises ConfigError for wrong flags."""
    values, _ = cli.read(argv, OPTIONS, USAGE)
    seconds = values.get("seconds", 2.0)
    if values.get("probe"):
        print(files.to_json(machine.probe(seconds)))
        return 0
    report = machine.examine(values.get("timeout", 90.0), seconds)
    print(files.to_json(report, indent=2) if values.get("json") else machine.render(report))
    return 1 if report["advice"] else 0


if __name__ == "__main__":
    sys.exit(main())
