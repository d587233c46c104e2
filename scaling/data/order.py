"""In which order training visits the examples: position in the run -> example, in closed form.

Position p counts the examples of a run from its start. All orders answer for any position without
the ones before it, so resuming, replaying a step and asking for some rows of a batch are the same
thing.
"""

from collections.abc import Mapping
from fractions import Fraction
from typing import Protocol

import numpy as np

from scaling.data.errors import DataError
from scaling.data.feistel import derive_key, permute, place_of, subkeys

MAX_SLOTS = 10_000


class Order(Protocol):
    """Where each position of a run leads.

    Attributes:
      length: positions until an example would come a second time; what policy `stop` stops at.
    """

    length: int

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Examples at the positions: int64[n] -> int64[n]."""
        ...

    def epoch(self, position: int) -> float:
        """Passes over the data before this position."""
        return position / self.length


class ShuffledOrder(Order):
    """Every example once an epoch, each epoch in another permutation."""

    def __init__(self, size: int, seed: int, label: str = "") -> None:
        """Orders `size` >= 1 examples; orders of other seeds and labels are independent."""
        self.length = size
        self._key = derive_key(seed, "order", label)

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Examples at the positions: int64[n] -> int64[n]."""
        epochs, index = np.divmod(np.asarray(positions, np.int64), self.length)
        return permute(index, self.length, subkeys(self._key, epochs))

    def visits(self, index: int, position: int) -> int:
        """How often the example was visited before this position."""
        epochs, rest = divmod(position, self.length)
        last = subkeys(self._key, np.array([epochs]))
        return epochs + (rest > 0 and place_of(index, self.length, last) < rest)


class LaneOrder(Order):
    """Every row of the batch reads a stream on, window after window: for models that carry a state.

    Row r of `rows` starts at window r n of the stream, where n = size // rows, and reads n windows an
    epoch. It then goes on with the next row's part, which follows it, so that its state is the one
    before that part; only where the stream ends does a row jump, to its beginning. Fewer than `rows`
    windows at the end of the stream are not visited.
    """

    def __init__(self, size: int, rows: int) -> None:
        """Orders `size` windows for batches of `rows`; DataError if there are fewer windows."""
        if size < rows:
            raise DataError(
                f"data.text.lanes: {size} windows are fewer than the {rows} rows of a batch, each of "
                "which reads a part of the text: use a smaller train.batch_size or data.text.seq_len"
            )
        self._windows, self._rows = size // rows, rows
        self.length = self._windows * rows

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Examples at the positions: int64[n] -> int64[n]."""
        step, row = np.divmod(np.asarray(positions, np.int64), self._rows)
        return (row * self._windows + step) % self.length

    def visits(self, index: int, position: int) -> int:
        """How often the example was visited before this position."""
        if index >= self.length:
            return 0
        epochs, rest = divmod(position, self.length)
        part, step = divmod(index, self._windows)
        return epochs + (step * self._rows + (part - epochs) % self._rows < rest)


def in_lanes(positions: np.ndarray, size: int, rows: int) -> np.ndarray:
    """Which of `size` windows stands at each position if each row of a batch reads a part in order.

    Every window stands at one position below `size`: where `rows` does not divide `size`, the first
    rows read one window more, and the last batch is as short as it is in any other order.
    """
    step, row = np.divmod(np.asarray(positions, np.int64), rows)
    windows, longer = divmod(size, rows)
    return row * windows + np.minimum(row, longer) + step


class MixtureOrder(Order):
    """Several data sets in fixed shares, each walked in permutations of its own.

    Positions come in blocks. Every block holds each member exactly `slots[m]` times, in an order
    that is shuffled for each block, so position p of block b leads to occurrence
    `b * slots[m] + rank` of member m: a closed form. Examples are numbered through the members
    one after the other, in the order of their names in the config.
    """

    def __init__(self, sizes: Mapping[str, int], weights: Mapping[str, float], seed: int) -> None:
        """Mixes members of the given sizes by weight (of any sum); see `slots`."""
        self.slots = slots(weights)
        self._orders = [ShuffledOrder(size, seed, name) for name, size in sizes.items()]
        self._offsets = np.cumsum([0, *sizes.values()])
        self._bounds = np.cumsum([0, *(self.slots[name] for name in sizes)])
        self._block = int(self._bounds[-1])
        self._key = derive_key(seed, "mixture")
        whole_blocks = min(sizes[name] // self.slots[name] for name in sizes)
        self.length = whole_blocks * self._block

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Examples at the positions: int64[n] -> int64[n]."""
        blocks, place = np.divmod(np.asarray(positions, np.int64), self._block)
        place = permute(place, self._block, subkeys(self._key, blocks))
        member = np.searchsorted(self._bounds, place, side="right") - 1
        out = np.empty_like(place)
        for m, order in enumerate(self._orders):
            mine = np.flatnonzero(member == m)
            count = self._bounds[m + 1] - self._bounds[m]
            occurrence = blocks[mine] * count + place[mine] - self._bounds[m]
            out[mine] = self._offsets[m] + order(occurrence)
        return out

    def epoch(self, position: int) -> float:
        """Passes over the member that was repeated most before this position."""
        counts = np.diff(self._bounds)
        return max(
            order.epoch(1) * position * int(count) / self._block
            for order, count in zip(self._orders, counts, strict=True)
        )

    def visits(self, index: int, position: int) -> int:
        """How often the example was visited before this position."""
        member = int(np.searchsorted(self._offsets, index, side="right")) - 1
        low, high = int(self._bounds[member]), int(self._bounds[member + 1])
        blocks, rest = divmod(position, self._block)
        place = permute(np.arange(rest), self._block, subkeys(self._key, np.array([blocks])))
        # A whole block holds each occurrence of its range once; of the last block only a part.
        whole = blocks * (high - low)
        part = whole + place[(place >= low) & (place < high)] - low
        order, example = self._orders[member], index - int(self._offsets[member])
        return order.visits(example, whole) + int((order(part) == example).sum())


def slots(weights: Mapping[str, float]) -> dict[str, int]:
    """How often each member occurs in a block: the weights as whole numbers.

    Exact where the normalised weights are fractions with a common denominator of at most
    `MAX_SLOTS`; else the nearest that sum to `MAX_SLOTS` (largest remainder), so that no share is
    off by more than 1 / MAX_SLOTS.

    Raises:
      DataError: a weight is not positive, or too small to get a slot.
    """
    for name, weight in weights.items():
        if not 0 < weight < float("inf"):
            raise DataError(f"data.mixture.{name}.weight is {weight}: it must be above 0")
    parts = {name: Fraction(w).limit_denominator(MAX_SLOTS) for name, w in weights.items()}
    total = sum(parts.values())
    if total:
        shares = {name: part / total for name, part in parts.items()}
        denominator = int(np.lcm.reduce([share.denominator for share in shares.values()]))
        if all(shares.values()) and denominator <= MAX_SLOTS:
            return {name: int(share * denominator) for name, share in shares.items()}
    scale = MAX_SLOTS / sum(weights.values())
    counts = {name: int(weight * scale) for name, weight in weights.items()}
    by_remainder = sorted(weights, key=lambda name: counts[name] - weights[name] * scale)
    for name in by_remainder[: MAX_SLOTS - sum(counts.values())]:
        counts[name] += 1
    missing = [name for name, count in counts.items() if count == 0]
    if missing:
        raise DataError(
            f"data.mixture.{missing[0]}.weight is less than 1/{MAX_SLOTS} of the sum of weights, "
            "too little to be mixed in: raise it, or leave the member out"
        )
    return counts
