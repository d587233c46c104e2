"""Each user's items in the order of time, for models that predict the next one.

Histories are to items what documents are to tokens: one stream with a separator before each
history, cut into examples as `scaling.data.windows` says. The separator's number is that of items.

Legend: T items in an example, S items that a user has rated before.
"""

import dataclasses
from typing import ClassVar

import numpy as np

from scaling.data.documents import split_rows
from scaling.data.info import DataContext, DataInfo, Opened
from scaling.data.loader import Batch, spec_of
from scaling.data.sources.ratings import RatingTable, Sorted, WithHistory, left_out_parts, sizes
from scaling.data.windows import Windows, text_spec


@dataclasses.dataclass(frozen=True)
class Histories(RatingTable):
    """The items of each user, oldest first; the ratings themselves are not used.

    Leave-last-out, as in Kang and McAuley 2018 (1808.09781): each user's last item is `eval`, the one
    before it `valid`, both after at most the `data.text.seq_len` items before them; all others are
    trained on. `data.limit` takes about the first so many items, of users in a fixed pseudo-random
    order. The facts it states: `items`, and `item_counts` of the training part.
    """

    reads: ClassVar[tuple[str, ...]] = ("limit", "seq_len")

    def describe(self, context: DataContext) -> DataInfo:
        """The items; reads the table, where the cache does not have it."""
        return self.open(context).info

    def open(self, context: DataContext) -> Opened:
        """Training windows and held-out items."""
        table, length = self.load(context.cache), context.section.text.seq_len
        separator = len(table.names.items)
        stream = _stream(table, separator)
        windows = Windows(stream, length, separator, context.section.limit)
        counts = np.bincount(stream[: len(windows) * length + 1], minlength=separator)
        evals = {name: Next(table, at, length) for name, at in left_out_parts(table).items()}
        info = DataInfo(
            kind="histories",
            unit="items",
            spec=windows.spec,
            eval_specs={name: part.spec for name, part in evals.items()},
            vocab_size=separator + 1,
            separator=separator,
            facts={"items": separator, "item_counts": counts[:separator].tolist()},
        )
        artefacts = {"names": table.names}
        return Opened(info, {"train": windows}, evals, artefacts=artefacts, sizes=sizes(table))


def _stream(table: Sorted, separator: int) -> np.ndarray:
    """int32[L]: users in a fixed pseudo-random order, without what is left out of their histories."""
    keep = np.ones(len(table.item), bool)
    for places in left_out_parts(table).values():
        keep[places] = False
    pieces: list[np.ndarray] = []
    for user in split_rows(len(table.names.users), 0.0)[0]:
        mine = slice(table.start[user], table.start[user + 1])
        pieces += [np.array([separator], np.int32), table.item[mine][keep[mine]]]
    return np.concatenate(pieces)


class Next(WithHistory):
    """Held-out items, each after the last T of the user's history, which begins with a separator.

    The target stands where the history ends, and has the only weight of its example.
    """

    def __init__(self, table: Sorted, places: np.ndarray, length: int) -> None:
        """The items at these places, int64[n], after at most `length` inputs."""
        super().__init__(table, places)
        self._length = length
        self.spec = text_spec(length, mask_documents=True) | spec_of(
            "int32", (table.longest(),), "seen"
        )

    def gather(self, indices: np.ndarray, positions: np.ndarray | None = None) -> Batch:
        """By index: those of `Windows`, and `seen`: int32[n, S], all that the user rated before."""
        table, places, ratings = self._table, self.rows[indices], super().gather(indices)
        pad, seen = len(table.names.items), ratings["seen"]
        history = np.concatenate([np.full((len(places), 1), pad, np.int32), seen], axis=1)
        count = places - table.start[ratings["user"]] + 1  # the separator is one more
        time = np.arange(self._length)
        at = np.maximum(count - self._length, 0)[:, None] + time
        inside = at < count[:, None]
        rows = np.take_along_axis(history, np.minimum(at, history.shape[1] - 1), axis=1)
        end = (time == np.minimum(count, self._length)[:, None] - 1).astype(np.int32)
        return {
            "inputs": np.where(inside, rows, pad).astype(np.int32),
            "targets": (end * ratings["item"][:, None]).astype(np.int32),
            "segments": np.ones_like(end),
            "positions": np.broadcast_to(time, end.shape).astype(np.int32),
            "seen": seen,
            "weights": end.astype(np.float32),
        }
