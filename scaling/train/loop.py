"""The loop: feed, step, read the metrics of the step before, evaluate, save.

The device never waits for the host: step n is dispatched before the metrics of step n - 1 are read,
and batches are prepared and placed by a thread ahead of time. Nothing is transferred implicitly (the
transfer guard is on), so every copy between host and device is one that stands here.
"""

import dataclasses
import time
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from scaling import parallel
from scaling.data.loader import Loader
from scaling.data.prefetch import Prefetcher
from scaling.track import memory
from scaling.track.goodput import Goodput
from scaling.track.hardware import mfu
from scaling.train.bad_steps import BadSteps, RollbackError
from scaling.train.evaluate import EarlyStopping, Evaluator, numbers
from scaling.train.program import Program
from scaling.train.state import TrainState

PyTree = Any


@dataclasses.dataclass
class Hooks:
    """What the loop calls and does not know.

    Attributes:
      log: (step, values) -> None, one line of the metrics stream.
      save: (step, state, values) -> None, start a checkpoint.
      restore: (step) -> (step, state), newest checkpoint before `step` or the fresh state; the
        metrics stream goes back with it.
      should_stop: (step) -> bool, asked once a step; True on all processes at the same step.
      note: (sentence) -> None, for people.
    """

    log: Callable[[int, Mapping[str, Any]], None]
    save: Callable[[int, TrainState, Mapping[str, float]], None]
    restore: Callable[[int], tuple[int, TrainState]]
    should_stop: Callable[[int], bool]
    note: Callable[[str], None]


@dataclasses.dataclass
class Outcome:
    """How the loop ended, and with what.

    Attributes:
      status: "completed" or "preempted"; stopping early is completing.
      step: updates done.
      state: the state there.
      eval: evaluator name -> its newest values.
    """

    status: str
    step: int
    state: TrainState
    eval: dict[str, Any]


@dataclasses.dataclass
class Pending:
    """A dispatched step whose metrics have not been read."""

    step: int
    metrics: Mapping[str, jax.Array]
    intended: bool  # False: its batch was left out on purpose


class Loop:
    """Runs the steps of one run from where it stands to its end."""

    def __init__(
        self,
        program: Program,
        step: Any,
        loader: Loader,
        evaluators: Mapping[str, Evaluator],
        hooks: Hooks,
        bad_steps: BadSteps,
        stopping: EarlyStopping,
        ledger: Goodput,
    ) -> None:
        self.program, self.compiled_step, self.loader = program, step, loader
        self.evaluators, self.hooks, self.bad_steps = evaluators, hooks, bad_steps
        self.stopping, self.ledger = stopping, ledger
        self.config = program.config
        self.last_eval: dict[str, Any] = {}
        self.speed = Speed(program, ledger)

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
                start, state = self.hooks.restore(rollback.step)
                self.hooks.note(
                    f"went back to step {start}; the batch of step {rollback.step} is left out"
                )

    def _run(self, start: int, state: TrainState) -> Outcome:
        hparams = self.program.hparams()
        end, step = self.last_step(), start
        pending: Pending | None = None
        self.speed.restart(start)
        data = self.config.data
        with Prefetcher(self._place, start, data.prefetch, data.workers, end) as batches:
            while step < end:
                if self.hooks.should_stop(step):
                    return self._leave("preempted", step, state, pending)
                batch = self._next(batches)
                with self.ledger.spend("train"):
                    state, metrics = self.compiled_step(state, batch, hparams)
                    step += 1
                    self._read(pending)
                pending = Pending(step, metrics, step not in self.bad_steps.left_out)
                if self._due(self.config.eval.every, step) or step == end:
                    self._read(pending)
                    pending = None
                    if self.evaluate(step, state, whole=step == end) and step < end:
                        return self._leave("completed", step, state, None)
                if self._due(self.config.checkpoint.every, step) and step < end:
                    self._read(pending)
                    pending = None
                    self._save(step, state)
        return self._leave("completed", step, state, pending)

    def last_step(self) -> int:
        """Where the run ends: `train.steps`, or earlier where the data ends."""
        available = self.loader.num_steps
        return (
            self.config.train.steps
            if available is None
            else min(self.config.train.steps, available)
        )

    def evaluate(self, step: int, state: TrainState, whole: bool) -> bool:
        """Evaluates and logs; True when early stopping says so."""
        values = self._score(state, whole)
        self.hooks.log(step, values)
        return self.stopping.update(values)

    def _score(self, state: TrainState, whole: bool) -> dict[str, float]:
        params = state.params if state.ema is None else state.ema
        limit = None if whole else self.config.eval.batches
        values: dict[str, float] = {}
        with self.ledger.spend("eval"):
            for name, evaluator in self.evaluators.items():
                self.last_eval[name] = evaluator(params, state.extra, limit)
                values |= numbers(self.last_eval[name], name)
        return values

    def _place(self, step: int) -> dict[str, jax.Array]:
        """The batch of a step on the devices; runs in the prefetching thread."""
        return parallel.put_batch(
            lambda start, stop: self._rows(step, start, stop),
            self.program.train_batch,
            self.program.mesh,
        )

    def _rows(self, step: int, start: int, stop: int) -> dict[str, np.ndarray]:
        rows = self.loader.batch(step, start, stop)
        if step + 1 in self.bad_steps.left_out:
            rows["weights"] = np.zeros_like(rows["weights"])
        return rows

    def _next(self, batches: Prefetcher[dict[str, jax.Array]]) -> dict[str, jax.Array]:
        with self.ledger.spend("data_wait"):
            return batches.get()

    def _read(self, pending: Pending | None) -> None:
        """Reads a step's metrics (waiting for the step), logs them, and acts on a bad one."""
        if pending is None:
            return
        step = pending.step
        metrics = {k: float(v) for k, v in jax.device_get(dict(pending.metrics)).items()}
        if not pending.intended:
            return  # its batch was left out: there is nothing to tell of it
        if not metrics["ok"]:
            ids = self.loader.indices(step - 1)
            self.hooks.log(step, {"train/bad": 1.0, **_stream(metrics)})
            self.hooks.note(self.bad_steps.report(step, metrics, ids))
        elif self._due(self.config.track.every, step) or step in (1, self.last_step()):
            ids = np.ascontiguousarray(self.loader.indices(step - 1), np.int64)
            values: dict[str, Any] = _stream(metrics) | {
                "data/epoch": self.loader.epoch(step),
                "data/ids_crc32": zlib.crc32(ids.tobytes()),
            }
            self.hooks.log(step, values | self.speed.measure(step))

    def _save(self, step: int, state: TrainState) -> None:
        with self.ledger.spend("checkpoint"):
            values: dict[str, float] = {}
            for name, result in self.last_eval.items():
                values |= numbers(result, name)
            self.hooks.save(step, state, values)

    def _leave(self, status: str, step: int, state: TrainState, pending: Pending | None) -> Outcome:
        self._read(pending)
        self._save(step, state)
        if status == "completed" and not self.last_eval:
            # Killed between the last checkpoint and the summary: the stream has this evaluation
            # already, the summary does not.
            self._score(state, whole=True)
        return Outcome(status, step, state, self.last_eval)

    @staticmethod
    def _due(every: int, step: int) -> bool:
        return every > 0 and step % every == 0


