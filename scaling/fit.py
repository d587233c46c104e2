"""Fit a scaling law to a table of runs: `python -m scaling.fit --runs=TABLE --law=NAME --out=DIR`.

Writes `DIR/fit.json`, `DIR/report.html` and `DIR/figures/*.svg`. Exit codes: 0 done, 2 bad usage
or data, 1 anything else. Runs on the CPU unless `--device=gpu`.
"""

import os
import sys
import traceback
from collections.abc import Sequence

from scaling.laws.arguments import UsageError, parse
from scaling.track import paths


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        options = parse(arguments)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.list:
        from scaling.laws.command import list_laws

        print(list_laws())
        return 0
    if options.device == "cpu":
        # Before JAX starts a backend: a fit must not grab an accelerator's memory.
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    # Most of the seconds of a small fit are compilation; the next one finds it done.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(paths.compile_cache()))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
    from scaling.laws.command import run
    from scaling.laws.law import LawError

    try:
        print(run(options, arguments))
    except LawError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        if options.debug:
            traceback.print_exc()
        print(
            f"internal error: {type(error).__name__}: {error} (--debug shows where)",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
