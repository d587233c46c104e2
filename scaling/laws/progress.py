"""A sign of life from long fits: a line every few seconds, from the command line only.

    with progress.shown(sys.stderr):
        with progress.step("bootstrap of 1,000 resamples"):
            ...                                # "bootstrap of 1,000 resamples: 60 %, 6 s"

A thread of its own writes, so that a compilation that takes minutes is not silent either. Without
`shown` nothing is written: fits are a library too.
"""

import contextlib
import dataclasses
import threading
import time
from collections.abc import Iterator
from typing import TextIO

from scaling.track.progress import duration

SECONDS = 3.0


@dataclasses.dataclass(eq=False)
class _Step:
    name: str
    began: float = dataclasses.field(default_factory=time.monotonic)
    done: int = 0
    total: int = 0


_STEPS: list[_Step] = []
_LOCK = threading.Lock()


@contextlib.contextmanager
def shown(stream: TextIO, seconds: float = SECONDS) -> Iterator[None]:
    """Steps inside that last longer than `seconds` are told on `stream`, again and again."""
    over = threading.Event()

    def tell() -> None:
        while not over.wait(seconds):
            with _LOCK:
                now = dataclasses.replace(_STEPS[-1]) if _STEPS else _Step("")
            taken = time.monotonic() - now.began
            if taken >= seconds:
                share = f"{now.done / now.total:.0%}, " if now.total else ""
                print(f"{now.name}: {share}{duration(taken)}", file=stream, flush=True)

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join()


@contextlib.contextmanager
def step(name: str) -> Iterator[None]:
    """Something that may take long, by the name that a person knows it by."""
    begun = _Step(name)
    with _LOCK:
        _STEPS.append(begun)
    try:
        yield
    finally:
        with _LOCK:
            _STEPS.remove(begun)


def expect(total: int) -> None:
    """How many parts the present step has at least; `tick` counts them."""
    with _LOCK:
        if _STEPS:
            _STEPS[-1].done, _STEPS[-1].total = 0, total


def tick(parts: int = 1) -> None:
    """So many parts of the present step are done; from any thread."""
    with _LOCK:
        if _STEPS:
            _STEPS[-1].done += parts
