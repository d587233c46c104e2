"""metrics.jsonl: one append-only stream a run, across restarts, with each step in it once.

A line is a JSON object with `step` first. Floats round-trip exactly; NaN and the infinities, which
JSON lacks, are the strings "NaN", "Infinity" and "-Infinity" (`read_metrics` turns them back).
Several lines may share a step (training and evaluation); steps never go back.

After a kill the stream is longer than the checkpoint that the run resumes from. The lines of the
lost attempt move to superseded.jsonl: nothing is deleted, nothing appears twice.
"""

import json
import os
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

from scaling.track import files

METRICS = "metrics.jsonl"
SUPERSEDED = "superseded.jsonl"
_BLOCK = 1 << 16


class StreamError(RuntimeError):
    """metrics.jsonl is damaged, or is used against its rules."""


class MetricsStream(files.Closing):
    """The writing end of a run's metrics. Only process 0 has one.

    Attributes:
      last_step: the step of the last line, or None in an empty stream.
      notes: what opening it had to repair.
    """

    def __init__(
        self, workdir: str | os.PathLike[str], start_step: int = 0, fsync_seconds: float = 10.0
    ) -> None:
        """Opens the stream so that it ends at `start_step`.

        A torn last line (of a kill in the middle of a write) is dropped; lines of steps after
        `start_step` move to superseded.jsonl. Reads only the end of the file.

        Args:
          start_step: the step that the run continues from; 0 starts afresh.

        Raises:
          StreamError: a line before the end is not a metrics line.
        """
        self.path = pathlib.Path(workdir) / METRICS
        self.last_step: int | None = None
        self.notes: list[str] = []
        self._fsync_seconds, self._synced = fsync_seconds, time.monotonic()
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self.rewind(start_step)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Appends one line in one system call; when it returns, a killed process loses nothing.

        Args:
          values: numbers, strings, booleans or None by key; numpy and JAX scalars are fine.

        Raises:
          StreamError: the step goes back, or a key is `step`.
          OSError: the disk is full or gone; a part of a line is taken back.
        """
        if self.last_step is not None and step < self.last_step:
            raise StreamError(
                f"{self.path}: step {step} comes after step {self.last_step}; call rewind({step}) "
                "when the run goes back to an earlier state"
            )
        if "step" in values:
            raise StreamError(f"{self.path}: `step` is given twice, as {step} and in the values")
        line = (files.to_json({"step": int(step), **values}) + "\n").encode()
        end = os.fstat(self._file).st_size
        try:
            written = os.write(self._file, line)
            if written != len(line):
                os.write(self._file, line[written:])
        except OSError as error:
            os.ftruncate(self._file, end)
            remedy = "cannot append metrics; free space on that disk, then start the run again"
            text = f"{os.strerror(error.errno or 0)}: {remedy}"
            raise OSError(error.errno, text, str(self.path)) from error
        self.last_step = int(step)
        if time.monotonic() - self._synced >= self._fsync_seconds:
            self.sync()

    def sync(self) -> None:
        """Makes all lines durable. Call it before the checkpoint of a step is started."""
        os.fsync(self._file)
        self._synced = time.monotonic()

    def rewind(self, step: int) -> int:
        """Moves lines of later steps to superseded.jsonl; returns how many."""
        size = os.fstat(self._file).st_size
        keep, self.last_step, torn = self._end_at(step, size)
        tail = os.pread(self._file, size - keep, keep)[: size - keep - torn]
        if torn:
            self.notes.append(f"dropped a torn last line of {torn} bytes from {METRICS}")
        moved = tail.count(b"\n")
        if moved:
            self._supersede(tail)
            self.notes.append(f"moved {moved} lines after step {step} to {SUPERSEDED}")
        if keep != size:
            os.ftruncate(self._file, keep)
            self.sync()
        return moved

    def _supersede(self, tail: bytes) -> None:
        path = self.path.with_name(SUPERSEDED)
        with open(path, "a+b") as file:
            # A kill between this append and the truncation below it would repeat the append.
            file.seek(max(0, file.tell() - len(tail)))
            if file.read() != tail:
                file.write(tail)
            file.flush()
            os.fsync(file.fileno())

    def _end_at(self, step: int, size: int) -> tuple[int, int | None, int]:
        """(offset to cut at, step of the line before it, bytes of a torn last line)."""
        torn, end = 0, size
        for start, line in _lines_backward(self._file, size):
            at = _step_of(line)
            if at is None:
                if torn != size - end or not _is_torn(line, end == size):
                    raise StreamError(
                        f"{self.path}: the line at byte {start} is not a metrics line: "
                        f"{line[:60]!r}; repair or delete that line, then start again"
                    )
                torn, end = size - start, start
            elif at <= step:
                return end, at, torn
            else:
                end = start
        return end, None, torn

    def close(self) -> None:
        """Makes everything durable and closes the file."""
        if self._file >= 0:
            self.sync()
            os.close(self._file)
            self._file = -1


def _is_torn(line: bytes, last: bool) -> bool:
    """A line cut short by a kill, or a block that a power cut left as zeros."""
    return (last and not line.endswith(b"\n")) or not line.strip(b"\0\n")


def _step_of(line: bytes) -> int | None:
    if not line.endswith(b"\n"):
        return None
    try:
        value = json.loads(line)
    except ValueError:
        return None
    step = value.get("step") if isinstance(value, dict) else None
    return step if isinstance(step, int) else None


def _lines_backward(descriptor: int, size: int) -> Iterator[tuple[int, bytes]]:
    """(offset, line with its newline) from the end of a file, reading only what is asked for."""
    buffer, start = b"", size
    while start > 0 or buffer:
        cut = buffer.rfind(b"\n", 0, len(buffer) - 1)
        if cut >= 0:
            yield start + cut + 1, buffer[cut + 1 :]
            buffer = buffer[: cut + 1]
        elif start == 0:
            yield 0, buffer
            return
        else:
            length = min(_BLOCK, start)
            start -= length
            buffer = os.pread(descriptor, length, start) + buffer


def read_metrics(workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """All whole lines of a run directory's metrics, or of a .jsonl file; a torn last line is left out.

    StreamError gives the number of a line before the end that is not a metrics line.
    """
    path = pathlib.Path(workdir)
    path = path / METRICS if path.is_dir() else path
    rows: list[dict[str, Any]] = []
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if _step_of(line) is None:
                if not file.peek(1):
                    break
                raise StreamError(f"{path}:{number} is not a metrics line: {line[:60]!r}")
            rows.append(files.decode(json.loads(line)))
    return rows
