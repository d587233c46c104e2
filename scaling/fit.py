"""Fit a scaling law to a table of runs: `python -m scaling.fit --runs=TABLE --law=NAME --out=DIR`.

Writes `DIR/fit.json`, `DIR/report.html` and `DIR/figures/*.svg`. Exit codes: 0 done, 2 bad usage
or data, 1 anything else. Runs on the CPU unless `--device=gpu`.
"""

import os
import sys
import traceback
from collections.abc import Sequence

from scaling import cli
from scaling.laws.arguments import parse


@cli.front_door
def main(argv: Sequence[str]) -> int:
    """Fit as the flags say; returns the exit code. Raises ConfigError for wrong flags."""
    options = parse(argv)
    if options.device == "cpu":
        # Before JAX is imported: a fit must not grab an accelerator's memory.
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from scaling.laws import command, progress
    from scaling.laws.law import LawError
    from scaling.track import compile_cache

    if options.list:
        print(command.list_laws())
        return 0
    # Most of the seconds of a small fit are compilation; the next one finds it done.
    if uncached := compile_cache.enable():
        print(uncached, file=sys.stderr)
    try:
        with progress.shown(sys.stderr):
            text = command.run(options, argv)
        print(text)
    except LawError as error:
        print(f"error: {error}", file=sys.stderr)
        return cli.EXIT_USAGE
    except Exception as error:
        if options.debug:
            traceback.print_exc()
        name = type(error).__name__
        print(f"internal error: {name}: {error} (--debug shows where)", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
