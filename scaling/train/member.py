"""One run in the loop: what it logs, when it evaluates and saves, and when it ends.

A run alone is the only member of its loop; a population has many. Metrics come in as numbers of the
host: nothing here touches a device.
"""

import dataclasses
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from scaling.data import DataInfo
from scaling.data.loader import Loader
from scaling.track import files, grade, memory
from scaling.track.run_dir import SUMMARY
from scaling.track.stream import read_metrics
from scaling.train.bad_steps import BadSteps
from scaling.train.callbacks import Event, build_callbacks
from scaling.train.compiled import Compiled
from scaling.train.evaluate import EarlyStopping, numbers, stop_metric
from scaling.train.record import Record
from scaling.train.speed import Speed
from scaling.train.state import TrainState

# (index of the member, step, values), after a line of its metrics stream was written.
Report = Callable[[int, int, Mapping[str, Any]], None]


class Member:
    """One run while it trains.

    Attributes:
      index: its place in the list of runs that were started together.
      slot: where its state is.
      source: which of the distinct batches of a step it reads.
      status: how it ended; None while it trains.
      evals: name of an evaluation -> its newest values.
    """

    def __init__(
        self,
        index: int,
        slot: int,
        source: int,
        step: int,
        record: Record,
        loader: Loader,
        program: Compiled,
        report: Report,
    ) -> None:
        self.index, self.slot, self.source, self.step = index, slot, source, step
        self.record, self.loader, self.report = record, loader, report
        self.config = config = record.config
        self.jobs = program.jobs
        self.status: str | None = None
        self.error: Exception | None = None
        self.evals: dict[str, Any] = {}
        self.task = program.task
        self.speed = Speed(program.task, program.devices, self.units, record.goodput)
        self.callbacks = build_callbacks(config.track)
        self.bad_steps = BadSteps(
            record.workdir / "bad_steps",
            config.train.on_bad_step,
            config.train.max_bad_steps,
            writes=record.main,
        )
        self.stopping = EarlyStopping(
            stop_metric(config, program.task),
            config.eval.stop_mode,
            config.eval.patience,
            config.eval.min_delta,
        )
        if step and (record.workdir / "metrics.jsonl").exists():
            lines = read_metrics(record.workdir)
            self.stopping.replay(line for line in lines if line["step"] <= step)
        # The newest numbers of evaluations, and the step whose parameters they are of.
        self._scores: tuple[int, dict[str, float]] = (-1, {})
        available, steps = loader.num_steps, config.train.steps
        # Where the run ends: at `train.steps`, or earlier where the data ends.
        self.last_step = steps if available is None else min(steps, available)

    def has_ended(self) -> bool:
        """Whether no step is left, or the run stopped early here before its summary was written."""
        return self.step >= self.last_step or self.stopping.stopped(self.step)

    def uses_batch(self, step: int) -> bool:
        """False when the batch of this (1-based) step is left out on purpose."""
        return step not in self.bad_steps.left_out

    def units(self, step: int) -> int:
        """Tokens (or examples) that the updates up to this step were made from.

        Counted from the data: neither padding nor a batch that was left out is in it.
        """
        each = self.task.units_per_example
        skipped = [s for s in self.bad_steps.left_out if s <= step]
        return self.loader.units(step, each) - sum(
            self.loader.units(s, each) - self.loader.units(s - 1, each) for s in skipped
        )

    def due(self, step: int) -> list[str]:
        """Names of the evaluations that follow this step."""
        return [job.name for job in self.jobs if job.is_due(step, self.last_step)]

    def saves(self, step: int) -> bool:
        """Whether a checkpoint of this step is due; the last one is saved on leaving."""
        section = self.config.checkpoint
        due = _due(section.every, step) or step in section.keep_steps
        return due and step < self.last_step

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes a line of the metrics stream."""
        self.record.tracker.write(step, values)
        self.report(self.index, step, values)

    def read(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Takes in a step's metrics: logs them, and acts on a bad one: see `BadSteps.report`."""
        if not self.uses_batch(step):
            return  # its batch was left out: there is nothing to report
        values = _stream(metrics)
        self.call(Event("step", step, values, self.record.workdir))
        if not metrics["ok"]:
            self.log(step, {"train/bad": 1.0, **values})
            ids = self.loader.indices(step - 1)
            self.record.say(self.bad_steps.report(step, metrics, ids))
        elif _due(self.config.track.every, step) or step in (1, self.last_step):
            ids = np.ascontiguousarray(self.loader.indices(step - 1), np.int64)
            values |= {
                "data/epoch": self.loader.epoch(step),
                f"data/{self.task.unit}": self.units(step),
                "data/ids_crc32": zlib.crc32(ids.tobytes()),
            }
            self.log(step, values | self.speed.measure(step))

    def evaluated(
        self,
        results: Mapping[str, Mapping[str, Any]],
        variables: Callable[[], Mapping[str, Any]],
    ) -> None:
        """Takes in the values of evaluations, by name, after its step; they may end the run early.

        `variables` gives callbacks what was evaluated.
        """
        kept = {name: self.record.keep(self.step, name, v) for name, v in results.items()}
        self.evals |= kept
        values = numbers(kept)
        self._scores = (self.step, values)
        self.log(self.step, values | {f"data/{self.task.unit}": self.units(self.step)})
        self.call(Event("evaluation", self.step, values, self.record.workdir, variables))
        watched = self.stopping.metric.split("/")[0]
        if watched not in results and watched in {job.name for job in self.jobs}:
            return  # the watched evaluation has another schedule
        if values and self.config.checkpoint.keep_best:
            self.stopping.watched(values)
        self.stopping.update(self.step, values)

    def call(self, event: Event) -> None:
        """Calls every callback and logs the numbers that they return."""
        if not self.callbacks:
            return
        logged: dict[str, float] = {}
        with jax.transfer_guard("allow"):
            for name, callback in self.callbacks.items():
                returned = callback(event) or {}
                logged |= {f"{name}/{key}": float(value) for key, value in returned.items()}
        if logged:
            self.log(event.step, logged)

    def save(self, state: TrainState) -> None:
        """Starts a checkpoint."""
        with self.record.goodput.spend("checkpoint"):
            # Only what was measured on these very parameters may rank them.
            scored, values = self._scores
            self.record.save(self.step, state, values if scored == self.step else {})

    def end(self) -> None:
        """Tells the callbacks that the run has ended."""
        self.call(Event("end", self.step, {}, self.record.workdir))

    def write_summary(self, info: DataInfo, step_bytes: int | None, **more: Any) -> dict[str, Any]:
        """Writes summary.json (see the contract in DESIGN.md) and returns its content.

        `info` is what the data says of itself, `step_bytes` the memory that the compiled step needs
        on a device, where it is known, `more` are further entries.
        """
        record, task, step, evals = self.record, self.task, self.step, dict(self.evals)
        if self.status == "diverged":  # the stream says how far it came
            lines = read_metrics(record.workdir)
            step, evals = lines[-1]["step"] if lines else 0, {}
        seen = self.units(step)
        summary = {
            "status": self.status,
            "step": step,
            task.unit: seen,
            "unit": task.unit,
            "units": seen,
            "objective": task.objective,
            "params": dataclasses.asdict(task.params),
            "flops": {
                name: per_unit * seen for name, per_unit in dataclasses.asdict(task.flops).items()
            },
            "eval": evals.pop("eval", {}),
            **({"evals": evals} if evals else {}),
            "entropy": {
                "rate": info.entropy_rate,
                # Of all held-out examples: nothing that a part of them can be compared with.
                "eval": None if self.config.eval.final_units else info.eval_entropy,
            },
            "seconds": record.goodput.report(),
            "goodput": record.goodput.goodput(),
            "memory_bytes": {
                "host_peak": memory.host_peak_bytes(),
                "device": memory.device_bytes(jax.local_devices()),
                "program": step_bytes,
            },
            "run_id": record.run_id,
            "name": self.config.name,
            "seed": self.config.seed,
            **more,
            **({} if self.error is None else {"error": str(self.error)}),
        }
        summary = grade.with_grade(record.workdir, summary)
        if record.main:
            files.write_json(record.workdir / SUMMARY, summary)
        return summary


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
