"""How good the forecasts of many runs were: coverage of the intervals, error, bias.

Reads the `grade` in every summary.json below a directory; see `grade`. Coverage carries an exact
binomial interval (Clopper-Pearson), as if forecasts were independent: those that share one fit are
not, and the number of distinct fits stands beside it.
"""

import math
import pathlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from scaling.configs import ConfigError
from scaling.laws.discrepancy import graded_factor
from scaling.track import provenance
from scaling.track.run_dir import RunDirError, find_runs

NAME = "scoreboard.json"


def score(folder: pathlib.Path, flag: str = "--scoreboard") -> dict[str, Any]:
    """What goes into scoreboard.json, from the grades of all runs below `folder`.

    ConfigError, of the flag that names the folder: no run there is graded.
    """
    rows: list[dict[str, Any]] = []
    statuses: Counter[str] = Counter()
    refused, tables, ended = [], set(), 0
    for run in find_runs(folder):
        try:
            grade = run.summary.get("grade")
        except RunDirError as error:
            refused.append(str(error))
            continue
        ended += 1
        if not grade:
            continue
        statuses[grade["status"]] += 1
        if "quantities" not in grade:
            refused.append(f"{run.path}: {grade['reason']}")
            continue
        tables.add(grade["table_sha256"])
        about = {"run": str(run.path.relative_to(folder)), "created": grade["forecast_created"]}
        about |= {"table": grade["table_sha256"], "form": grade.get("form")}
        rows += [
            {**about, "quantity": name, "outside": grade["outside"], **one}
            for name, one in grade["quantities"].items()
        ]
    if not rows:
        reason = f"; first reason: {refused[0]}" if refused else ""
        raise ConfigError(
            flag,
            f"{folder} holds no graded run ({ended} runs that ended, {len(refused)} that could not "
            f"be graded{reason}). Write a forecast before a run: python -m scaling.plan "
            "--config=... --forecast=FIT --workdir=RUN; the run then grades itself",
        )
    rows.sort(key=lambda row: (row["created"], row["run"]))
    factor, fits = graded_factor(form_errors(rows))
    by_name: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_name.setdefault(row["quantity"], []).append(row)
    return {
        "created": provenance.now(),
        "folder": str(folder),
        "runs": dict(statuses),
        "fits": len(tables),
        "form": {"factor": factor, "fits": fits},
        "refused": refused,
        "quantities": {name: _score(of_name) for name, of_name in by_name.items()},
        "rows": rows,
    }


def form_errors(rows: Sequence[dict[str, Any]]) -> list[tuple[str, float, float]]:
    """(table, error, expected deviation) in ln(loss) of graded losses outside their data.

    The deviation is what the forecast would have said without a factor of earlier grades: that of
    its 95 % interval (two normal deviations each way), the form's share set back to its own scale.
    """
    errors = []
    for row in rows:
        form, happened = row["form"], row["happened"]
        if row["quantity"] != "loss" or not form or not form["decades"] > 0 or not happened:
            continue
        low, high = row["interval95"]
        total = (math.log(high) - math.log(low)) / (2 * 1.96)
        spread = form["scale"] ** 2 * form["freedom"] / (form["freedom"] - 2)
        rest = max(total**2 - spread, 0.0)
        expected = math.sqrt(rest + spread / form["graded"] ** 2)
        errors.append((row["table"], math.log(row["predicted"] / happened), expected))
    return errors


def _score(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The scores of one quantity; half widths are of the 95 % interval, over the forecast."""
    errors = np.array([r["relative_error"] for r in rows if r["relative_error"] is not None])
    levels = sorted({level for row in rows for level in row["levels"]}, key=float)
    spans = [(row["interval95"], abs(row["predicted"])) for row in rows if row["interval95"]]
    widths = np.array([(high - low) / 2 / value for (low, high), value in spans if value])
    return {
        "unit": rows[0]["unit"],
        "forecasts": len(rows),
        "measured": len(errors),
        "coverage50": coverage([row["inside50"] for row in rows]),
        "coverage95": coverage([row["inside95"] for row in rows]),
        "coverage_range": coverage([row.get("inside_range") for row in rows]),
        "calibration": {
            level: coverage([row["levels"].get(level) for row in rows]) for level in levels
        },
        "mean_half_width95": float(widths.mean()) if len(widths) else None,
        "mean_absolute_error": float(np.abs(errors).mean()) if len(errors) else None,
        "bias": float(errors.mean()) if len(errors) else None,
        "bias_standard_error": float(stats.sem(errors)) if len(errors) > 1 else None,
    }


def coverage(inside: Sequence[bool | None]) -> dict[str, Any] | None:
    """{inside, of, share, interval95} of the forecasts that have such an interval; None of none."""
    known = [one for one in inside if one is not None]
    if not known:
        return None
    hits, total = sum(known), len(known)
    low, high = stats.binomtest(hits, total).proportion_ci(0.95, "exact")
    interval = [float(low), float(high)]
    return {"inside": hits, "of": total, "share": hits / total, "interval95": interval}


def describe(record: dict[str, Any]) -> str:
    """The scoreboard as a table for the terminal."""
    runs = ", ".join(f"{count} {status}" for status, count in sorted(record["runs"].items()))
    lines = [
        f"{record['folder']}: {runs}; forecasts from {record['fits']} fits",
        f"{'quantity':20s} {'n':>4s}  {'in 50 %':22s} {'in 95 %':22s} {'half width':>10s} "
        f"{'mean |error|':>12s} {'bias':>16s}",
    ]
    for name, one in record["quantities"].items():
        shares = [_share(one["coverage50"]), _share(one["coverage95"])]
        if one["coverage_range"]:
            shares[1] = f"range {_share(one['coverage_range'])}"
        lines.append(
            f"{name:20s} {one['measured']:4d}  {shares[0]:22s} {shares[1]:22s} "
            f"{_percent(one['mean_half_width95']):>10s} {_percent(one['mean_absolute_error']):>12s} "
            f"{_bias(one):>16s}"
        )
    form = record["form"]
    if form["fits"]:
        lines.append(
            f"the error of the law's form, from forecasts of {form['fits']} fits: {form['factor']:.3g} "
            f"times that on public tables; --graded={record['folder']} takes it into the next forecast"
        )
    lines += [f"not graded: {text}" for text in record["refused"][:10]]
    return "\n".join(lines)


def _share(one: dict[str, Any] | None) -> str:
    if one is None:
        return "-"
    low, high = one["interval95"]
    return f"{one['inside']}/{one['of']} ({100 * low:.0f} to {100 * high:.0f} %)"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"


def _bias(one: dict[str, Any]) -> str:
    if one["bias"] is None:
        return "-"
    spread = one["bias_standard_error"]
    more = "" if spread is None else f" +- {100 * spread:.2f}"
    return f"{100 * one['bias']:+.2f}{more} %"
