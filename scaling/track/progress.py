"""What a person sees while a run goes on: a live bar on a terminal, plain lines elsewhere.

Code far below a run, such as a data source, logs to `logging.getLogger(__name__)`. While a report is
open its lines appear there; elsewhere Python prints warnings on standard error.
"""

import contextlib
import logging
import os
import sys
import time
from collections.abc import Collection, Sequence
from typing import Literal, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from scaling.track import files

Mode = Literal["auto", "bar", "lines", "off"]


def duration(seconds: float | None) -> str:
    """Seconds as people say them: 42 s, 3:07, 2:05:00, 3 d 04 h; None is ?."""
    if seconds is None or seconds != seconds:
        return "?"
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d}"
    if whole < 86400:
        return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
    return f"{whole // 86400} d {whole // 3600 % 24:02d} h"


def quantity(value: float) -> str:
    """A rate or count in three digits: 950, 12.3k, 4.56M."""
    for scale, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= scale:
            return f"{value / scale:.3g}{suffix}"
    return f"{value:.3g}"


def aligned(rows: Sequence[Sequence[str]], left: Collection[int] = ()) -> str:
    """Rows of cells as columns of text: those numbered in `left` begin at the left, others end right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            text.ljust(width) if i in left else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


class _LogLines(logging.Handler):
    """Shows what modules of this package log as lines of a report."""

    def __init__(self, report: "ProgressReport") -> None:
        super().__init__()
        self._report = report

    def emit(self, record: logging.LogRecord) -> None:
        self._report.say(record.getMessage())


class ProgressReport(files.Closing):
    """Tells the step, the loss, the rate and the time left. Only process 0 says anything.

    Attributes:
      unit: what the rate counts, such as tokens; may be set when it is known.
    """

    def __init__(
        self,
        total: int,
        unit: str,
        mode: Mode = "auto",
        seconds: float = 5.0,
        main: bool = True,
        out: TextIO | None = None,
    ) -> None:
        """Starts the report.

        Args:
          mode: `auto` is the bar on a terminal and lines elsewhere.
          seconds: at least this long between two plain lines.
        """
        self._total, self.unit, self._seconds = total, unit, seconds
        self._out = out or sys.stdout
        console = Console(file=self._out)
        if mode == "auto":
            mode = "bar" if console.is_terminal else "lines"
        self._mode: Mode = mode if main else "off"
        self._first: tuple[int, float] | None = None
        self._told = -float("inf")
        self._bar: Progress | None = None
        self._log = _LogLines(self)
        if self._mode == "bar":
            step, text = "step {task.completed:.0f}/{task.total:.0f}", "{task.description}"
            columns = (TextColumn(step), BarColumn(), TaskProgressColumn(), TextColumn(text))
            self._bar = Progress(*columns, console=console, refresh_per_second=4)
            self._task = self._bar.add_task("starting", total=total)
            self._bar.start()

    def update(self, step: int, loss: float, rate: float | None) -> None:
        """Shows a step: updates done, its loss, and units per second (None while unknown)."""
        now = time.monotonic()
        if self._first is None:
            self._first = (step, now)
        text = f"loss {loss:.4f}"
        if rate is not None:
            text += f"  {quantity(rate)} {self.unit}/s"
        text += f"  left {duration(self._left(step, now))}"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=text)
        elif self._mode == "lines" and (
            now - self._told >= self._seconds or step == self._total or self._told < 0
        ):
            self._told = now
            self._print(f"step {step}/{self._total}  {text}")

    def _left(self, step: int, now: float) -> float | None:
        assert self._first is not None
        first, begin = self._first
        if step == self._total:
            return 0.0
        # The first step seen holds the compile, so its time tells nothing about the others.
        return (now - begin) / (step - first) * (self._total - step) if step > first else None

    def say(self, text: str) -> None:
        """A line that stays, such as the result of an evaluation or a warning."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        elif self._mode == "lines":
            self._print(text)

    def _print(self, text: str) -> None:
        try:
            print(text, file=self._out, flush=True)
        except BrokenPipeError:
            # The reader is gone, such as a `tee` that Ctrl-C ended with us: the run goes on, and
            # must still save. What is in the buffer must not fail the end of the process either.
            self._mode = "off"
            with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), self._out.fileno())

    def close(self) -> None:
        """Leaves the terminal in order; may be called twice."""
        logging.getLogger("scaling").removeHandler(self._log)
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
            self._mode = "lines"

    def __enter__(self) -> Self:
        logger = logging.getLogger("scaling")
        logger.setLevel(logging.INFO)
        logger.addHandler(self._log)
        return self
