"""One run's directory while the run lives: opened, resumed from, written to.

A run has one `Record`; a population has one for each member, and so every member leaves what a run
alone leaves, and either can go on from what the other left.
"""

import contextlib
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from scaling import configs
from scaling.data import Data
from scaling.experiment import Experiment
from scaling.tasks.base import Task
from scaling.track import files
from scaling.track.goodput import Goodput
from scaling.track.run_dir import RunDir
from scaling.track.writers import Tracker
from scaling.train import data_record
from scaling.train.checkpoints import Checkpoints
from scaling.train.evaluate import pictures_saved, stop_metric
from scaling.train.init_from import check_initial, load_initial
from scaling.train.state import TrainState

Say = Callable[[str], None]


class Record(files.Closing):
    """A run directory, locked while it is open.

    Order of use: construct, `keep_data`, `open_checkpoints`, `newest` (or a fresh state),
    `open_stream`, and at the end `close`. `run_id` is the config's fingerprint, `goodput` where the
    time goes.
    """

    def __init__(
        self,
        config: Experiment,
        workdir: pathlib.Path,
        start: Mapping[str, Any],
        say: Say,
        main: bool = True,
    ) -> None:
        """Opens or creates the directory; raises as `RunDir`.

        Args:
          start: `provenance.collect` of this start.
          say: told what people should know.
          main: whether this is process 0; the others only read.
        """
        self.config, self.workdir, self.start, self.say = config, workdir, start, say
        self.main = main
        self._folder = workdir / "checkpoints"
        self.config_json, self.run_id = configs.to_json(config), configs.fingerprint(config)
        self.stack = contextlib.ExitStack()
        if main:
            run_dir = RunDir(workdir, self.config_json, self.run_id, start)
            for note in self.stack.enter_context(run_dir).notes:
                say(note)
        self.goodput = Goodput(workdir if main else None)
        self.stack.callback(self.goodput.flush)

    def close(self) -> None:
        """Makes everything durable and gives the lock back; may be called twice."""
        self.stack.close()

    # --- the state and the stream ------------------------------------------------------------

    def open_checkpoints(self, task: Task) -> None:
        """Opens the folder of checkpoints; the task says what ranks them. Raises CheckpointError."""
        section = self.config.checkpoint
        self.checkpoints = Checkpoints(
            self._folder,
            section.keep_last,
            section.keep_best,
            stop_metric(self.config, task),
            self.config.eval.stop_mode,
            section.asynchronous,
            keep_steps=section.keep_steps,
            say=self.say if self.main else print,  # a failed save is told in every process
        )
        self.stack.callback(self.checkpoints.close)
        for note in self.checkpoints.notes:
            self.say(note)

    def newest(self, like: TrainState, before: int) -> tuple[int, TrainState] | None:
        """The newest whole checkpoint earlier than `before`, in the form of `like`; or None."""
        self.checkpoints.wait()
        steps = [step for step in self.checkpoints.agreed() if step < before]
        if not steps:
            return None
        only = None if before > self.config.train.steps else max(steps)
        step, state, notes = self.checkpoints.restore(like, only)
        for note in notes:
            self.say(note)
        self.say(f"resuming at step {step}")
        return step, state

    def check_first(self, abstract: TrainState) -> None:
        """Refuses a `train.init_from` that `first` would, from shapes, in a run that has not begun."""
        if self.config.train.init_from and not any(self._folder.glob("[0-9]*")):
            check_initial(self.config.train.init_from, abstract.variables(), self.say)

    def first(self, fresh: TrainState) -> TrainState:
        """The state at step 0: `fresh`, with the variables of `train.init_from` where it is set."""
        if not self.config.train.init_from:
            return fresh
        variables, _ = load_initial(self.config.train.init_from, fresh.variables(), self.say)
        params = variables.pop("params")
        # Arrays of its own: the step donates its state, and an array can be given away once.
        ema = None
        if fresh.ema is not None:
            ema = jax.tree.map(
                lambda e, p: None if e is None else jnp.copy(p),
                fresh.ema,
                params,
                is_leaf=lambda x: x is None,
            )
        return fresh.replace(
            params=params,
            frozen=variables.pop("frozen", fresh.frozen),
            model_state=variables,
            ema=ema,
        )

    def keep_data(self, data: Data) -> None:
        """Writes data.json: what a finished run needs of its data where the data is not.

        Raises:
          DataRecordError: the run was started with other artefacts, such as another tokenizer.
        """
        self.data_text = data_record.to_text(data)
        for note in data_record.compare(self.workdir, self.data_text):
            self.say(note)
        if self.main:
            files.write_text(self.workdir / data_record.NAME, self.data_text)

    def open_stream(self, step: int) -> None:
        """Opens the metrics stream so that it ends at `step`, from where the run goes on."""
        config = self.config
        self.tracker = self.stack.enter_context(
            Tracker(
                self.workdir, config.track, step, config.name, configs.plain(config), main=self.main
            )
        )
        for note in self.tracker.notes:
            self.say(note)
        self.goodput.resumed(step)

    def rewind(self, step: int) -> None:
        """Stream and ledger return to `step`."""
        self.tracker.rewind(step)
        self.goodput.resumed(step)

    def keep(self, step: int, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Writes what is not a number into `evaluations/NAME/STEP.json` (pictures beside it).

        Returns:
          The values, pictures replaced by the names of their files.
        """
        folder = self.workdir / "evaluations" / name
        kept = pictures_saved(folder, step, values, write=self.main)
        if self.main and not all(files.is_number(value) for value in kept.values()):
            files.write_json(folder / f"{step:08d}.json", kept)
        return kept

    def save(self, step: int, state: TrainState, values: Mapping[str, float]) -> None:
        """Starts a checkpoint, after making the stream up to it durable."""
        self.tracker.sync()
        texts = {
            "config.json": self.config_json,
            "provenance.json": files.to_json(self.start, indent=2),
            data_record.NAME: self.data_text,
        }
        self.checkpoints.save(step, state, values, texts)
        self.goodput.mark(step)


@contextlib.contextmanager
def spend(bucket: str, records: Iterable[Record]) -> Iterator[None]:
    """Counts the wall time inside to the goodput of each of these runs."""
    with contextlib.ExitStack() as stack:
        for record in records:
            stack.enter_context(record.goodput.spend(bucket))
        yield


def digest(summary: Mapping[str, Any]) -> str:
    """A summary in the lines that people look for first: the objective, then other numbers."""
    left_out = summary.get("unit")  # how many there were is not a result
    values = {k: v for k, v in summary["eval"].items() if isinstance(v, float) and k != left_out}
    objective = summary.get("objective", "loss")
    first = [objective] if objective in values else []
    names = [*first, *(k for k in values if k not in first and not k.endswith("standard_error"))]
    texts = {name: f"{name.replace('_', ' ')} {values[name]:.4f}" for name in names[:5]}
    for name in texts:
        if isinstance(error := values.get(f"{name}_standard_error"), float):
            texts[name] += f" (standard error {error:.4f})"
    shown = ", ".join(texts.values())
    lines = [
        f"{summary['status']} at step {summary['step']}",
        f"  eval {shown}" if shown else "  not evaluated",
    ]
    for name, other in summary.get("evals", {}).items():
        shown = ", ".join(f"{k} {v:.4g}" for k, v in other.items() if isinstance(v, float))
        lines += [f"  {name} {shown}"] if shown else []
    spent = {k: v for k, v in summary["seconds"].items() if v >= 0.05}
    lines.append("  seconds: " + ", ".join(f"{k} {v:.1f}" for k, v in spent.items()))
    return "\n".join(lines)
