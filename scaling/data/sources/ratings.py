"""Ratings of items by users, from a table with one rating a line.

The table is read once into arrays in the cache, sorted by user and time. Two sources hand them out:
`Ratings` one by one, and `Histories` (in `histories.py`) as each user's items in their order.

Legend: N ratings, U users, S items that a user has rated before.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import numpy as np

from scaling.configs.types import LocalPath
from scaling.data.cache import cached, file_hash, key_of
from scaling.data.documents import split_rows
from scaling.data.errors import DataError
from scaling.data.info import DataContext, DataInfo, Opened
from scaling.data.loader import Arrays, Batch, spec_of
from scaling.data.sources.files import matching
from scaling.data.sources.rows import RowFiles
from scaling.data.sources.tables import Tables, ordered, require

# A user with fewer ratings has nothing to leave out: one to learn from, one for each held-out split.
MIN_HELD_OUT = 3


@dataclasses.dataclass(frozen=True)
class Names:
    """What users and items are called in the table: their numbers are places in these tuples."""

    users: tuple[str, ...]
    items: tuple[str, ...]

    def to_text(self) -> str:
        """As JSON, for the run directory."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_text(cls, text: str) -> "Names":
        """The names that `to_text` wrote."""
        return cls(**{key: tuple(names) for key, names in json.loads(text).items()})


@dataclasses.dataclass(frozen=True)
class Sorted:
    """All ratings, sorted by user, then time, then place in the table.

    Attributes:
      user: int32[N].
      item: int32[N].
      rating: float32[N].
      start: int64[U + 1], where each user's ratings begin; the last is N.
    """

    user: np.ndarray
    item: np.ndarray
    rating: np.ndarray
    start: np.ndarray
    names: Names

    def columns(self) -> dict[str, np.ndarray]:
        """The ratings as arrays, by the keys of a batch."""
        return {"user": self.user, "item": self.item, "rating": self.rating}

    def before(self, places: np.ndarray, width: int, pad: int) -> np.ndarray:
        """The items that a user rated before each of these places: int32[n, width], padded."""
        first = self.start[self.user[places]][:, None]
        grid = first + np.arange(width)
        items = self.item[np.minimum(grid, len(self.item) - 1)]
        return np.where(grid < places[:, None], items, pad).astype(np.int32)

    def longest(self) -> int:
        """S: ratings before the last of the user who has most."""
        return max(1, int(np.diff(self.start).max()) - 1)


@dataclasses.dataclass(frozen=True)
class RatingTable(RowFiles[tuple[str, str, float, float]], Tables):
    """What both sources share: where the table is and what its columns are called.

    Attributes:
      paths: CSV files or globs, plain or compressed (.gz, .xz, .zst).
      user: column of the user, any text.
      item: column of the item, any text.
      rating: column of the rating, a number.
      time: column of the time, a number; None takes the order of the lines.
      delimiter, names, encoding: see `Tables`.
    """

    noun: ClassVar[str] = "rating"

    paths: tuple[LocalPath, ...]
    user: str = "userId"
    item: str = "movieId"
    rating: str = "rating"
    time: str | None = "timestamp"

    def load(self, cache: pathlib.Path) -> Sorted:
        """The ratings, from the cache or read now."""
        paths = matching(self.paths, "data.source.paths")
        fields = [field.name for field in dataclasses.fields(RatingTable) if field.name != "paths"]
        columns = {name: getattr(self, name) for name in fields}
        key = key_of({"ratings": [file_hash(path, cache) for path in paths], "columns": columns})

        def build(work: pathlib.Path) -> Mapping[str, Any]:
            users, items, ratings, times = zip(*self.read("paths"), strict=True)
            names = Names(ordered(users), ordered(items))
            user, item = _numbers(users, names.users), _numbers(items, names.items)
            order = np.lexsort((np.array(times), user))
            np.save(work / "user.npy", user[order])
            np.save(work / "item.npy", item[order])
            np.save(work / "rating.npy", np.array(ratings, np.float32)[order])
            (work / "names.json").write_text(names.to_text(), encoding="utf-8")
            return {"ratings": len(users)}

        entry = cached(cache, f"ratings-{key}", build)
        user, item, rating = (np.load(entry.path / f"{n}.npy") for n in ("user", "item", "rating"))
        names = Names.from_text((entry.path / "names.json").read_text(encoding="utf-8"))
        start = np.searchsorted(user, np.arange(len(names.users) + 1))
        return Sorted(user, item, rating, start, names)

    def rows(self, path: pathlib.Path) -> Iterator[tuple[str, str, float, float]]:
        """(user, item, rating, time) line by line."""
        fields = ("user", "item", "rating", *(["time"] if self.time is not None else []))
        for where, (user, item, rating, *time) in self.cells(path, *fields):
            require(where, **{self.user: user, self.item: item})
            when = _number(time[0], self.time or "", where) if time else 0.0
            yield user.strip(), item.strip(), _number(rating, self.rating, where), when


