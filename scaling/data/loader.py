"""Batches as a pure function of (data, order, step): there is no iterator, so none to lose.

A *dataset* is random access to examples of one shape. The `Loader` says which examples make up the
global batch of a step; a host asks for the rows it holds and sees the same examples whatever the
number of hosts, workers or files.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np

from scaling.data.order import Order, in_lanes

Spec = dict[str, tuple[tuple[int, ...], Any]]  # key -> (shape of one example, numpy dtype)
Batch = dict[str, np.ndarray]

# The one key that every batch has: 0 for padding and for what is left out.
WEIGHTS = "weights"


_PIECE = 1 << 20  # positions that are looked through at once


class Dataset(Protocol):
    """Random access to examples of one shape."""

    spec: Spec

    def __len__(self) -> int:
        """How many examples there are."""
        ...

    # A dataset with examples that are padded has `padded()` too: {index: units of padding}, or where
    # most are int64[examples].

    def gather(self, indices: np.ndarray, positions: np.ndarray) -> Batch:
        """Examples by index: {key: [n, ...]}.

        Args:
          indices: int64[n].
          positions: int64[n], places in the run (batch number times batch size, plus row): what
            augmentation on the host may draw its randomness from. In evaluation the index itself.
        """
        ...


class Arrays:
    """Rows of arrays that stand side by side, in memory or memory-mapped, one an example.

    Attributes:
      rows: int64[n], the row of each example.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], rows: np.ndarray | None = None) -> None:
        """Hands out these rows, in this order; None takes all."""
        self.spec: Spec = {key: (array.shape[1:], array.dtype) for key, array in arrays.items()}
        self._arrays = arrays
        self.rows = np.arange(len(next(iter(arrays.values())))) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    def gather(self, indices: np.ndarray, positions: np.ndarray | None = None) -> Batch:
        """Examples by index: int64[n] -> {key: [n, ...]}."""
        rows = self.rows[indices]
        return {key: np.asarray(array[rows]) for key, array in self._arrays.items()}


class Classified(Arrays):
    """Examples of which each is of a class, an array `labels` among them."""

    def labels(self) -> np.ndarray:
        """The class of each, int32."""
        return np.asarray(self._arrays["labels"][self.rows])


class Concat:
    """Datasets one after the other, as one; they must have the same spec."""

    def __init__(self, members: Sequence[Dataset]) -> None:
        self.spec = members[0].spec
        self._members = members
        self._offsets = np.cumsum([0, *(len(member) for member in members)])

    def __len__(self) -> int:
        return int(self._offsets[-1])

    def padded(self) -> dict[int, int]:
        """The examples that are padded: {index: units of padding}."""
        return {
            int(offset) + index: int(units)
            for offset, member in zip(self._offsets, self._members, strict=False)
            for index, units in _items(padded(member))
        }

    def gather(self, indices: np.ndarray, positions: np.ndarray | None = None) -> Batch:
        """Examples by index: int64[n] -> {key: [n, ...]}."""
        positions = indices if positions is None else positions
        out = {
            k: np.empty((len(indices), *shape), dtype) for k, (shape, dtype) in self.spec.items()
        }
        member = np.searchsorted(self._offsets, indices, side="right") - 1
        for m in np.unique(member):
            rows = np.flatnonzero(member == m)
            part = self._members[m].gather(indices[rows] - self._offsets[m], positions[rows])
            for key, values in part.items():
                out[key][rows] = values
        return out


