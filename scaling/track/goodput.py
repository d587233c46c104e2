"""Where the wall time of a run went, over all its attempts: useful seconds, and each loss by name.

Every moment counts to exactly one bucket, the innermost open one, so the buckets add up to the wall
time since the first start. Two of them are found out after the fact: `idle` is the time from the
last sign of life of a killed attempt to the next start, `lost` is training that had to be done again.
"""

import contextlib
import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any

from scaling.track import files

NAME = "goodput.json"
BUCKETS = (
    *("init", "compile", "train", "data_wait", "eval", "checkpoint"),
    *("other", "idle", "lost"),
)


class Goodput:
    """The ledger of a run; only process 0 keeps one on disk.

    Attributes:
      seconds: by bucket, over all attempts, up to the last call.
    """

    def __init__(self, workdir: str | os.PathLike[str] | None, flush_seconds: float = 20.0) -> None:
        """Continues the ledger in a run directory; None keeps it in memory only."""
        self._path = None if workdir is None else pathlib.Path(workdir) / NAME
        self._flush_seconds = flush_seconds
        now = time.time()
        record: dict[str, Any] = {}
        if self._path is not None and self._path.exists():
            # A ledger that is damaged must not keep a run from going on: it starts again.
            with contextlib.suppress(ValueError):
                record = files.read_json(self._path)
        self._begin = float(record.get("begin", now))
        # Training seconds by the step of each checkpoint: what is not in one is lost in a kill.
        self._marks = {int(k): float(v) for k, v in record.get("marks", {}).items()}
        self.seconds = dict.fromkeys(BUCKETS, 0.0) | record.get("seconds", {})
        self.seconds["idle"] += max(0.0, now - float(record.get("last", now)))
        self._stack = ["other"]
        self._clock = self._flushed = time.monotonic()

    def _tick(self) -> None:
        now = time.monotonic()
        self.seconds[self._stack[-1]] += now - self._clock
        self._clock = now
        if now - self._flushed >= self._flush_seconds:
            self.flush()

    @contextlib.contextmanager
    def spend(self, bucket: str) -> Iterator[None]:
        """Counts the time inside to `bucket`, one of BUCKETS, without what inner `spend`s take."""
        if bucket not in BUCKETS:
            raise ValueError(f"no bucket {bucket!r} among {BUCKETS}")
        self._tick()
        self._stack.append(bucket)
        try:
            yield
        finally:
            self._tick()
            self._stack.pop()

    def move(self, seconds: float, source: str, target: str) -> None:
        """Books seconds elsewhere, such as a compile that a first step turned out to hold."""
        self._tick()
        seconds = min(seconds, self.seconds[source])
        self.seconds[source] -= seconds
        self.seconds[target] += seconds

    def mark(self, step: int) -> None:
        """Training up to here is in the checkpoint of `step`."""
        self._tick()
        self._marks[step] = self.seconds["train"]
        self.flush()

    def resumed(self, step: int) -> None:
        """The run continues from `step`: training after its checkpoint has been in vain."""
        self._tick()
        saved = self._marks.get(step, 0.0)
        self.move(max(0.0, self.seconds["train"] - saved), "train", "lost")
        self._marks = {k: v for k, v in self._marks.items() if k <= step}

    def goodput(self) -> float:
        """Useful (training) seconds over wall seconds since the first start, 0 to 1."""
        self._tick()
        wall = sum(self.seconds.values())
        return self.seconds["train"] / wall if wall > 0 else 0.0

    def flush(self) -> None:
        """Writes the ledger to the run directory."""
        self._flushed = time.monotonic()
        if self._path is not None:
            record = {"begin": self._begin, "seconds": self.seconds, "marks": self._marks}
            files.write_json(self._path, record | {"last": time.time()})

    def report(self) -> dict[str, float]:
        """{bucket: seconds} over all attempts, for summary.json."""
        self._tick()
        return dict(self.seconds)