def _number(text: str, column: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise DataError(f"{where}: {column} is {text!r}, not a number; correct the line") from error
    if not math.isfinite(value):
        raise DataError(f"{where}: {column} is {text!r}, not a finite number; correct the line")
    return value


def _numbers(names: tuple[str, ...], known: tuple[str, ...]) -> np.ndarray:
    place = {name: number for number, name in enumerate(known)}
    return np.array([place[name] for name in names], np.int32)


class WithHistory(Arrays):
    """Ratings with `seen`, int32[n, S]: what the user rated before, padded with the number of items."""

    def __init__(self, table: Sorted, places: np.ndarray) -> None:
        """Those at these places."""
        super().__init__(table.columns(), places)
        self.spec |= spec_of("int32", (table.longest(),), "seen")
        self._table = table

    def gather(self, indices: np.ndarray, positions: np.ndarray | None = None) -> Batch:
        """Ratings by index: int64[n] -> {key: [n, ...]}."""
        table = self._table
        seen = table.before(self.rows[indices], table.longest(), len(table.names.items))
        return super().gather(indices) | {"seen": seen}


@dataclasses.dataclass(frozen=True)
class Ratings(RatingTable):
    """Ratings one by one, for models that predict the number.

    The facts it states: `users`, `items`, `mean_rating` and `item_counts` of the training part, and
    `rating_range`.

    Attributes:
      split: `random` holds out `data.eval_fraction` of the ratings; `last` each user's last rating as
        `eval` and the one before it as `valid` (of users with at least three), with what the
        user rated before, so that all items can be ranked.
    """

    split: Literal["random", "last"] = "random"

    @property
    def reads(self) -> tuple[str, ...]:
        """Keys of section `data` that it uses."""
        return ("limit", "eval_fraction") if self.split == "random" else ("limit",)

    def describe(self, context: DataContext) -> DataInfo:
        """Users, items and the mean; reads the table, where the cache does not have it."""
        return self.open(context).info

    def open(self, context: DataContext) -> Opened:
        """Training and held-out ratings."""
        table = self.load(context.cache)
        places, held_out = self._places(table, context)
        columns, count = table.columns(), len(table.names.items)
        train = Arrays(columns, places)
        last = self.split == "last"
        evals = {
            name: WithHistory(table, at) if last else Arrays(columns, at)
            for name, at in held_out.items()
        }
        info = DataInfo(
            kind="ratings",
            unit="ratings",
            spec=train.spec,
            eval_specs={name: part.spec for name, part in evals.items()} if last else {},
            facts={
                "users": len(table.names.users),
                "items": count,
                "mean_rating": float(table.rating[places].mean(dtype=np.float64)),
                "rating_range": [float(table.rating.min()), float(table.rating.max())],
                "item_counts": np.bincount(table.item[places], minlength=count).tolist(),
            },
        )
        return Opened(
            info=info,
            train={"train": train},
            evals=evals,
            artefacts={"names": table.names},
            sizes=sizes(table),
        )

    def _places(
        self, table: Sorted, context: DataContext
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Places of the training ratings, in a fixed pseudo-random order, and of the held-out ones."""
        limit = context.section.limit
        if self.split == "random":
            fraction = context.section.eval_fraction
            train, held_out = split_rows(len(table.user), fraction)
            return train[:limit], {"eval": held_out} if fraction else {}
        evals = left_out_parts(table)
        order = split_rows(len(table.user), 0.0)[0]
        return order[~np.isin(order, np.concatenate(list(evals.values())))][:limit], evals


def left_out_parts(table: Sorted) -> dict[str, np.ndarray]:
    """Leave-last-out: {"eval": each user's last rating, "valid": the one before it}, as places."""
    ends = table.start[1:][np.diff(table.start) >= MIN_HELD_OUT]
    if not len(ends):
        raise DataError(
            f"data.source.split: all users have fewer than {MIN_HELD_OUT} ratings, and none can be "
            "left out; use data.source.split=random"
        )
    return {"eval": ends - 1, "valid": ends - 2}


def sizes(table: Sorted) -> dict[str, int]:
    """For the records of a run."""
    users, items = len(table.names.users), len(table.names.items)
    return {"ratings": len(table.user), "users": users, "items": items}
