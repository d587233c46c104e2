"""Tables of runs: reading CSV, JSONL and sweep directories, mapping columns, refusing bad rows.

A row is never dropped in silence: each exclusion keeps its row number and its reason, and both go
into the result. Columns are `params`, `tokens`, `loss` (other names map), optionally `flops`,
`seed`, `run_id`, `weight` and any variable that a law names.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from scaling.laws.law import Law, LawError
from scaling.laws.losses import Loss

Array = np.ndarray
UNIT = 300.0  # flops / (6 params tokens) beyond which a column is in another unit
_POWERS = (1.0, 1e3, 1e6, 1e9, 1e12)
_FACTORS = {
    "k": "1e3",
    "m": "1e6",
    "b": "1e9",
    "g": "1e9",
    "t": "1e12",
    "thousands": "1e3",
    "millions": "1e6",
    "billions": "1e9",
    "trillions": "1e12",
}
# What a column's name says of its unit: "params (M)", "tokens_B", "tokens in billions".
_UNIT = re.compile(r"\(([kmbgt])\)|_([kmb])$|\b(thousands|(?:m|b|tr)illions)\b", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Columns of one law, valid rows only: arrays of shape [n] and what happened to the others."""

    variables: dict[str, Array]
    target: Array
    weights: Array
    clusters: Array
    rows: Array
    excluded: tuple[tuple[int, str], ...]
    warnings: tuple[str, ...]
    conventions: dict[str, str]
    source: str


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """Columns as float64 arrays (unreadable cells are NaN, kept in `text`), all of one length.

    `numbers` are the row numbers in the source (1 is the first data row); `excluded` rows were
    taken out already, with their reason.
    """

    columns: dict[str, Array]
    text: dict[str, list[str]]
    numbers: Array
    source: str = "memory"
    excluded: tuple[tuple[int, str], ...] = ()
    notes: dict[str, str] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.numbers)

    @classmethod
    def from_columns(cls, columns: Mapping[str, Any], source: str = "memory") -> Table:
        """A table from a mapping of equally long sequences; strings become text cells."""
        cells = {k: list(np.asarray(v, dtype=object).reshape(-1)) for k, v in columns.items()}
        lengths = {k: len(v) for k, v in cells.items()}
        if len(set(lengths.values())) > 1:
            raise LawError(f"columns have different lengths: {lengths}")
        return cls._from_cells(cells, source)

    @classmethod
    def _from_cells(cls, cells: Mapping[str, Sequence[Any]], source: str) -> Table:
        count = len(next(iter(cells.values()), ()))
        columns = {k: np.array([_number(c) for c in v], np.float64) for k, v in cells.items()}
        text = {k: ["" if c is None else str(c) for c in v] for k, v in cells.items()}
        return cls(columns, text, np.arange(1, count + 1), source)

    def with_column(self, name: str, values: Array) -> Table:
        """A copy with one column added or replaced."""
        if len(values) != len(self):
            raise LawError(f"column {name} has {len(values)} values for {len(self)} rows")
        values = np.asarray(values, np.float64)
        text = {**self.text, name: [repr(float(v)) for v in values]}
        return dataclasses.replace(self, columns={**self.columns, name: values}, text=text)

    def mapped(self, mapping: Mapping[str, str]) -> Table:
        """Columns under new names: `{"params": "Model Size", "tokens": "T*1e9"}`."""
        columns, text, notes = dict(self.columns), dict(self.text), dict(self.notes)
        for name, origin in mapping.items():
            column, factor = self._origin(origin, name)
            columns[name] = self.columns[column] * factor
            text[name] = self.text[column]
            if origin != name:
                notes[name] = f"column {origin!r}"
        return dataclasses.replace(self, columns=columns, text=text, notes=notes)

    def _origin(self, origin: str, name: str) -> tuple[str, float]:
        if origin in self.columns:
            unit = _UNIT.search(origin)
            if unit and name in ("params", "tokens", "flops"):
                said = next(filter(None, unit.groups()))
                factor = _FACTORS[said.lower()]
                raise LawError(
                    f"{self.source}: column {origin!r} seems to be in {said}: write "
                    f"--columns={name}='{origin}*{factor}', or *1 if it is in units"
                )
            return origin, 1.0
        column, star, factor = origin.rpartition("*")
        if star and column in self.columns and math.isfinite(_number(factor)):
            return column, float(factor)
        raise LawError(
            missing_column(origin, self.columns, self.source, f"--columns={name}=COLUMN")
        )

    def without(self, keep: Array, reason: str | Callable[[int], str]) -> Table:
        """Rows where `keep` is true; the others are recorded with the reason (of a row index)."""
        gone = tuple(
            (int(self.numbers[i]), reason if isinstance(reason, str) else reason(int(i)))
            for i in np.flatnonzero(~keep)
        )
        return dataclasses.replace(
            self,
            columns={k: v[keep] for k, v in self.columns.items()},
            text={k: list(itertools.compress(v, keep)) for k, v in self.text.items()},
            numbers=self.numbers[keep],
            excluded=(*self.excluded, *gone),
        )

    def completed(self) -> tuple[Table, list[str]]:
        """Fill params, tokens and flops from each other by C = 6 N D where one is absent."""
        have = self.columns
        absent = {"params", "tokens", "flops"} - set(have)
        if len(absent) != 1:
            return self, []
        (name,) = absent
        if name == "flops":
            values, how = 6 * have["params"] * have["tokens"], "6 params tokens"
        else:
            other = "params" if name == "tokens" else "tokens"
            values, how = have["flops"] / (6 * have[other]), f"flops / (6 {other})"
        table = self.with_column(name, values)
        table.notes[name] = how
        return table, [f"column {name} is absent and was computed as {how}"]

    def prepare(self, law: Law, loss: Loss) -> Prepared:
        """Check and select what `law` needs. Raises LawError when nothing usable is left."""
        table, notes = self.completed()
        wanted = [*law.variables, law.target]
        for variable in wanted:
            if variable.name not in table.columns:
                raise LawError(missing_column(variable.name, self.columns, self.source))
        if not len(table):
            raise LawError(f"{self.source} has no rows")
        # ln needs a positive target; so do loss laws in raw space, where <= 0 is a broken run.
        _check_units(table, {v.name for v in wanted})
        for variable in wanted:
            positive = variable.positive or (variable is law.target and loss.space == "log")
            table = _exclude_invalid(table, variable.name, positive)
        if "weight" in table.columns:
            table = _exclude_invalid(table, "weight", False)
            table = table.without(table.columns["weight"] > 0, "weight is not above 0")
        fresh = len(table.excluded) - len(self.excluded)
        if not len(table):
            raise LawError(
                f"{self.source}: none of {len(self)} rows is usable for law {law.name}; first "
                f"reasons: {'; '.join(f'row {n}: {r}' for n, r in table.excluded[:3])}"
            )
        warnings = [n for n in notes if n.split()[1] in {v.name for v in wanted}]
        if fresh:
            reasons = sorted({r for _, r in table.excluded[len(self.excluded) :]})
            warnings.append(f"{fresh} of {len(self)} rows excluded: {'; '.join(reasons[:4])}")
        warnings += _duplicates(table, [v.name for v in wanted])
        warnings += _budgets(table, law)
        variables = {v.name: table.columns[v.name] for v in law.variables}
        weights = table.columns.get("weight", np.ones(len(table)))
        clusters = None
        if "run_id" in table.text:
            # Rows without a run_id are runs of their own, not one run together.
            named = [cell.strip() for cell in table.text["run_id"]]
            clusters = _codes([v or f"\n{n}" for v, n in zip(named, table.numbers, strict=True)])
            if not all(named):
                warnings.append(
                    f"{named.count('')} of {len(named)} rows have no run_id: each counts as its own"
                )
        return Prepared(
            variables,
            table.columns[law.target.name],
            weights,
            np.arange(len(table)) if clusters is None else clusters,
            table.numbers,
            table.excluded,
            tuple(warnings),
            dict(table.notes),
            self.source,
        )


