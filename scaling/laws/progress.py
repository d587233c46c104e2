"""A sign of life from long fits: a line every few seconds, from the command line only.

    with progress.shown(sys.stderr):
        with progress.step("bootstrap of 1,000 resamples"):
            ...                                # "bootstrap of 1,000 resamples: 60 %, 6 s"

A thread of its own writes, so that a compilation that takes minutes is not silent either. Without
`shown` nothing is written: fits are a library too.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import TextIO

from scaling.track.progress import duration

SECONDS = 3.0


class _Beat:
    """What is going on, and the thread that says so while it lasts."""

    def __init__(self, stream: TextIO, seconds: float) -> None:
        self._stream, self._seconds = stream, seconds
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._steps: list[tuple[str, float]] = []
        self._done, self._total = 0, 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def begin(self, name: str) -> None:
        with self._lock:
            self._steps.append((name, time.monotonic()))
            self._done = self._total = 0

    def end(self) -> None:
        with self._lock:
            self._steps.pop()
            self._done = self._total = 0

    def expect(self, total: int) -> None:
        with self._lock:
            self._done, self._total = 0, total

    def tick(self, parts: int) -> None:
        with self._lock:
            self._done += parts

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            with self._lock:
                if not self._steps:
                    continue
                name, began = self._steps[-1]
                taken, done, total = time.monotonic() - began, self._done, self._total
            if taken >= self._seconds:
                share = f"{done / total:.0%}, " if total else ""
                print(f"{name}: {share}{duration(taken)}", file=self._stream, flush=True)


_BEAT: _Beat | None = None


@contextlib.contextmanager
def shown(stream: TextIO, seconds: float = SECONDS) -> Iterator[None]:
    """Steps inside that last longer than `seconds` are told on `stream`, again and again."""
    global _BEAT
    outer, _BEAT = _BEAT, _Beat(stream, seconds)
    try:
        yield
    finally:
        _BEAT.close()
        _BEAT = outer


@contextlib.contextmanager
def step(name: str) -> Iterator[None]:
    """Something that may take long, by the name that a person knows it by."""
    beat = _BEAT
    if beat:
        beat.begin(name)
    try:
        yield
    finally:
        if beat:
            beat.end()


def expect(total: int) -> None:
    """How many parts the present step has at least; `tick` counts them."""
    if _BEAT:
        _BEAT.expect(total)


def tick(parts: int = 1) -> None:
    """So many parts of the present step are done; from any thread."""
    if _BEAT:
        _BEAT.tick(parts)
