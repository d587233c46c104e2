"""A finished or living run, opened to look at: its task, its states, its data facts. Writes nothing."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax

from scaling import configs, data, parallel
from scaling.data import DataError, DataInfo
from scaling.experiment import Experiment
from scaling.track import compile_cache
from scaling.track.files import to_json
from scaling.train import data_record
from scaling.train.checkpoints import Checkpoints
from scaling.train.compiled import Sharded, Turn, run_evaluation
from scaling.train.evaluate import compile_evaluations, pictures_saved, schedule
from scaling.train.program import Program, build_program
from scaling.train.state import TrainState


class ReopenError(RuntimeError):
    """There is no such run, or it lacks what is asked of it."""


@dataclasses.dataclass(frozen=True)
class OpenRun:
    """A run on the devices that are here; needs neither its corpus nor a cache.

    Attributes:
      program: its program; `program.task` has the functions.
      info: what its data said of itself.
      artefacts: of its data, such as {"tokenizer": ...}.
    """

    path: pathlib.Path
    config: Experiment
    program: Program
    info: DataInfo
    artefacts: Mapping[str, Any]

    def state(
        self,
        wanted: Callable[[int], bool] = lambda step: True,
        say: Callable[[str], None] = print,
    ) -> tuple[int, TrainState] | None:
        """The newest checkpointed (step, state) whose step is wanted, or None."""
        checkpoints = Checkpoints(self.path, read_only=True)
        steps = [step for step in checkpoints.steps() if wanted(step)]
        if not steps:
            return None
        step, state, notes = checkpoints.restore(self.program.abstract, max(steps))
        for note in notes:
            say(note)
        return step, state

    def variables(self, step: int | None = None) -> dict[str, Any]:
        """What is evaluated of a `checkpoint`: its averaged parameters if it has any."""
        return self.checkpoint(step)[1].evaluated()

    def checkpoint(
        self, step: int | None = None, say: Callable[[str], None] = print
    ) -> tuple[int, TrainState]:
        """The checkpoint of a step (None: the newest); ReopenError if there is no such."""
        newest = self.state(lambda s: step in (None, s), say)
        if newest is None:
            there = Checkpoints(self.path, read_only=True).steps()
            raise ReopenError(
                f"{self.path} has no checkpoint"
                + (f" of step {step}" if step is not None else "")
                + (f"; it has {there}" if there else ": the run has not saved one yet")
            )
        return newest

    def data(self) -> data.Data:
        """The run's data, read from where the config says; ReopenError if it is not here."""
        try:
            return data.build(self.config)
        except DataError as error:
            raise ReopenError(f"the data of {self.path} is not here: {error}") from error


def recorded(path: pathlib.Path) -> tuple[Experiment, DataInfo, dict[str, Any]]:
    """What a run directory says of its run, without a device: (config, data facts, artefacts).

    Raises:
      ReopenError, ConfigError: see `open_run`.
      DataRecordError: it was written without data.json, or an artefact's class is not here.
    """
    if not (path / "config.json").exists():
        raise ReopenError(f"{path} is not a run directory: it has no config.json")
    config = configs.from_json((path / "config.json").read_text(encoding="utf-8"))
    return config, *data_record.read(path)


def open_run(path: str | pathlib.Path, devices: list[jax.Device] | None = None) -> OpenRun:
    """Opens a run directory, wherever it was copied to.

    `devices` say where to put it; None takes all that are here, as the config's mesh says.

    Raises:
      ReopenError: it is not a run directory, or was written without data.json.
      ConfigError: its config does not resolve here, for want of a component of its own.
    """
    path = pathlib.Path(path)
    config, info, artefacts = recorded(path)
    compile_cache.enable()
    program = build_program(config, info, parallel.make_mesh(config.mesh, devices))
    return OpenRun(path, config, program, info, artefacts)


def evaluate(path: pathlib.Path, step: int | None = None) -> int:
    """Runs every evaluation of a run on a checkpoint (None: the newest); prints one JSON object.

    Pictures go where the run leaves its own, into `evaluations/NAME/`.

    Raises:
      ReopenError: there is no run, no such checkpoint, no data here, or nothing was held out.
    """
    run = open_run(path)
    lines: list[str] = []
    at, state = run.checkpoint(step, lines.append)
    built = run.data()
    if not built.evals:
        raise ReopenError(f"{path} holds no data out (data.eval_fraction=0)")
    section = dataclasses.replace(run.config.eval, final_units=None)
    config = dataclasses.replace(run.config, eval=section)
    jobs = schedule(config, run.program.task, built.evals)
    program = Sharded(run.program, jobs, compile_evaluations(run.program, jobs)[0])
    turn, variables = Turn.alone(run.config.seed, at), state.evaluated()
    values = {
        job.name: run_evaluation(program, job, variables, turn, True, built.artefacts)[0]
        for job in jobs
    }
    for name, found in values.items():
        try:
            values[name] = pictures_saved(path / "evaluations" / name, at, found)
        except OSError as error:
            raise ReopenError(f"{error}: a picture of {name} cannot be written there") from error
    result = {"step": at, **values, **({"notes": lines} if lines else {})}
    print(json.dumps(json.loads(to_json(result)), indent=2))
    return 0
