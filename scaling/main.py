"""`python -m scaling.main`: train an experiment, compare two, score a checkpoint, replay a step.

    argv -> cli.parse -> configs.load_resolved -> (the backend starts) -> train.run

Everything that can be wrong with the command line or the config ends here with exit code 2, before a
JAX backend starts. Exit codes: 0 done; 2 bad usage or config; 75 preempted, run again; 1 anything else.
"""

import pathlib
import sys
from collections.abc import Sequence

from scaling import cli, configs
from scaling.experiment import Experiment
from scaling.train.signals import StopRequest


@cli.front_door
def main(argv: Sequence[str]) -> int:
    """Does what the command line says; raises ConfigError where it or the config is wrong."""
    arguments = cli.parse(argv)
    if arguments.diff:
        print(configs.compare(*arguments.diff))
        return 0
    if arguments.replay or arguments.evaluate or arguments.sample:
        return _look_at(arguments)
    assert arguments.config is not None
    config = configs.load_resolved(arguments.config, arguments.overrides)
    if arguments.dry_run:
        _check(config)
        print(configs.to_json(config))
        return 0
    workdir = pathlib.Path(arguments.workdir or f"runs/{config.name}").absolute()
    return _train(config, workdir, arguments)


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


def _train(config: Experiment, workdir: pathlib.Path, arguments: cli.Args) -> int:
    from scaling.track import allocator, machine

    if not machine.device_files():
        allocator.restart()
    # First of all from here, as importing JAX takes long enough to be interrupted.
    with StopRequest() as stop:
        from scaling import parallel
        from scaling.train.program import check_buildable
        from scaling.train.run import run

        check_buildable(config)

        with parallel.start_processes(config, arguments) as processes:
            return run(config, workdir, processes, stop)


def _look_at(arguments: cli.Args) -> int:
    from scaling.train import reopen, replay, sample

    if arguments.sample:
        chosen = {flag: getattr(arguments, flag) for flag in (*cli.SAMPLE_FLAGS, "step")}
        given = {
            flag.removeprefix("sample_"): value
            for flag, value in chosen.items()
            if value is not None
        }
        return sample.sample(pathlib.Path(arguments.sample), sample.SampleOptions(**given))
    if arguments.evaluate:
        return reopen.evaluate(pathlib.Path(arguments.evaluate), arguments.step)
    assert arguments.replay is not None
    assert arguments.step is not None
    return replay.replay(pathlib.Path(arguments.replay), arguments.step)


if __name__ == "__main__":
    sys.exit(main())
