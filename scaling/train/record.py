"""One run's directory while the run lives: opened, resumed from, written to, summed up.

A run has one `Record`; a population has one for each member, and so every member leaves what a run
alone leaves, and either can go on from what the other left.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scaling import configs
from scaling.data import DataInfo
from scaling.data.loader import Loader
from scaling.planning import grade
from scaling.tasks.base import Task
from scaling.track import files, memory
from scaling.track.goodput import Goodput
from scaling.track.run_dir import RunDir, read_summary
from scaling.track.stream import read_metrics
from scaling.track.writers import Tracker
from scaling.train.bad_steps import BadSteps
from scaling.train.books import Books, Hooks
from scaling.train.checkpoints import Checkpoints
from scaling.train.evaluate import EarlyStopping
from scaling.train.init_from import InitFrom, load_initial
from scaling.train.state import TrainState

Say = Callable[[str], None]


class Record:
    """A run directory, locked while it is open.

    Order of use: construct, `open_checkpoints`, `newest` (or a fresh state), `open_stream`, `books`,
    and at the end `write_summary` and `close`.

    Attributes:
      config: the resolved config.
      workdir: the run directory.
      run_id: the config's fingerprint.
      goodput: where the time goes.
      notes: what opening the directory found.
    """

    def __init__(
        self,
        config: Any,
        workdir: pathlib.Path,
        start: Mapping[str, Any],
        say: Say,
        main: bool = True,
    ) -> None:
        """Opens or creates the directory.

        Args:
          config: resolved and validated.
          workdir: the run directory.
          start: `provenance.collect` of this start.
          say: told what people should know.
          main: whether this is process 0; the others only read.

        Raises:
          RunDirError: see `RunDir`.
          LockedError: another process trains here.
        """
        self.config, self.workdir, self.start, self._say = config, workdir, start, say
        self.main = main
        self.config_json, self.run_id = configs.to_json(config), configs.fingerprint(config)
        self.stack = contextlib.ExitStack()
        self.notes: list[str] = []
        if main:
            self.run_dir = self.stack.enter_context(
                RunDir(workdir, self.config_json, self.run_id, start)
            )
            self.notes += self.run_dir.notes
        self.goodput = Goodput(workdir if main else None)
        self.stack.callback(self.goodput.flush)

    def __enter__(self) -> "Record":
        return self

    def __exit__(self, *error: Any) -> None:
        self.stack.__exit__(*error)

    def close(self) -> None:
        """Makes everything durable and gives the lock back; may be called twice."""
        self.stack.close()

    def finished(self) -> dict[str, Any]:
        """The summary of an earlier start, empty when there is none."""
        return read_summary(self.workdir) or {}

    # --- the state and the stream ------------------------------------------------------------

    def open_checkpoints(self) -> None:
        """Opens the folder of checkpoints.

        Raises:
          CheckpointError: it cannot be written to.
        """
        section, evaluation = self.config.checkpoint, self.config.eval
        self.checkpoints = Checkpoints(
            self.workdir / "checkpoints",
            section.keep_last,
            section.keep_best,
            evaluation.stop_metric,
            evaluation.stop_mode,
            section.asynchronous,
            keep_steps=section.keep_steps,
            say=self._say,
        )
        self.stack.callback(self.checkpoints.close)
        for note in self.checkpoints.notes:
            self._say(note)

    def newest(self, like: TrainState, before: int) -> tuple[int, TrainState] | None:
        """The newest whole checkpoint earlier than `before`, in the form of `like`; or None."""
        self.checkpoints.wait()
        steps = [step for step in self.checkpoints.agreed() if step < before]
        if not steps:
            return None
        only = None if before > self.config.train.steps else max(steps)
        step, state, notes = self.checkpoints.restore(like, only)
        for note in notes:
            self._say(note)
        self._say(f"resuming at step {step}")
        return step, state

    def first(self, fresh: TrainState) -> TrainState:
        """The state at step 0: `fresh`, with the parameters of `train.init_from` where it is set."""
        source = self.config.train.init_from
        if not source:
            return fresh
        sources = {"run": InitFrom(source, map=self.config.train.init_from_map)}
        variables, _ = load_initial(sources, {"params": fresh.params, **fresh.extra}, self._say)
        params = variables.pop("params")
        # Arrays of its own: the step donates its state, and an array can be given away once.
        ema = jax.tree.map(jnp.copy, params) if fresh.ema is not None else None
        return dataclasses.replace(fresh, params=params, extra=variables, ema=ema)

    def open_stream(self, step: int) -> None:
        """Opens the metrics stream so that it ends at `step`, from where the run goes on."""
        config = self.config
        self.tracker = self.stack.enter_context(
            Tracker(self.workdir, config.track, step, config.name, config.to_dict(), main=self.main)
        )
        for note in self.tracker.notes:
            self._say(note)
        self.goodput.resumed(step)

    def rewind(self, step: int) -> None:
        """Stream and ledger return to `step`."""
        self.tracker.rewind(step)
        self.goodput.resumed(step)

    def books(
        self,
        step: int,
        task: Task,
        devices: np.ndarray,
        loader: Loader,
        log: Callable[[int, Mapping[str, Any]], None],
    ) -> Books:
        """The books of the run from `step` on; `log` takes the lines of the stream."""
        train, evaluation = self.config.train, self.config.eval
        bad_steps = BadSteps(
            self.workdir / "bad_steps", train.on_bad_step, train.max_bad_steps, writes=self.main
        )
        stopping = EarlyStopping(
            evaluation.stop_metric,
            evaluation.stop_mode,
            evaluation.patience,
            evaluation.min_delta,
        )
        if step and (self.workdir / "metrics.jsonl").exists():
            stopping.replay(line for line in read_metrics(self.workdir) if line["step"] <= step)
        hooks = Hooks(log, self.save, self._say)
        return Books(self.config, task, devices, loader, hooks, bad_steps, stopping, self.goodput)

    def save(self, step: int, state: TrainState, values: Mapping[str, float]) -> None:
        """Starts a checkpoint, after making the stream up to it durable."""
        self.tracker.sync()
        texts = {"config.json": self.config_json, "provenance.json": files.to_json(self.start)}
        self.checkpoints.save(step, state, values, texts)
        self.goodput.mark(step)

    # --- the end -----------------------------------------------------------------------------

    def write_summary(
        self,
        status: str,
        step: int | None,
        evals: Mapping[str, Any],
        task: Task,
        info: DataInfo,
        step_bytes: int | None,
        **more: Any,
    ) -> dict[str, Any]:
        """Writes summary.json (see the contract in DESIGN.md) and returns its content.

        Args:
          status: how the run ended.
          step: updates done; None takes the last step of the stream.
          evals: evaluator name -> its newest values.
          task: the learning problem.
          info: what the data says of itself.
          step_bytes: memory that the compiled step needs on a device, where it is known.
          more: further entries.
        """
        step = self._last_step() if step is None else step
        units = step * self.config.train.batch_size * task.units_per_example
        evals = dict(evals)
        summary = {
            "status": status,
            "step": step,
            task.unit: units,
            "params": dataclasses.asdict(task.params),
            "flops": {
                name: per_unit * units for name, per_unit in dataclasses.asdict(task.flops).items()
            },
            "eval": evals.pop("eval", {}),
            **({"evals": evals} if evals else {}),
            "entropy": {"rate": info.entropy_rate, "eval": info.eval_entropy},
            "seconds": self.goodput.report(),
            "goodput": self.goodput.goodput(),
            "memory_bytes": {
                "host_peak": memory.host_peak_bytes(),
                "device": memory.device_bytes(jax.local_devices()),
                "program": step_bytes,
            },
            "run_id": self.run_id,
            "name": self.config.name,
            "seed": self.config.seed,
            **more,
        }
        summary = grade.with_grade(self.workdir, summary)
        if self.main:
            self.run_dir.write_summary(summary)
        return summary

    def _last_step(self) -> int:
        records = read_metrics(self.workdir)
        return records[-1]["step"] if records else 0


def digest(summary: Mapping[str, Any]) -> str:
    """A summary in the lines that people look for first."""
    loss = summary["eval"].get("loss")
    lines = [
        f"{summary['status']} at step {summary['step']}",
        f"  eval loss {loss:.4f}" if isinstance(loss, float) else "  not evaluated",
    ]
    for key in ("bits_per_byte", "perplexity", "accuracy", "f1_macro"):
        if isinstance(summary["eval"].get(key), float):
            lines[-1] += f", {key.replace('_', ' ')} {summary['eval'][key]:.4f}"
    spent = {k: v for k, v in summary["seconds"].items() if v >= 0.05}
    lines.append("  seconds: " + ", ".join(f"{k} {v:.1f}" for k, v in spent.items()))
    return "\n".join(lines)