def _stream(metrics: Mapping[str, float]) -> dict[str, float]:
    """A step's metrics under their names in the stream."""
    named = {"optim/learning_rate": metrics["learning_rate"]}
    hidden = ("learning_rate", "ok", "weight")
    return named | {f"train/{k}": v for k, v in metrics.items() if k not in hidden}


def _memory(devices: np.ndarray) -> dict[str, float]:
    """Resident memory of this host, and of its fullest device where the backend counts it."""
    local = [d for d in devices.flat if d.process_index == jax.process_index()]
    on_device = memory.device_bytes(local)
    found: dict[str, float] = {"perf/host_memory_bytes": memory.host_bytes()}
    if on_device:
        found["perf/device_memory_peak_bytes"] = on_device["peak"]
    return found


class Speed:
    """Throughput between two lines of the stream, evaluation and saving left out."""

    def __init__(self, program: Program, ledger: Goodput) -> None:
        self.program, self.ledger = program, ledger
        self.restart(0)

    def restart(self, step: int) -> None:
        """Starts an interval at `step`."""
        self.step, self.start = step, time.perf_counter()
        self.paused, self.waited = self._pauses(), self.ledger.seconds["data_wait"]

    def measure(self, step: int) -> dict[str, float | None]:
        """The rates of the interval that ends at `step`, and starts the next one."""
        seconds = time.perf_counter() - self.start - (self._pauses() - self.paused)
        waited = self.ledger.seconds["data_wait"] - self.waited
        steps, task = step - self.step, self.program.task
        self.restart(step)
        if steps <= 0 or seconds <= 0:
            return {}
        examples = steps * self.program.config.train.batch_size / seconds
        units = examples * task.units_per_example
        devices = self.program.mesh.devices
        return {
            f"perf/{task.unit}_per_second": units,
            "perf/step_seconds": seconds / steps,
            "perf/mfu": mfu(units * task.flops.exact, devices.flat[0].device_kind, devices.size),
            "perf/data_wait_fraction": waited / seconds,
            **_memory(devices),
        }

    def _pauses(self) -> float:
        return self.ledger.seconds["eval"] + self.ledger.seconds["checkpoint"]
