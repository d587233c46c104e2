"""Command lines: one parser for all front doors, and the one command that reaches them.

job, values, overrides = cli.parse(argv)       # of `python -m scaling.main`
values, overrides = cli.read(argv, OPTIONS)    # of a door with its own options
main = cli.front_door(door)                    # door(argv) -> exit code; wrong usage is 2
"""

# ruff: noqa: F401
import functools
import importlib
import os
import select
import sys
import traceback
from collections.abc import Callable, Sequence

from scaling.cli.arguments import OPTIONS, PROCESS_FLAGS, SAMPLE_FLAGS, parse
from scaling.cli.parser import CONFIG, WORKDIR, Option, files_here, help_text, job_of, read
from scaling.configs.errors import ConfigError, suggest

EXIT_FAILED, EXIT_USAGE = 1, 2

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
    if argv is None and os.getcwd() not in sys.path:
        # As `python -m` does, so that "package.module:Name" finds what lies here.
        sys.path.insert(0, os.getcwd())
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
    return EXIT_USAGE


def front_door(door: Callable[[Sequence[str]], int]) -> Callable[..., int]:
    """A door as the `main` of its module: `run`, on the process's own command line if none is given."""

    @functools.wraps(door)
    def main(argv: Sequence[str] | None = None) -> int:
        return run(door, sys.argv[1:] if argv is None else argv)

    return main


def run(door: Callable[[Sequence[str]], int], argv: Sequence[str]) -> int:
    """Call a front door; an error that we can explain becomes one message, any other a traceback.

    The exit code is 2 for a wrong command line or config, else 1.
    """
    try:
        return door(argv)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _unread():
            return EXIT_FAILED
        # Ours or the system's, or JAX found no backend.
        ours = type(error).__module__.startswith("scaling.") or isinstance(error, OSError)
        if ours or str(error).startswith("Unable to initialize backend"):
            print(f"error: {error}", file=sys.stderr)
        else:
            traceback.print_exc()
        return EXIT_USAGE if isinstance(error, ConfigError) else EXIT_FAILED


def _unread() -> bool:
    """Whether the reader of our output has gone, as `head` does; what is left is then dropped."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    gone = any(event & select.POLLERR for _, event in poll.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return gone
