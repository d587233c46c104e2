"""`python -m scaling.main`: train an experiment, compare two, score a checkpoint, replay a step.

    argv -> cli.parse -> configs.load_resolved -> (the backend starts) -> train.run

Everything that can be wrong with the command line or the config ends here with exit code 2, before a
JAX backend starts. Exit codes: 0 done; 2 bad usage or config; 75 preempted, run again; 1 anything else.
"""

import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from scaling import cli, configs
from scaling.experiment import Experiment
from scaling.train.signals import StopRequest


@cli.front_door
def main(argv: Sequence[str]) -> int:
    """Does what the command line says; raises ConfigError where it or the config is wrong."""
    job, values, overrides = cli.parse(argv)
    if job == "diff":
        print(configs.compare(*values["diff"]))
        return 0
    if job != "config":
        return _look_at(job, values)
    config = configs.load_resolved(values["config"], overrides)
    if values.get("dry_run"):
        _check(config)
        print(configs.to_json(config))
        return 0
    workdir = pathlib.Path(values.get("workdir", f"runs/{config.name}")).absolute()
    return _train(config, workdir, values)


def _check(config: Experiment) -> None:
    """Builds task, model and optimizer from shapes alone, so that what does not fit is refused.

    Raises:
      ConfigError: it does not.
    """
    from scaling.data import DataError
    from scaling.train.program import check_buildable

    try:
        check_buildable(config)
    except DataError as error:
        print(f"note: the data cannot be described here ({error})", file=sys.stderr)


def _train(config: Experiment, workdir: pathlib.Path, values: Mapping[str, Any]) -> int:
    from scaling.track import allocator, machine

    if not machine.device_files():
        allocator.restart()
    # First of all from here, as importing JAX takes long enough to be interrupted.
    with StopRequest() as stop:
        from scaling import parallel
        from scaling.train.program import check_buildable
        from scaling.train.run import run

        check_buildable(config)

        flags = {flag: values[flag] for flag in cli.PROCESS_FLAGS if flag in values}
        with parallel.start_processes(config, **flags) as processes:
            return run(config, workdir, processes, stop)


def _look_at(job: str, values: Mapping[str, Any]) -> int:
    from scaling.train import reopen, replay, sample

    run = pathlib.Path(values[job])
    if job == "sample":
        flags = [flag for flag in (*cli.SAMPLE_FLAGS, "step") if flag in values]
        given = {flag.removeprefix("sample_"): values[flag] for flag in flags}
        return sample.sample(run, sample.SampleOptions(**given))
    if job == "evaluate":
        return reopen.evaluate(run, values.get("step"))
    return replay.replay(run, values["step"])


if __name__ == "__main__":
    sys.exit(main())
