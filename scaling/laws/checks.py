"""What looks wrong with a table: other units, rows that count twice, runs and sweeps taken for points.

Refusals end in lines to type. What a user says (a factor, `--all_rows`) is believed.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from scaling.laws.columns import KNOWN, RECIPE, plain, typed
from scaling.laws.law import Law, LawError

if TYPE_CHECKING:
    from scaling.laws.table import Table

UNIT = 300.0  # flops / (6 params tokens) beyond which a column is in another unit
POWERS = (1.0, 1e3, 1e6, 1e9, 1e12)
# Tokens a parameter that no published run comes near (0.1 to 1e4 are), and counts that are small.
MOST_RATIO, LEAST_RATIO, SMALL = 1e6, 1e-3, 1e5
# What grows during a run, the first that tells two rows apart decides which is the later.
CLOCKS = ("tokens", "examples", "steps", "step", "iteration")
SAME = 0.01  # relative difference within which values of a variable are one point of a design
SWEPT = 0.25  # share of rows at points with several recipes that makes a table a sweep


def check_units(table: "Table", law: Law) -> None:
    """Refuses counts that must be in another unit than they say, and errors in percent.

    With flops the three must agree, and the two factors that are proposed give a sensible number of
    tokens per parameter; without, only that number tells, and a factor of the user's settles it.
    """
    target = law.target.name
    if law.target.unit == "fraction" and np.nanmedian(table.columns[target]) > 1:
        raise LawError(
            f"{table.source}: {target} is a fraction, but half of the rows are above 1: write"
            + typed((_scaled(table, {target: "0.01"}), "if it is in percent"))
        )
    if not {"params", "tokens"} <= {v.name for v in law.variables}:
        return
    n, d = table.columns["params"], table.columns["tokens"]
    c = table.columns.get("flops", 6 * n * d)
    good = np.isfinite(n * d * c) & (n > 0) & (d > 0) & (c > 0)
    if not good.any():
        return
    n, d, c = n[good], d[good], c[good]
    ratio = float(np.median(c / (6 * n * d)))
    if not 1 / UNIT < ratio < UNIT:
        raise LawError(_disagreement(table, n, d, ratio))
    if not any("*" in table.notes.get(k, "") for k in ("params", "tokens")):
        _check_ratio(table, n, d)


def _scaled(table: "Table", factors: Mapping[str, str]) -> str:
    """The flag that gives columns a factor, by the names that they were mapped from."""
    parts = []
    for name, factor in factors.items():
        note = table.notes.get(name, "")
        origin = note.removeprefix("column ").strip("'\"").split("*")[0]
        parts.append(f"{name}={origin if 'column' in note else name}*{factor}")
    return f"--columns={','.join(parts)}"


def _disagreement(table: "Table", n: np.ndarray, d: np.ndarray, ratio: float) -> str:
    pairs = [(p, t) for p in POWERS for t in POWERS if 1 / UNIT < ratio / (p * t) < UNIT]
    fitting = [(p, t) for p, t in pairs if 0.1 < np.median(d * t / (n * p)) < 1e5]
    factors = {"flops": "FACTOR"}
    if fitting:
        named = zip(("params", "tokens"), fitting[0], strict=True)
        factors = {name: f"{factor:g}" for name, factor in named if factor != 1}
    line = _scaled(table, factors)
    return (
        f"{table.source}: flops is {ratio:.3g} times 6 params tokens, so one of the three is not in "
        f"FLOP, parameters or tokens: write{typed((line, 'or a factor for flops'))}"
    )


def _check_ratio(table: "Table", n: np.ndarray, d: np.ndarray) -> None:
    ratio = float(np.median(d / n))
    factors = {}
    if n.max() < SMALL and (ratio > MOST_RATIO or d.max() < SMALL / 10 > n.max()):
        # Published sizes are 70 to 12,000 in millions, 0.07 to 500 in billions.
        factors["params"] = "1e+06" if np.median(n) > 20 else "1e+09"
    if d.max() < SMALL and (ratio < LEAST_RATIO or "params" in factors):
        factors["tokens"] = "1e+09"
    if not factors:
        return
    words = {"1e+06": "millions", "1e+09": "billions"}
    said = " and ".join(f"{name} in {words[factor]}" for name, factor in factors.items())
    lines = [(_scaled(table, factors), said)]
    if "params" in factors:
        other = next(factor for factor in words if factor != factors["params"])
        lines.append((_scaled(table, {**factors, "params": other}), f"params in {words[other]}"))
    lines.append((_scaled(table, {next(iter(factors)): "1"}), "if they are in units"))
    raise LawError(
        f"{table.source}: params are {n.min():.3g} to {n.max():.3g} and tokens {d.min():.3g} to "
        f"{d.max():.3g}, {ratio:.2g} tokens a parameter, so one is in another unit: write"
        f"{typed(*lines)}"
    )


def alike(values: np.ndarray) -> np.ndarray:
    """Codes, [n], equal for values within `SAME` of the smallest of their code; NaN are all apart."""
    codes, code, first = np.empty(len(values), np.int64), -1, np.nan
    for i in np.argsort(values, kind="stable"):
        if not values[i] <= first + SAME * abs(first):
            code, first = code + 1, values[i]
        codes[i] = code
    return codes


def designs(table: "Table", law: Law) -> np.ndarray:
    """Codes, [n], of the combinations of the law's variables: one code is one point of its design."""
    columns = [alike(table.columns[v.name]) for v in law.variables]
    return np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)[1].reshape(-1)


