"""How good the forecasts of many runs were: coverage of the intervals, error, bias, drift.

Reads the `grade` in every summary.json below a directory; see `grade`. Coverage carries an exact
binomial interval (Clopper-Pearson), as if forecasts were independent: those that share one fit are
not, and the number of distinct fits stands beside it.
"""

import dataclasses
import pathlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from scaling.track import files, provenance
from scaling.track.run_dir import RunDirError, find_runs

NAME = "scoreboard.json"


class ScoreboardError(RuntimeError):
    """There is nothing to score."""


@dataclasses.dataclass(frozen=True)
class Forecasts:
    """Graded runs below a directory, in the order in which they were forecast.

    Attributes:
      folder: where they were looked for.
      rows: one a quantity of a run: `run`, `quantity`, `created`, and what `grade` says of it.
      runs: how many runs have each status of a grade.
      refused: "run: reason" of those that could not be graded.
      fits: distinct tables that the forecasts were fitted to.
    """

    folder: pathlib.Path
    rows: list[dict[str, Any]]
    runs: dict[str, int]
    refused: list[str]
    fits: int


def collect(folder: pathlib.Path) -> Forecasts:
    """Grades of all runs below `folder`.

    Raises:
      ScoreboardError: there is no graded run, with what was found instead.
    """
    rows: list[dict[str, Any]] = []
    runs: Counter[str] = Counter()
    refused, tables, seen = [], set(), 0
    for run in find_runs(folder):
        try:
            found = run.summary.get("grade")
        except RunDirError as error:
            refused.append(str(error))
            continue
        seen += 1
        if not found:
            continue
        runs[found["status"]] += 1
        if "quantities" not in found:
            refused.append(f"{run.path}: {found['reason']}")
            continue
        tables.add(found["table_sha256"])
        about = {"run": str(run.path.relative_to(folder)), "created": found["forecast_created"]}
        rows += [
            {**about, "quantity": name, "outside": found["outside"], **one}
            for name, one in found["quantities"].items()
        ]
    if not rows:
        reason = f"; first reason: {refused[0]}" if refused else ""
        raise ScoreboardError(
            f"{folder} holds no graded run ({seen} runs that ended, {len(refused)} that could not "
            f"be graded{reason}). Write a forecast before a run: python -m scaling.plan "
            "--config=... --forecast=FIT --workdir=RUN; the run then grades itself"
        )
    rows.sort(key=lambda row: (row["created"], row["run"]))
    return Forecasts(folder, rows, dict(runs), refused, len(tables))


def score(found: Forecasts) -> dict[str, Any]:
    """Everything that goes into scoreboard.json."""
    names = list(dict.fromkeys(row["quantity"] for row in found.rows))
    return {
        "created": provenance.now(),
        "folder": str(found.folder),
        "runs": found.runs,
        "fits": found.fits,
        "refused": found.refused,
        "quantities": {
            name: _score_one([row for row in found.rows if row["quantity"] == name])
            for name in names
        },
        "rows": found.rows,
    }


def _score_one(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    errors = np.array([r["relative_error"] for r in rows if r["relative_error"] is not None])
    levels = sorted({level for row in rows for level in row["levels"]}, key=float)
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
        "mean_half_width95": _mean(_half_widths(rows)),
        "mean_absolute_error": _mean(np.abs(errors)),
        "bias": _mean(errors),
        "bias_standard_error": _standard_error(errors),
        "drift": drift(errors),
    }


def _half_widths(rows: Sequence[dict[str, Any]]) -> np.ndarray:
    """Half of each 95 % interval over its forecast: how much was claimed to be known."""
    spans = [(row["interval95"], abs(row["predicted"])) for row in rows if row["interval95"]]
    return np.array([(high - low) / 2 / value for (low, high), value in spans if value])


def coverage(inside: Sequence[bool | None]) -> dict[str, Any] | None:
    """{inside, of, share, interval95} of the forecasts that have such an interval; None of none."""
    known = [one for one in inside if one is not None]
    if not known:
        return None
    hits, total = sum(known), len(known)
    low, high = stats.binomtest(hits, total).proportion_ci(0.95, "exact")
    return {
        "inside": hits, "of": total, "share": hits / total, "interval95": [float(low), float(high)],
    }  # fmt: skip


def drift(errors: np.ndarray) -> dict[str, float] | None:
    """Whether forecasts get better: errors of the later half against those of the earlier.

    Args:
      errors: relative errors, in the order of the forecasts, float[n].

    Returns:
      Bias and mean absolute error of both halves, and the p value of Kendall's tau between order
      and absolute error; None below 4 forecasts.
    """
    if len(errors) < 4:
        return None
    half = len(errors) // 2
    early, late = errors[:half], errors[half:]
    tau = stats.kendalltau(np.arange(len(errors)), np.abs(errors))
    return {
        "bias_early": float(early.mean()),
        "bias_late": float(late.mean()),
        "absolute_early": float(np.abs(early).mean()),
        "absolute_late": float(np.abs(late).mean()),
        "kendall_tau": float(np.nan_to_num(tau.statistic)),
        "p_value": float(np.nan_to_num(tau.pvalue, nan=1.0)),
    }


def write(record: dict[str, Any], out: pathlib.Path) -> None:
    """Writes scoreboard.json. Raises OSError."""
    out.mkdir(parents=True, exist_ok=True)
    files.write_json(out / NAME, record)


def describe(record: dict[str, Any]) -> str:
    """The scoreboard as a table for the terminal."""
    told = ", ".join(f"{count} {status}" for status, count in sorted(record["runs"].items()))
    lines = [
        f"{record['folder']}: {told}; forecasts from {record['fits']} fits",
        f"{'quantity':20s} {'n':>4s}  {'in 50 %':22s} {'in 95 %':22s} {'half width':>10s} "
        f"{'mean |error|':>12s} {'bias':>16s}  drift",
    ]
    for name, one in record["quantities"].items():
        shares = [_share(one["coverage50"]), _share(one["coverage95"])]
        if one["coverage_range"]:
            shares[1] = f"range {_share(one['coverage_range'])}"
        lines.append(
            f"{name:20s} {one['measured']:4d}  {shares[0]:22s} {shares[1]:22s} "
            f"{_percent(one['mean_half_width95']):>10s} {_percent(one['mean_absolute_error']):>12s} "
            f"{_bias(one):>16s}  {_drift(one['drift'])}"
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


def _drift(one: dict[str, float] | None) -> str:
    if one is None:
        return "too few"
    early, late = 100 * one["absolute_early"], 100 * one["absolute_late"]
    return f"|error| {early:.2f} % then {late:.2f} % (p = {one['p_value']:.2f})"


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _standard_error(values: np.ndarray) -> float | None:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