class Loader:
    """The global batch of every step.

    Attributes:
      spec: shape and dtype of one example under each key.
      batch_size: examples in the global batch.
      num_steps: steps until the data ends under policy `stop` (the last batch may be padded with
        rows of weight 0), None when it never does.
    """

    def __init__(
        self,
        dataset: Dataset,
        order: Order,
        batch_size: int,
        on_end: Literal["repeat", "stop"] = "repeat",
    ) -> None:
        self.spec = with_weights(dataset.spec)
        self.batch_size = batch_size
        self.num_steps = -(-order.length // batch_size) if on_end == "stop" else None
        self._dataset = dataset
        self._order = order
        self._padded = padded(dataset)
        self._walked = (0, 0)  # a position, and the units of padding before it

    def indices(self, step: int) -> np.ndarray:
        """The examples of a step's global batch: int64[batch_size]; -1 is padding.

        Raises:
          IndexError: the step is negative, or behind the end of the data under policy `stop`.
        """
        return self._rows(step, 0, self.batch_size)

    def batch(self, step: int, start: int, stop: int) -> Batch:
        """Rows start:stop of a step's global batch: {key: [stop - start, ...]}; see `indices`."""
        positions = step * self.batch_size + np.arange(start, stop, dtype=np.int64)
        return gather_padded(self._dataset, self._rows(step, start, stop), positions)

    def epoch(self, step: int) -> float:
        """Passes over the training data before this step."""
        return self._order.epoch(self._position(step))

    def units(self, step: int, per_example: int) -> int:
        """What the batches before this step hold, padding left out: exact, whatever came between.

        An example without padding has `per_example` units (tokens).
        """
        position = self._position(step)
        if isinstance(self._padded, dict):
            padding = sum(n * self._visits(index, position) for index, n in self._padded.items())
        else:
            padding = self._walk(self._padded, position)
        return position * per_example - padding

    def _walk(self, padded: np.ndarray, position: int) -> int:
        """Units of padding before a position, by going on from where the last question ended."""
        start, total = self._walked if self._walked[0] <= position else (0, 0)
        for first in range(start, position, _PIECE):
            rows = self._order(np.arange(first, min(first + _PIECE, position)))
            total += int(padded[rows].sum())
        self._walked = (position, total)
        return total

    def _position(self, step: int) -> int:
        """Examples in the batches before this step."""
        position = step * self.batch_size
        return position if self.num_steps is None else min(position, self._order.length)

    def _visits(self, index: int, position: int) -> int:
        if hasattr(self._order, "visits"):
            return int(self._order.visits(index, position))
        # An order of a user's own: looked through, a piece at a time.
        pieces = (
            np.arange(start, min(start + _PIECE, position)) for start in range(0, position, _PIECE)
        )
        return sum(int((self._order(piece) == index).sum()) for piece in pieces)

    def _rows(self, step: int, start: int, stop: int) -> np.ndarray:
        if step < 0 or (self.num_steps is not None and step >= self.num_steps):
            raise IndexError(
                f"there is no batch for step {step}: the data ends after {self.num_steps} steps "
                "of this batch size (data.on_end=stop)"
            )
        positions = step * self.batch_size + np.arange(start, stop, dtype=np.int64)
        if self.num_steps is None:
            return self._order(positions)
        inside = positions < self._order.length
        rows = np.full(positions.shape, -1, np.int64)
        rows[inside] = self._order(positions[inside])
        return rows


class EvalSet:
    """Held-out examples in a fixed order, each of them once.

    Batches hold them one after the other or, in lanes, each row of a batch goes on where the same row
    of the batch before ended.
    """

    def __init__(self, dataset: Dataset, lanes: bool = False) -> None:
        self.spec = with_weights(dataset.spec)
        self._dataset = dataset
        self._lanes = lanes

    def __len__(self) -> int:
        return len(self._dataset)

    def num_batches(self, batch_size: int) -> int:
        """Batches in the whole split; the last one may be padded."""
        return -(-len(self._dataset) // batch_size)

    def batch(self, i: int, batch_size: int, start: int, stop: int) -> Batch:
        """Rows start:stop of batch i: {key: [stop - start, ...]}; padding has weight 0."""
        rows = i * batch_size + np.arange(start, stop, dtype=np.int64)
        padding = rows >= len(self._dataset)
        if self._lanes:
            rows = in_lanes(rows, len(self._dataset), batch_size)
        rows[padding] = -1
        return gather_padded(self._dataset, rows, rows)


def padded(dataset: Dataset) -> dict[int, int] | np.ndarray:
    """The examples of a dataset that are padded; see `Dataset`."""
    return dataset.padded() if hasattr(dataset, "padded") else {}


def _items(padded: dict[int, int] | np.ndarray) -> Iterable[tuple[int, int]]:
    return padded.items() if isinstance(padded, dict) else enumerate(padded.tolist())


def spec_of(dtype: str, shape: tuple[int, ...], *names: str) -> Spec:
    """The spec of keys that have one shape and dtype."""
    return {name: (shape, np.dtype(dtype)) for name in names}


def with_weights(spec: Spec) -> Spec:
    """The spec of a batch: a dataset that has no `weights` gets one weight for each example."""
    return spec if WEIGHTS in spec else {**spec, **spec_of("float32", (), WEIGHTS)}


def leave_out(batch: Batch) -> None:
    """Makes a batch count for nothing: every weight becomes 0."""
    batch[WEIGHTS] = np.zeros_like(batch[WEIGHTS])


def gather_padded(dataset: Dataset, indices: np.ndarray, positions: np.ndarray) -> Batch:
    """Examples by index, where -1 is padding: a real example (the first), with weight 0.

    Real, so that statistics over a batch (batch normalisation) see nothing odd.
    """
    batch = dataset.gather(np.maximum(indices, 0), np.maximum(positions, 0))
    if WEIGHTS not in batch:
        batch[WEIGHTS] = np.ones(len(indices), np.float32)
    batch[WEIGHTS][indices < 0] = 0.0
    return batch