def missing_column(name: str, columns: Iterable[str], source: str, remedy: str = "") -> str:
    """The message for an absent column, with the nearest one that exists."""
    names = list(columns)
    near = difflib.get_close_matches(name, names, 1, 0.5)
    hint = f"; did you mean {near[0]!r}" if near else ""
    return (
        f"{source} has no column {name!r}{hint} (it has {names}); "
        f"{'give' if remedy else 'map it with'} {remedy or f'--columns={name}=COLUMN'}"
    )


def _number(cell: Any) -> float:
    try:
        return float(cell)
    except (TypeError, ValueError, OverflowError):  # OverflowError: JSON integers above 1e308
        return math.nan


def _codes(labels: Sequence[str]) -> Array:
    return np.unique(np.array(labels, dtype=str), return_inverse=True)[1]


def _exclude_invalid(table: Table, name: str, positive: bool) -> Table:
    values, text = table.columns[name], table.text[name]

    odd = [i for i in np.flatnonzero(np.isnan(values)) if re.search(r"\d", text[i])]
    if odd:
        raise LawError(
            f"{table.source}: {name} holds {text[odd[0]].strip()!r} in row {table.numbers[odd[0]]}"
            f"{f' and {len(odd) - 1} more such cells' if odd[1:] else ''}, which is not a number: write "
            f"1018 for 1,018 and 12e9 for 12B, or leave the rows out with --exclude"
        )

    def unreadable(i: int) -> str:
        cell = text[i].strip()
        return f"{name} is {cell!r}, not a finite number" if cell else f"{name} is empty"

    table = table.without(np.isfinite(values), unreadable)
    values = table.columns[name]
    if positive:
        table = table.without(values > 0, lambda i: f"{name} = {values[i]:g} is not above 0")
    return table


