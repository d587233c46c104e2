"""What the loop runs: compiled functions of S runs, whose states it holds as one, each in a slot.

Sharded    one run over a whole mesh, which may span processes: S = 1
Stacked    many runs along a leading axis (`train.stacked`), with the same methods
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import numpy as np

from scaling import parallel
from scaling.data import Data
from scaling.experiment import Experiment
from scaling.parallel.batches import Fetch
from scaling.parallel.sharding import PyTree
from scaling.tasks.base import Task
from scaling.train.evaluate import (
    Scheduled,
    batch_key,
    collect,
    compile_evaluations,
    first_carry,
    schedule,
)
from scaling.train.program import Program, timed_compile
from scaling.train.state import TrainState

if TYPE_CHECKING:
    from scaling.train.stacked import Stacked

Batch = Mapping[str, jax.Array]
Compiled: TypeAlias = "Sharded | Stacked"


@dataclasses.dataclass(frozen=True)
class Turn:
    """What the runs do next: numpy arrays with one entry for each run, in the order of their slots.

    Attributes:
      active: bool, whether the run takes part; the state of another stays as it is.
      seeds: int64, of their configs.
      steps: int32, updates done.
      sources: int32, which of the distinct batches of a step it reads.
      used: float32, 0 where the batch of the step is left out.
    """

    active: np.ndarray
    seeds: np.ndarray
    steps: np.ndarray
    sources: np.ndarray
    used: np.ndarray

    @classmethod
    def alone(cls, seed: int, step: int) -> "Turn":
        """Of a single run."""
        return cls(
            active=np.array([True]),
            seeds=np.array([seed]),
            steps=np.array([step], np.int32),
            sources=np.array([0], np.int32),
            used=np.array([1.0], np.float32),
        )


@dataclasses.dataclass(frozen=True)
class Sharded:
    """One run over the devices of a mesh.

    Attributes:
      evaluations: compiled, by the name of the job.
      compiled_step: None where only evaluations are run.
    """

    program: Program
    jobs: Sequence[Scheduled]
    evaluations: Mapping[str, Any]
    compiled_step: Any = None

    @property
    def task(self) -> Task:
        """The learning problem."""
        return self.program.task

    @property
    def devices(self) -> np.ndarray:
        """Of the mesh."""
        return self.program.mesh.devices

    @property
    def template(self) -> TrainState:
        """The form in which a state is restored: shapes, types and shardings."""
        return self.program.abstract

    def fresh(self, config: Experiment) -> TrainState:
        """The state at step 0 (of the program's own config)."""
        return self.program.fresh_state()

    def stack(self, states: Sequence[TrainState]) -> TrainState:
        """The one state."""
        (state,) = states
        return state

    def take(self, states: TrainState, slots: Sequence[int]) -> list[TrainState]:
        """The states of the runs in some slots: the one state, where it is."""
        return [states for _ in slots]

    def replace(self, states: TrainState, slot: int, make: Callable[[], TrainState]) -> TrainState:
        """What `make` returns; the old state is freed first, as both may not fit."""
        for leaf in jax.tree.leaves(states):
            leaf.delete()
        return make()

    def part(self, values: PyTree, slot: int) -> PyTree:
        """The part of one run in values that are on the host: all of it."""
        return values

    def place_hparams(self, configs: Sequence[Experiment]) -> dict[str, jax.Array]:
        """The program's own."""
        return self.program.hparams()

    def place(self, fetches: Sequence[Fetch]) -> Batch:
        """The global batch, of which every process fetches the rows of its devices.

        Safe to call from another thread.
        """
        (fetch,) = fetches
        return parallel.put_batch(fetch, self.program.train_batch, self.program.mesh)

    def step(
        self, states: TrainState, batch: Batch, hparams: Mapping[str, jax.Array], turn: Turn
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """(state after a step, metrics); the old state is donated.

        A batch that is left out has come with weights of 0.
        """
        return self.compiled_step(states, batch, hparams)

    def carry(self, job: Scheduled) -> PyTree:
        """What the first batch of an evaluation gets, split like the rows of a batch."""
        by_rows = parallel.batch_sharding(self.program.mesh, self.program.config.mesh)
        return jax.device_put(first_carry(job), by_rows)

    def evaluate(
        self,
        job: Scheduled,
        number: int,
        variables: Mapping[str, PyTree],
        turn: Turn,
        carry: PyTree,
    ) -> tuple[PyTree, PyTree]:
        """(result, carry) of batch `number` of an evaluation."""
        everywhere = parallel.replicated(self.program.mesh)
        abstract = self.program.abstract_eval_batch(job.examples.spec, job.batch_size)
        fetch = functools.partial(job.examples.batch, number, job.batch_size)
        batch = parallel.put_batch(fetch, abstract, self.program.mesh)
        key = jax.device_put(batch_key(int(turn.seeds[0]), job.name, number), everywhere)
        step = jax.device_put(np.int32(turn.steps[0]), everywhere)
        return self.evaluations[job.name](dict(variables), batch, key, step, carry)


def compile_sharded(program: Program, data: Data) -> tuple[Sharded, float]:
    """(step and evaluations of a run, compiled ahead of time; seconds).

    A batch of another shape is an error then, not another compile.
    """
    jobs = schedule(program.config, program.task, data.evals)
    step, seconds = timed_compile(program.lower_step())
    evaluations, more = compile_evaluations(program, jobs)
    return Sharded(program, jobs, evaluations, step), seconds + more


def run_evaluation(
    program: Compiled,
    job: Scheduled,
    variables: Mapping[str, PyTree],
    turn: Turn,
    last: bool,
    artefacts: Mapping[str, Any],
) -> dict[int, dict[str, Any]]:
    """{slot: values of the evaluation} for the active runs of a turn, of `variables` of all runs.

    `last` says that the step before it was the last; `artefacts` of the data are for the report.
    """
    slots = np.flatnonzero(turn.active).tolist()

    def run(number: int, carry: PyTree) -> tuple[PyTree, PyTree]:
        return program.evaluate(job, number, variables, turn, carry)

    with jax.transfer_guard("allow"):
        carry = program.carry(job)
    parts = [lambda values, slot=slot: program.part(values, slot) for slot in slots]
    results = collect(job, last, run, carry, parts)
    with jax.transfer_guard("allow"):  # whatever the host does in a report
        return {
            slot: dict(job.evaluation.report(result, artefacts))
            for slot, result in zip(slots, results, strict=True)
        }
