"""Many runs in one program: members that differ in numbers alone train together.

What may differ is what the compiled step takes as arrays (every float of section `optim`, see
`train.population_key`), the seeds, the scale of the initial parameters, and settings without effect on
the result. Each member leaves its own ordinary run directory; alone or in a population, a run goes
on from what either left.

In a member's directory `seconds` and `perf/...` are wall time, which the members share: a
population of 16 spends each second once, and 16 members tell of it. `summary.json` says so under
`population`.
"""

import pathlib
from collections.abc import Sequence

import jax

from scaling import configs
from scaling.experiment import Experiment
from scaling.train import population_key as keys
from scaling.train.loop import Watch
from scaling.train.run import Training
from scaling.train.signals import StopRequest
from scaling.train.stacked import Mode


class PopulationError(ValueError):
    """These runs cannot train together."""


def run_population(
    members: Sequence[Experiment],
    workdirs: Sequence[pathlib.Path],
    *,
    mode: Mode = "auto",
    stop: StopRequest | None = None,
    watch: Watch | None = None,
) -> list[str]:
    """Trains all members to their ends, each on from where its directory stands.

    Args:
      members: configs, equal except in what the module's docstring lists; a workdir for each.
      mode: how to run the members, see `train.stacked`; `auto` is `map` on CPU and `vmap` on
        accelerators.
      stop: raised by a signal: all members save and end as preempted.
      watch: (step, {member: values of its evaluation}) -> the members to end here, as pruned.
        Called after every evaluation but the last, for all that were evaluated.

    Returns:
      How each ended: completed, diverged, preempted, pruned, locked (another process trains in its
      directory), or failed (what went wrong is printed; the others are not disturbed).

    Raises PopulationError where the configs differ in more than they may or JAX runs in several
    processes, PlatformError where JAX came up on something else than they ask for.
    """
    _check(members, workdirs)
    with Training(members, workdirs, stop, mode=mode, watch=watch) as training:
        return training.execute()


def _check(members: Sequence[Experiment], workdirs: Sequence[pathlib.Path]) -> None:
    if not members or len(members) != len(workdirs):
        raise PopulationError(f"{len(members)} configs and {len(workdirs)} workdirs: give as many")
    if len({pathlib.Path(path).absolute() for path in workdirs}) != len(workdirs):
        raise PopulationError("two members have the same workdir: give each its own")
    if jax.process_count() > 1:
        raise PopulationError(
            f"a population runs in one process, and JAX has {jax.process_count()}: start it on one "
            "host, or run its members one by one"
        )
    first = keys.population_key(members[0])
    for i, other in enumerate(members):
        if keys.population_key(other) != first:
            differences = configs.diff(keys.common(members[0]), keys.common(other))
            raise PopulationError(
                f"members 0 and {i} differ in more than numbers of the step:\n"
                + configs.format_differences(differences, "member 0", f"member {i}")
                + "\nRun them in populations of their own."
            )
