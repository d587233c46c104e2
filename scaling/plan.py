"""`python -m scaling.plan`: know before you pay, and learn afterwards how well you knew.

    argv -> planning.arguments -> one job of planning.plan_jobs or planning.forecast_jobs

Exit codes: 0 done (of a plan: it fits); 1 it does not fit, or something failed; 2 bad usage or
config. Needs no accelerator: the TPU compiler comes with the extra `tpu`.
"""

import os
import sys
from collections.abc import Sequence

from scaling import cli
from scaling.configs import ConfigError
from scaling.planning import topology
from scaling.planning.arguments import parse


@cli.front_door
def main(argv: Sequence[str]) -> int:
    """Does what the command line says; raises ConfigError where it or the config is wrong."""
    job, values, overrides = parse(argv)
    # What JAX reads from the environment is set before anything imports it.
    if job in ("forecast", "grade", "scoreboard"):
        # Fits run on the CPU: a forecast must not grab an accelerator's memory.
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        from scaling.planning import forecast_jobs

        return forecast_jobs.JOBS[job](values, overrides)
    if "topology" not in values:
        raise ConfigError("--topology", "is required", topology.listing())
    target = topology.parse(values["topology"], values.get("slices", 1))
    topology.prepare(target)
    from scaling.planning import plan_jobs

    return plan_jobs.JOBS[job](target, values, overrides)


if __name__ == "__main__":
    sys.exit(main())
