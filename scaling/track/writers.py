"""One call that writes metrics everywhere: metrics.jsonl always, TensorBoard and W&B as asked."""

import hashlib
import importlib
import os
import pathlib
import time
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from scaling.experiment import TrackConfig
from scaling.track import files
from scaling.track.stream import MetricsStream


class TrackError(RuntimeError):
    """A writer that was asked for cannot be had."""


def _optional(module: str, remedy: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise TrackError(f"{module} cannot be imported ({error}): {remedy}") from error


class TensorBoard:
    """Event files under tensorboard/, through tensorboardX (no TensorFlow)."""

    def __init__(self, workdir: pathlib.Path, start_step: int) -> None:
        """Opens a new event file; what a lost attempt wrote after `start_step` is hidden."""
        library = _optional("tensorboardX", "pip install tensorboardX, or track.tensorboard=False")
        # File names hold whole seconds: two files of one second would overwrite each other.
        self._writer = library.SummaryWriter(
            str(workdir / "tensorboard"),
            purge_step=start_step + 1,
            filename_suffix=f".{time.time_ns()}",
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds scalars."""
        for key, value in values.items():
            self._writer.add_scalar(key, value, step)

    def close(self) -> None:
        """Flushes."""
        self._writer.close()


class Wandb:
    """Weights & Biases, online or offline; a restarted run continues under the same id."""

    def __init__(
        self, workdir: pathlib.Path, track: TrackConfig, name: str, config: Mapping[str, Any]
    ) -> None:
        """Starts or continues the run whose id is a hash of the run directory's path."""
        library = _optional("wandb", "pip install 'scaling[wandb]', or track.wandb=off")
        identity = hashlib.sha256(str(workdir).encode()).hexdigest()[:16]
        self._run = library.init(
            project=track.wandb_project,
            name=name,
            id=identity,
            resume="allow",
            mode=track.wandb,
            dir=str(workdir),
            config=dict(config),
        )
        # W&B drops steps that go back, which they do after a resume: our step is a metric instead.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Logs one row."""
        self._run.log({**values, "step": step})

    def close(self) -> None:
        """Uploads or stores the rest."""
        self._run.finish()


class Tracker(files.Closing):
    """All writers of a run. In processes other than 0 it does nothing.

    Attributes:
      notes: what opening the stream had to repair.
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        track: TrackConfig,
        start_step: int,
        name: str = "",
        config: Mapping[str, Any] | None = None,
        main: bool = True,
    ) -> None:
        """Opens metrics.jsonl at `start_step` and the other writers that `track` asks for.

        Raises:
          TrackError: a package that those need is missing.
        """
        self._path = pathlib.Path(workdir).absolute()
        self._stream: MetricsStream | None = None
        self._writers: list[TensorBoard | Wandb] = []
        self.notes: list[str] = []
        if not main:
            return
        # Missing packages are told before anything is superseded.
        if track.wandb != "off":
            self._writers.append(Wandb(self._path, track, name, config or {}))
        if track.tensorboard:
            self._writers.append(TensorBoard(self._path, start_step))
        self._stream = MetricsStream(self._path, start_step, track.fsync_seconds)
        self.notes = self._stream.notes

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes one line; numbers also go to the other writers. Steps never go back."""
        if self._stream is None:
            return
        self._stream.write(step, values)
        numbers = {k: float(v) for k, v in values.items() if files.is_number(v)}
        for writer in self._writers:
            writer.write(step, numbers)

    def sync(self) -> None:
        """Makes all lines durable: call it before a checkpoint of the last step is started."""
        if self._stream is not None:
            self._stream.sync()

    def rewind(self, step: int) -> None:
        """Goes back to an earlier state: later lines are superseded."""
        if self._stream is None:
            return
        self._stream.rewind(step)
        for i, writer in enumerate(self._writers):
            if isinstance(writer, TensorBoard):
                writer.close()
                self._writers[i] = TensorBoard(self._path, step)

    def close(self) -> None:
        """Closes all writers; may be called twice."""
        writers, self._writers = self._writers, []
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()
        for writer in writers:
            writer.close()