def _check_units(table: Table, wanted: set[str]) -> None:
    """Refuses params, tokens and flops of which one must be in another unit than it says.

    The two factors that are proposed give a sensible number of tokens per parameter.
    """
    if not {"params", "tokens"} <= wanted or not {"params", "tokens", "flops"} <= set(
        table.columns
    ):
        return
    n, d, c = (table.columns[k] for k in ("params", "tokens", "flops"))
    good = np.isfinite(n * d * c) & (n > 0) & (d > 0) & (c > 0)
    if not good.any():
        return
    n, d, c = n[good], d[good], c[good]
    ratio = float(np.median(c / (6 * n * d)))
    if 1 / UNIT < ratio < UNIT:
        return
    pairs = [(p, t) for p in _POWERS for t in _POWERS if 1 / UNIT < ratio / (p * t) < UNIT]
    fitting = [(p, t) for p, t in pairs if 0.1 < np.median(d * t / (n * p)) < 1e5]
    typed = "--columns=flops='flops*FACTOR' (FLOP)"
    if fitting:
        p, t = fitting[0]
        factors = {"params": p, "tokens": t}
        typed = "--columns=" + ",".join(f"{k}='{k}*{v:g}'" for k, v in factors.items() if v != 1)
        typed += ", or a factor for flops"
    raise LawError(
        f"{table.source}: flops is {ratio:.3g} times 6 params tokens, so one of the three is not in "
        f"FLOP, parameters or tokens: write {typed}"
    )


def _duplicates(table: Table, names: list[str]) -> list[str]:
    """Rows that the law sees twice: copies, or runs that differ in what the law leaves out."""
    labels = [table.text[k] for k in ("run_id", "seed") if k in table.text]
    rows = list(zip(*(table.columns[n] for n in names), *labels, strict=True))
    extra = len(rows) - len(set(rows))
    if not extra:
        return []
    first: dict[tuple[Any, ...], int] = {}
    differing: set[str] = set()
    for n, row in enumerate(rows):
        m = first.setdefault(row, n)
        if m != n:
            differing |= {k for k, cells in table.text.items() if cells[m] != cells[n]}
    if not differing:
        return [
            f"{extra} rows repeat another row exactly and count twice: remove copies, or give "
            f"run_id or seed if they are repeats"
        ]
    return [
        f"{extra} rows equal another in all that the law sees ({', '.join(names)}), though not in "
        f"{', '.join(sorted(differing)[:3])}: each counts; give run_id or seed if they are repeats"
    ]


def _budgets(table: Table, law: Law) -> list[str]:
    names = {v.name for v in law.variables}
    if not {"params", "tokens"} <= names or len(table) < 2:
        return []
    flops = table.columns["params"] * table.columns["tokens"]
    if flops.max() < 1.5 * flops.min():
        return [
            "all points share one compute budget: exponents of params and tokens and every "
            "extrapolation in compute rest on the form of the law alone"
        ]
    return []
