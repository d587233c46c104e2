"""Which rows of a table are fitted: rules, the last of a run, the best of a sweep, groups."""

import operator
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from scaling.laws.checks import CLOCKS, designs
from scaling.laws.columns import missing_column
from scaling.laws.law import Law, LawError
from scaling.laws.table import Table

OPERATORS = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}


def matching(table: Table, rule: str) -> np.ndarray:
    """Rows, [n], of which a rule such as `loss>=3.4` or `router==Hash` is true."""
    match = re.fullmatch(r"\s*(.+?)\s*(>=|<=|==|!=|>|<)\s*(.+?)\s*", rule)
    if not match:
        raise LawError(f"--exclude={rule!r} is not COLUMN>VALUE (or >=, <, <=, ==, !=)")
    name, sign, value = match.groups()
    _require(table, name, "--exclude=COLUMN>VALUE")
    try:
        return np.asarray(OPERATORS[sign](table.columns[name], float(value)))
    except ValueError:
        pass
    if sign not in ("==", "!="):
        raise LawError(f"--exclude={rule!r}: {value!r} is not a number")
    same = np.array([cell.strip() == value for cell in table.text[name]])
    if not same.any():
        known = sorted({cell.strip() for cell in table.text[name]})[:8]
        raise LawError(f"--exclude={rule!r}: no row holds {value!r}; {name} holds {known}")
    return same if sign == "==" else ~same


def last_of(table: Table, name: str) -> np.ndarray:
    """Rows, [n], that are the last of their run: most tokens, then steps, then order of the file.

    `name` is the column that names runs; a row without a name is a run of its own.
    """
    _require(table, name, "--last_of=COLUMN")
    names = [cell.strip() or f"\n{i}" for i, cell in enumerate(table.text[name])]
    clocks = [table.columns[k] for k in reversed(CLOCKS) if k in table.columns]
    order = np.lexsort([np.arange(len(table)), *(np.nan_to_num(c, nan=-np.inf) for c in clocks)])
    last = {names[i]: i for i in order}
    keep = np.zeros(len(table), bool)
    keep[list(last.values())] = True
    return keep


def best_of(table: Table, law: Law, names: Sequence[str]) -> np.ndarray:
    """Rows, [n], of the best setting of `names` at each combination of the law's variables.

    The best has the least mean of the target over its rows, so that seeds of one setting stay
    together; a setting with a row that has none is not the best, unless there is no other.
    """
    table, _ = table.complete_for(law)
    for name in names:
        _require(table, name, "--best_of=COLUMN,...")
    columns = [[cell.strip() for cell in table.text[name]] for name in names]
    keys = list(zip(designs(table, law).tolist(), *columns, strict=True))
    settings: dict[tuple[Any, ...], list[int]] = {}
    for i, key in enumerate(keys):
        settings.setdefault(key, []).append(i)
    best: dict[int, tuple[float, list[int]]] = {}
    for (point, *_), rows in settings.items():
        mean = float(np.mean(table.columns[law.target.name][rows]))
        mean = mean if np.isfinite(mean) else np.inf
        if point not in best or mean < best[point][0]:
            best[point] = mean, rows
    keep = np.zeros(len(table), bool)
    keep[[i for _, rows in best.values() for i in rows]] = True
    return keep


def groups(table: Table, name: str) -> dict[str, np.ndarray]:
    """Rows, [n], of each value of a column, in the order of the table; empty cells are in none."""
    _require(table, name, "--by=COLUMN")
    cells, values = [c.strip() for c in table.text[name]], table.columns[name]
    keys = [float(v) if np.isfinite(v) else c for c, v in zip(cells, values, strict=True)]
    labels = {key: cell for cell, key in reversed(list(zip(cells, keys, strict=True))) if cell}
    ordered = [key for key in dict.fromkeys(keys) if key in labels]
    if 2 * len(ordered) > len(table):
        raise LawError(
            f"--by={name}: {len(ordered)} values in {len(table)} rows; name a column that many rows "
            f"share (the table has {list(table.columns)})"
        )
    return {labels[key]: np.array([k == key for k in keys]) for key in ordered}


def _require(table: Table, name: str, remedy: str) -> None:
    if name not in table.columns:
        raise LawError(missing_column(name, table.columns, table.source, remedy))