def check_rows(table: "Table", law: Law) -> None:
    """Refuses rows that are stages of one run, or recipes tried at one point, taken for points.

    Raises:
      LawError: naming the flags that choose among them, or say that each row counts.
    """
    table, _ = table.complete_for(law)
    lines: list[tuple[str, str] | str]
    if runs := _logged_runs(table, law):
        name, count = runs
        lines = [
            (f"--last_of={name}", "the last row of each run"),
            (f"--columns=run_id={name}", "every row, resampled by whole runs"),
            ("--all_rows", "every row, as if it were a run of its own"),
        ]
        raise LawError(
            f"{table.source}: {len(table)} rows are {count} runs, logged several times: column "
            f"{name!r} repeats; write one of{typed(*lines)}"
        )
    if names := _swept(table, law):
        variables = ", ".join(v.name for v in law.variables)
        lines = [
            (f"--best_of={','.join(names)}", f"the best of each ({variables})"),
            ("--all_rows", "every row, the bad ones too"),
        ]
        what = f"{' and '.join(names)} {'were' if names[1:] else 'was'} swept"
        raise LawError(
            f"{table.source}: {len(table)} rows are {designs(table, law).max() + 1} points "
            f"({variables}) at which {what}; write one of{typed(*lines)}"
        )


def _logged_runs(table: "Table", law: Law) -> tuple[str, int] | None:
    """(column, runs) of a column that names runs of which there are several rows, of one size."""
    if "run_id" in table.columns:
        return None
    for name, cells in table.text.items():
        if plain(name) not in KNOWN["run_id"] or not all(cell.strip() for cell in cells):
            continue
        codes = np.unique(np.array(cells), return_inverse=True)[1]
        count = int(codes.max()) + 1
        sizes = alike(table.columns.get("params", np.zeros(len(table))))
        one_size = len(set(zip(codes.tolist(), sizes.tolist(), strict=True))) == count
        # A law of size alone sees one point a run; then the clock tells its rows apart.
        clocks = [alike(table.columns[k]) for k in CLOCKS if k in table.columns]
        places = [designs(table, law), *clocks]
        apart = len(set(zip(codes.tolist(), *(p.tolist() for p in places), strict=True)))
        if one_size and len(table) >= 2 * count and apart >= 2 * count:
            return name, count
    return None


def _swept(table: "Table", law: Law) -> list[str]:
    """Columns of the recipe that take several values at one point, if that is so of many rows."""
    variables = {v.name for v in law.variables}
    named = [k for k in table.text if plain(k) in RECIPE and k not in variables]
    # Words there, as "long" under warmup, name experiments: not settings of which to take the best.
    recipe = [k for k in named if np.isfinite(table.columns[k]).any()]
    points, names, many = designs(table, law), [], np.zeros(len(table), bool)
    for name in recipe:
        settings = np.unique(np.array(table.text[name]), return_inverse=True)[1]
        pairs = np.unique(np.stack([points, settings], axis=1), axis=0)[:, 0]
        several = (np.bincount(pairs, minlength=points.max() + 1) > 1)[points]
        if several.any():
            names.append(name)
            many |= several
    return names if many.mean() >= SWEPT else []


def duplicate_warnings(table: "Table", names: list[str]) -> list[str]:
    """Rows that the law sees twice: copies, or runs that differ in what the law leaves out."""
    labels = [table.text[k] for k in ("run_id", "seed") if k in table.text]
    rows = list(zip(*(table.columns[n] for n in names), *labels, strict=True))
    first: dict[tuple[Any, ...], int] = {}
    copies = [(m, n) for n, row in enumerate(rows) if (m := first.setdefault(row, n)) != n]
    if not copies:
        return []
    differing = {
        k for k, cells in table.text.items() if any(cells[m] != cells[n] for m, n in copies)
    }
    if not differing:
        return [
            f"{len(copies)} rows repeat another row exactly and count twice: remove copies, or give "
            f"run_id or seed if they are repeats"
        ]
    return [
        f"{len(copies)} rows equal another in all that the law sees ({', '.join(names)}), though not in "
        f"{', '.join(sorted(differing)[:3])}: each counts; give run_id or seed if they are repeats"
    ]


def budget_warnings(table: "Table", law: Law) -> list[str]:
    """That all runs have one compute budget, where the law has params and tokens."""
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
