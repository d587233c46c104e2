"""The loop: feed, step, read the metrics of the step before, evaluate, save.

The device never waits for the host: step n is dispatched before the metrics of step n - 1 are read,
and batches are prepared and placed by a thread ahead of time. Nothing is transferred implicitly (the
transfer guard is on), so every copy between host and device is one that stands here.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from scaling import parallel
from scaling.data.loader import leave_out
from scaling.data.prefetch import Prefetcher
from scaling.train.bad_steps import RollbackError
from scaling.train.books import Books
from scaling.train.callbacks import Event
from scaling.train.evaluate import Evaluator
from scaling.train.program import Program
from scaling.train.state import TrainState

# (step) -> (step, state): newest checkpoint before `step` or the fresh state; the metrics stream
# goes back with it.
Restore = Callable[[int], tuple[int, TrainState]]


@dataclasses.dataclass
class Outcome:
    """How the loop ended, and with what.

    Attributes:
      status: "completed" or "preempted"; stopping early is completing.
      step: updates done.
      eval: evaluator name -> its newest values.
    """

    status: str
    step: int
    eval: dict[str, Any]


@dataclasses.dataclass
class Pending:
    """A dispatched step whose metrics have not been read."""

    step: int
    metrics: Mapping[str, jax.Array]


class Loop:
    """Runs the steps of one run from where it stands to its end."""

    def __init__(
        self,
        program: Program,
        step: Any,
        evaluators: Mapping[str, Evaluator],
        books: Books,
        restore: Restore,
        should_stop: Callable[[int], bool],
    ) -> None:
        """Takes its parts together.

        Args:
          program: the run's program.
          step: its compiled step.
          evaluators: by the name of what they run.
          books: of this run.
          restore: see `Restore`.
          should_stop: (step) -> bool, asked once a step; True on all processes at the same step.
        """
        self.program, self.compiled_step, self.evaluators = program, step, evaluators
        self.books, self.restore, self.should_stop = books, restore, should_stop
        self.config, self.ledger = program.config, books.ledger

    def run(self, start: int, state: TrainState) -> Outcome:
        """Runs to the end, rolling back as often as the policy allows.

        Raises:
          DivergedError: bad steps ended the run.
        """
        while True:
            try:
                with jax.transfer_guard("disallow"):
                    return self._run(start, state)
            except RollbackError as rollback:
                del state  # donated, or about to be replaced
                start, state = self.restore(rollback.step)
                self.books.hooks.note(
                    f"went back to step {start}; the batch of step {rollback.step} is left out"
                )

    def _run(self, start: int, state: TrainState) -> Outcome:
        hparams = self.program.hparams()
        end, step = self.books.last_step(), start
        pending: Pending | None = None
        self.books.speed.restart(start)
        data = self.config.data
        with Prefetcher(self._place, start, data.prefetch, data.workers, end) as batches:
            while step < end and not self.books.stopped(step):
                if self.should_stop(step):
                    return self._leave("preempted", step, state, pending)
                batch = self._next(batches)
                with self.ledger.spend("train"):
                    state, metrics = self.compiled_step(state, batch, hparams)
                    step += 1
                    self._read(pending)
                pending = Pending(step, metrics)
                if due := self.books.due(step):
                    self._read(pending)
                    pending = None
                    results = self._evaluate(due, state, step, whole=step == end)
                    if self.books.evaluated(step, results, state.evaluated) and step < end:
                        if self.config.eval.batches is not None:
                            self.books.evals = {}  # of a part of the split; see `_leave`
                        return self._leave("completed", step, state, None)
                if self.books.saves(step):
                    self._read(pending)
                    pending = None
                    self.books.save(step, state)
        return self._leave("completed", step, state, pending)

    def _evaluate(
        self, names: Sequence[str], state: TrainState, step: int, whole: bool
    ) -> dict[str, Any]:
        with self.ledger.spend("eval"):
            variables = state.evaluated()
            return {name: self.evaluators[name](variables, step, whole) for name in names}

    def _place(self, step: int) -> dict[str, jax.Array]:
        """The batch of a step on the devices; runs in the prefetching thread."""
        return parallel.put_batch(
            lambda start, stop: self._rows(step, start, stop),
            self.program.train_batch,
            self.program.mesh,
        )

    def _rows(self, step: int, start: int, stop: int) -> dict[str, np.ndarray]:
        rows = self.books.loader.batch(step, start, stop)
        if not self.books.intended(step + 1):
            leave_out(rows)
        return rows

    def _next(self, batches: Prefetcher[dict[str, jax.Array]]) -> dict[str, jax.Array]:
        with self.ledger.spend("data_wait"):
            return batches.get()

    def _read(self, pending: Pending | None) -> None:
        """Reads a step's metrics (waiting for the step) into the books."""
        if pending is not None:
            self.books.read(pending.step, jax.device_get(dict(pending.metrics)))

    def _leave(self, status: str, step: int, state: TrainState, pending: Pending | None) -> Outcome:
        self._read(pending)
        if status == "completed" and not self.books.evals:
            # Stopped early, or killed between the last checkpoint and the summary: the stream has
            # this evaluation already, the summary does not, and wants it of the whole split.
            self.books.evals = self._evaluate(self.books.due(None), state, step, whole=True)
        self.books.save(step, state)
        self.books.call(Event("end", step, {}, self.books.workdir))
        return Outcome(status, step, self.books.evals)
