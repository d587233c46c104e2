"""Makes the next batches in background threads while a step runs.

Threads and no worker processes: a batch is a slice of memory-mapped arrays, numpy does the copying
outside the interpreter lock, and there is nothing to pickle, to start or to lose.
"""

import collections
import concurrent.futures
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """Calls `fetch(step)` for the steps ahead, and hands the results out in order.

    Because a batch depends on its step alone, neither `depth` nor `workers` changes what comes out.
    Use it as a context manager, or call `close`.
    """

    def __init__(
        self,
        fetch: Callable[[int], T],
        start_step: int,
        depth: int = 2,
        workers: int = 1,
        end_step: int | None = None,
    ) -> None:
        """Starts fetching.

        Args:
          fetch: step -> batch, safe to call from `workers` threads at once.
          depth: how many batches to hold or make ahead, >= 1.
          end_step: the first step that is not fetched; None for no end.
        """
        self._fetch = fetch
        self._next = start_step
        self._end = end_step
        self._pool = concurrent.futures.ThreadPoolExecutor(workers, thread_name_prefix="prefetch")
        self._ahead: collections.deque[concurrent.futures.Future[T]] = collections.deque()
        for _ in range(max(depth, 1)):
            self._submit()

    def get(self) -> T:
        """The next step's batch.

        Raises:
          StopIteration: all steps before `end_step` were handed out.
          BaseException: whatever `fetch` raised for this step, as it was raised there.
        """
        if not self._ahead:
            raise StopIteration
        batch = self._ahead[0].result()  # a failed step stays first: it cannot be skipped over
        self._ahead.popleft()
        self._submit()
        return batch

    def close(self) -> None:
        """Drops what is ahead and waits for the batches being made; safe to call twice."""
        self._ahead.clear()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _submit(self) -> None:
        if self._end is None or self._next < self._end:
            self._ahead.append(self._pool.submit(self._fetch, self._next))
            self._next += 1

    def __enter__(self) -> "Prefetcher[T]":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
