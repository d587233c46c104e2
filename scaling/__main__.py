"""One command for all front doors: `scaling run --config=...`, the same as `python -m scaling.main`."""

import importlib
import sys
from collections.abc import Sequence

from scaling.configs.errors import suggest

# Command -> (module with a function `main`, what it does).
COMMANDS = {
    "run": ("scaling.main", "train one experiment, or look at one"),
    "sweep": ("scaling.sweep", "run a declared set of experiments"),
    "fit": ("scaling.fit", "fit a scaling law to a table of runs"),
    "plan": ("scaling.plan", "plan a run, forecast it, grade the forecast"),
    "doctor": ("scaling.doctor", "say what this machine has and what is wrong with it"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Hands the rest of the command line to the command's own module; returns the exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    name = given[0] if given else "--help"
    if name in COMMANDS:
        return importlib.import_module(COMMANDS[name][0]).main(given[1:])
    if name in ("--help", "-h", "help"):
        print("usage: scaling COMMAND ...\n")
        print("\n".join(f"  {command:<8}{what}" for command, (_, what) in COMMANDS.items()))
        print("\n`scaling COMMAND --help` says more.")
        return 0
    hint = suggest(name, list(COMMANDS), what="commands")
    print(f"error: {name}: there is no such command\n  {hint}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
