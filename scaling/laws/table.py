"""Tables of runs: reading CSV, JSONL and sweep directories, mapping columns, refusing bad rows.

A row is never dropped in silence: each exclusion keeps its row number and its reason, and both go
into the result. Columns are `params`, `tokens`, `loss` (other names map), optionally `flops`,
`seed`, `run_id`, `weight` and any variable that a law names.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from scaling.laws.checks import budget_warnings, check_units, duplicate_warnings
from scaling.laws.columns import missing_column, missing_columns, spelled, typed, unit_refusal
from scaling.laws.law import Law, LawError
from scaling.laws.losses import Loss

Array = np.ndarray


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
    def from_columns(cls, columns: Mapping[str, Any], source: str = "memory") -> "Table":
        """A table of equally long sequences of numbers, words or None, a cell that is empty."""
        cells = {k: list(np.asarray(v, dtype=object).reshape(-1)) for k, v in columns.items()}
        lengths = {k: len(v) for k, v in cells.items()}
        if len(set(lengths.values())) > 1:
            raise LawError(f"columns have different lengths: {lengths}")
        count = next(iter(lengths.values()), 0)
        text = {k: ["" if c is None else str(c) for c in v] for k, v in cells.items()}
        return cls(_numbers(cells), text, np.arange(1, count + 1), source)

    def with_column(self, name: str, values: Array) -> "Table":
        """A copy with one column added or replaced."""
        if len(values) != len(self):
            raise LawError(f"column {name} has {len(values)} values for {len(self)} rows")
        values = np.asarray(values, np.float64)
        text = {**self.text, name: [repr(float(v)) for v in values]}
        return dataclasses.replace(self, columns={**self.columns, name: values}, text=text)

    def mapped(self, mapping: Mapping[str, str]) -> "Table":
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
            if refusal := unit_refusal(origin, name, self.source):
                raise LawError(refusal)
            return origin, 1.0
        column, star, factor = origin.rpartition("*")
        if star and column in self.columns and math.isfinite(number(factor)):
            return column, float(factor)
        raise LawError(
            missing_column(origin, self.columns, self.source, f"--columns={name}=COLUMN")
        )

    def without(self, keep: Array, reason: str | Callable[[int], str]) -> "Table":
        """Rows where `keep` is true; the others are recorded with the reason (of a row index)."""
        gone = tuple(
            (int(self.numbers[i]), reason if isinstance(reason, str) else reason(int(i)))
            for i in np.flatnonzero(~keep)
        )
        return dataclasses.replace(self.part(keep), excluded=(*self.excluded, *gone))

    def part(self, keep: Array) -> "Table":
        """Rows where `keep` is true, when the others are not excluded but in another part."""
        return dataclasses.replace(
            self,
            columns={k: v[keep] for k, v in self.columns.items()},
            text={k: list(itertools.compress(v, keep)) for k, v in self.text.items()},
            numbers=self.numbers[keep],
        )

    def spelled_out(self) -> "Table":
        """Cells such as 1,018 and 12B and 45 % as numbers, see `columns.spelled`."""
        text = {
            k: [
                (spelled(c) or c) if math.isnan(v) else c
                for c, v in zip(cells, self.columns[k], strict=True)
            ]
            for k, cells in self.text.items()
        }
        return dataclasses.replace(self, columns=_numbers(text), text=text)

    def complete_for(self, law: Law) -> tuple["Table", list[str]]:
        """`completed`, with every column that `law` needs. Raises LawError naming all that lack."""
        table, notes = self.completed()
        missing = [v.name for v in (*law.variables, law.target) if v.name not in table.columns]
        if missing:
            raise LawError(missing_columns(missing, self.columns, self.source))
        if not len(table):
            raise LawError(f"{self.source} has no rows")
        return table, notes

    def completed(self) -> tuple["Table", list[str]]:
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

    @property
    def weights(self) -> Array:
        """Weight of each row, [n]."""
        return self.columns.get("weight", np.ones(len(self)))

    @property
    def clusters(self) -> Array:
        """Number of the run of each row, [n]; a row without a `run_id` is a run of its own."""
        if "run_id" not in self.text:
            return np.arange(len(self))
        cells = zip(self.text["run_id"], self.numbers, strict=True)
        names = [cell.strip() or f"\n{number}" for cell, number in cells]
        return np.unique(np.array(names, dtype=str), return_inverse=True)[1]

    def prepare(self, law: Law, loss: Loss) -> tuple["Table", list[str]]:
        """The rows that `law` can use, with every column that it needs, and warnings.

        Raises LawError when nothing usable is left.
        """
        table, notes = self.complete_for(law)
        wanted = [*law.variables, law.target]
        # ln needs a positive target; so do loss laws in raw space, where <= 0 is a broken run.
        check_units(table, law)
        for variable in wanted:
            positive = variable.positive or (variable is law.target and loss.space == "log")
            table = _exclude_invalid(table, variable.name, positive)
        if "weight" in table.columns:
            table = _exclude_invalid(table, "weight", False)
            table = table.without(table.columns["weight"] > 0, "weight is not above 0")
        fresh = table.excluded[len(self.excluded) :]
        if not len(table):
            raise LawError(
                f"{self.source}: none of {len(self)} rows is usable for law {law.name}; first "
                f"reasons: {'; '.join(f'row {n}: {r}' for n, r in table.excluded[:3])}"
            )
        names = [v.name for v in wanted]
        warnings = [n for n in notes if n.split()[1] in names]
        if fresh:
            reasons = sorted({r for _, r in fresh})
            warnings.append(f"{len(fresh)} of {len(self)} rows excluded: {'; '.join(reasons[:4])}")
        warnings += duplicate_warnings(table, names)
        warnings += budget_warnings(table, law)
        runs = [cell.strip() for cell in table.text.get("run_id", ())]
        if not all(runs):
            warnings.append(
                f"{runs.count('')} of {len(runs)} rows have no run_id: each counts as its own"
            )
        return table, warnings


def number(cell: Any) -> float:
    """A cell as a number; NaN where it is something else."""
    try:
        return float(cell)
    except (TypeError, ValueError, OverflowError):  # OverflowError: JSON integers above 1e308
        return math.nan


def _numbers(cells: Mapping[str, Sequence[Any]]) -> dict[str, Array]:
    return {k: np.array([number(c) for c in v], np.float64) for k, v in cells.items()}


def _exclude_invalid(table: Table, name: str, positive: bool) -> Table:
    values, text = table.columns[name], table.text[name]
    odd = [i for i in np.flatnonzero(np.isnan(values)) if re.search(r"\d", text[i])]
    if odd:
        cells = list(dict.fromkeys(text[i].strip() for i in odd))
        lines = [(f"--exclude={name}=={cell}", "leaves such rows out") for cell in cells[:3]]
        if all(spelled(cell) for cell in cells):
            read = f"reads {cells[0]} as {float(spelled(cells[0]) or 0):.12g}"
            lines = [("--spelled", read)]
        raise LawError(
            f"{table.source}: {name} holds {cells[0]!r} in row {table.numbers[odd[0]]}"
            f"{f' and {len(odd) - 1} more such cells' if odd[1:] else ''}, which is not a number: write"
            f"{typed(*lines)}"
        )

    def unreadable(i: int) -> str:
        cell = text[i].strip()
        return f"{name} is {cell!r}, not a finite number" if cell else f"{name} is empty"

    table = table.without(np.isfinite(values), unreadable)
    values = table.columns[name]
    if positive:
        table = table.without(values > 0, lambda i: f"{name} = {values[i]:g} is not above 0")
    return table
