"""Per-run logging, and the schedules of evaluations and checkpoints.

The loop of one run (`train.loop`) has one `Books`; the loop of a population has one for each member.
Nothing here touches a device: metrics come in as numbers of the host.
"""

import dataclasses
import pathlib
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from scaling.data.loader import Loader
from scaling.experiment import Experiment
from scaling.tasks.base import Task
from scaling.track import memory
from scaling.track.goodput import Goodput
from scaling.track.hardware import mfu
from scaling.train.bad_steps import BadSteps
from scaling.train.callbacks import Callback, Event
from scaling.train.evaluate import EarlyStopping, Scheduled, numbers

PyTree = Any


@dataclasses.dataclass
class Hooks:
    """What the books call and do not know.

    Attributes:
      log: (step, values) -> None, one line of the metrics stream.
      save: (step, state, values) -> None, start a checkpoint.
      keep: (step, name, values) -> values, put text and pictures of an evaluation aside.
      note: (sentence) -> None, for people.
    """

    log: Callable[[int, Mapping[str, Any]], None]
    save: Callable[[int, PyTree, Mapping[str, float]], None]
    note: Callable[[str], None]
    keep: Callable[[int, str, Mapping[str, Any]], dict[str, Any]]


class Books:
    """The books of one run.

    Attributes:
      config: the resolved config.
      evals: evaluator name -> its newest values.
      bad_steps: the record of bad steps.
      ledger: where the time went.
    """

    def __init__(
        self,
        config: Experiment,
        task: Task,
        devices: np.ndarray,
        loader: Loader,
        hooks: Hooks,
        bad_steps: BadSteps,
        stopping: EarlyStopping,
        ledger: Goodput,
        jobs: Sequence[Scheduled],
        callbacks: Mapping[str, Callback],
        workdir: pathlib.Path,
    ) -> None:
        self.config, self.loader, self.hooks, self.jobs = config, loader, hooks, jobs
        self.bad_steps, self.stopping, self.ledger = bad_steps, stopping, ledger
        self.callbacks, self.workdir = callbacks, workdir
        self.evals: dict[str, Any] = {}
        self.newest: tuple[int, dict[str, float]] = (-1, {})
        self.speed = Speed(task, devices, config.train.batch_size, ledger)

    def last_step(self) -> int:
        """Where the run ends: `train.steps`, or earlier where the data ends."""
        available = self.loader.num_steps
        steps = self.config.train.steps
        return steps if available is None else min(steps, available)

    def intended(self, step: int) -> bool:
        """False when the batch of this (1-based) step is left out on purpose."""
        return step not in self.bad_steps.left_out

    def due(self, step: int | None) -> list[str]:
        """Names of the evaluations that follow this step; None asks for those after the last."""
        last = self.last_step()
        return [job.name for job in self.jobs if job.is_due(last if step is None else step, last)]

    def saves(self, step: int) -> bool:
        """Whether a checkpoint of this step is due; the last one is saved on leaving."""
        section = self.config.checkpoint
        due = _due(section.every, step) or step in section.keep_steps
        return due and step < self.last_step()

    def read(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Takes in a step's metrics: logs them, and acts on a bad one.

        Raises:
          DivergedError: bad steps end the run.
          RollbackError: the run is to go back.
        """
        if not self.intended(step):
            return  # its batch was left out: there is nothing to report
        self.call(Event("step", step, _stream(metrics), self.workdir))
        if not metrics["ok"]:
            ids = self.loader.indices(step - 1)
            self.hooks.log(step, {"train/bad": 1.0, **_stream(metrics)})
            self.hooks.note(self.bad_steps.report(step, metrics, ids))
        elif _due(self.config.track.every, step) or step in (1, self.last_step()):
            ids = np.ascontiguousarray(self.loader.indices(step - 1), np.int64)
            values: dict[str, Any] = _stream(metrics) | {
                "data/epoch": self.loader.epoch(step),
                "data/ids_crc32": zlib.crc32(ids.tobytes()),
            }
            self.hooks.log(step, values | self.speed.measure(step))

    def call(self, event: Event) -> None:
        """Calls every callback and logs the numbers that they return."""
        if not self.callbacks:
            return
        logged: dict[str, float] = {}
        with jax.transfer_guard("allow"):
            for name, callback in self.callbacks.items():
                numbers = callback(event) or {}
                logged |= {f"{name}/{key}": float(value) for key, value in numbers.items()}
        if logged:
            self.hooks.log(event.step, logged)

    def evaluated(
        self,
        step: int,
        results: Mapping[str, Mapping[str, Any]],
        variables: Callable[[], Mapping[str, Any]],
    ) -> bool:
        """Takes in the values of evaluations and logs them; True when the run should end."""
        kept = {name: self.hooks.keep(step, name, values) for name, values in results.items()}
        self.evals |= kept
        values: dict[str, float] = {}
        for name, result in kept.items():
            values |= numbers(result, name)
        self.newest = (step, values)
        self.hooks.log(step, values)
        self.call(Event("evaluation", step, values, self.workdir, variables))
        if self.stopping.metric.split("/")[0] not in results and self._is_evaluated():
            return False  # the watched evaluation has another schedule
        if values and self.config.checkpoint.keep_best:
            self.stopping.watched(values)
        return self.stopping.update(step, values)

    def _is_evaluated(self) -> bool:
        return self.stopping.metric.split("/")[0] in {job.name for job in self.jobs}

    def stopped(self, step: int) -> bool:
        """Whether the run ended early at this step: killed before its summary, it goes no further."""
        return self.stopping.stopped(step)

    def save(self, step: int, state: PyTree) -> None:
        """Starts a checkpoint."""
        with self.ledger.spend("checkpoint"):
            # Only what was measured on these very parameters may rank them.
            self.hooks.save(step, state, self.newest[1] if step == self.newest[0] else {})

    def numbers(self) -> dict[str, float]:
        """The newest numbers of all evaluations, by their names in the stream."""
        values: dict[str, float] = {}
        for name, result in self.evals.items():
            values |= numbers(result, name)
        return values


def _due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0


def _stream(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """A step's metrics under their names in the stream; arrays become lists."""
    plain = {k: float(v) if np.ndim(v) == 0 else np.asarray(v).tolist() for k, v in metrics.items()}
    rates = {f"optim/{k}": v for k, v in plain.items() if k.split("/")[0] == "learning_rate"}
    # The objective is the loss with its penalties: only of interest where the task reports no loss.
    hidden = ("ok", "weight", *(["objective"] if "loss" in plain else []))
    left_out = {*hidden, *(k.removeprefix("optim/") for k in rates)}
    return rates | {f"train/{k}": v for k, v in plain.items() if k not in left_out}


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

    def __init__(self, task: Task, devices: np.ndarray, batch_size: int, ledger: Goodput) -> None:
        self.task, self.devices, self.batch_size = task, devices, batch_size
        self.ledger = ledger
        self.restart(0)

    def restart(self, step: int) -> None:
        """Starts an interval at `step`."""
        self.step, self.start = step, time.perf_counter()
        self.paused, self.waited = self._pauses(), self.ledger.seconds["data_wait"]

    def measure(self, step: int) -> dict[str, float | None]:
        """The rates of the interval that ends at `step`, and starts the next one."""
        seconds = time.perf_counter() - self.start - (self._pauses() - self.paused)
        waited = self.ledger.seconds["data_wait"] - self.waited
        steps, task = step - self.step, self.task
        self.restart(step)
        if steps <= 0 or seconds <= 0:
            return {}
        units = steps * self.batch_size / seconds * task.units_per_example
        devices, flops = self.devices, task.flops
        kind, count = devices.flat[0].device_kind, devices.size
        return {
            f"perf/{task.unit}_per_second": units,
            "perf/step_seconds": seconds / steps,
            "perf/mfu": mfu(units * flops.exact, kind, count, units * flops.exact_causal),
            "perf/data_wait_fraction": waited / seconds,
            "perf/wall_seconds": sum(self.ledger.seconds.values()),
            "perf/device_seconds": self.ledger.seconds["train"] * count,
            **_memory(devices),
        }

    def _pauses(self) -> float:
        return self.ledger.seconds["eval"] + self.ledger.seconds["checkpoint"]
