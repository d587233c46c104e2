"""Approaches 1 and 2 of Hoffmann et al. (2022): the envelope of training curves, isoFLOP minima.

Both estimate N*(C) without a form for the loss, so both depend on how the runs were placed; the
diagnostics (minimum at the edge, too few points, off-centre sampling, dependence on the window)
are part of the result.
"""

import collections
import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from scaling.laws.allocation import FlopsPerToken
from scaling.laws.fitting import Result
from scaling.laws.law import LawError
from scaling.laws.problem import Array

WIDTH = 0.35  # runs of one budget spread over less than this in ln C
ROUNDING = 0.02  # in ln C: nominal budgets are met to this at best, smaller gaps say nothing
CLEAR = 2.0  # times as wide as the gaps inside budgets are the gaps between them
# Times outside the sampled sizes from which on a fitted minimum says nothing. On the 15 isoFLOP
# tables of Porian et al. exponents are off the authors' by 0.05 in the mean; with 10 by 0.13.
FAR = 1.5
OFF_CENTRE = 0.5
SIZES = 4  # model sizes that make a group of runs a budget of an isoFLOP design
WINDOWS = {"all": None, "2.0": 2.0, "1.4": 1.4, "1.0": 1.0, "0.7": 0.7}  # half widths in ln N
RESAMPLES = 200  # of `approaches`
ENVELOPE = 1500  # budgets at which the envelope is read off
UNKNOWN = (math.nan, math.nan)


@dataclasses.dataclass(frozen=True)
class IsoflopMinimum:
    """The isoFLOP minimum of one budget.

    `sizes` are the smallest and largest sampled, `curve` the parabola's coefficients in ln N.
    """

    flops: float
    params: float
    loss: float
    points: int
    sizes: tuple[float, float]
    curve: tuple[float, ...]
    warnings: tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class PowerLaw:
    """N* = exp(intercept) C^exponent over budgets, with bootstrap intervals of the exponent."""

    exponent: float
    intercept: float
    interval: tuple[float, float]
    minima: tuple[IsoflopMinimum, ...]
    windows: dict[str, float]
    warnings: tuple[str, ...]


def group_budgets(flops: Array) -> Array:
    """Budget number of each point, [n], ascending.

    Budgets end at the gaps in ln C, where these fall into narrow and wide ones. Runs that no gap
    divides are cut into the fullest windows of WIDTH, taken one after another, so that runs whose
    compute only scatters around a nominal budget stay together and stray runs stay apart.
    """
    order = np.argsort(flops, kind="stable")
    log_c = np.log(flops)[order]
    gaps = np.diff(log_c)
    steps = np.sort(np.clip([ROUNDING, *gaps, WIDTH], ROUNDING, WIDTH))
    jump = int(np.argmax(steps[1:] / steps[:-1]))
    clear = steps[jump + 1] >= CLEAR * steps[jump]
    widest = math.sqrt(steps[jump] * steps[jump + 1]) if clear else WIDTH
    codes, groups = np.empty(len(flops), int), 0
    for rows in np.split(np.arange(len(flops)), np.flatnonzero(gaps > widest) + 1):
        inside = _windows(log_c[rows])
        codes[order[rows]] = groups + inside
        groups += int(inside.max(initial=-1)) + 1
    return codes


def _windows(log_c: Array) -> Array:
    """Numbers, [n], ascending, of the fullest windows of WIDTH in sorted `log_c`."""
    left, owner = np.ones(len(log_c), bool), np.full(len(log_c), -1)
    centres: list[float] = []
    while left.any():
        values = log_c[left]
        counts = np.searchsorted(values, values + WIDTH, "right") - np.arange(len(values))
        start = values[int(np.argmax(counts))]
        rows = left & (log_c >= start) & (log_c <= start + WIDTH)
        owner[rows] = len(centres)
        centres.append(float(log_c[rows].mean()))
        left &= ~rows
    return np.argsort(np.argsort(centres, kind="stable"), kind="stable")[owner]


def designed(codes: Array, params: Array) -> list[int]:
    """The budgets among `group_budgets`' numbers that were sampled at SIZES model sizes or more."""
    return [int(k) for k in np.unique(codes) if len(np.unique(params[codes == k])) >= SIZES]


def parabola(log_params: Array, loss: Array, window: float | None) -> tuple[Array, Array]:
    """Least-squares parabola near the lowest point; returns (coefficients [3], points used)."""
    keep = np.ones(len(loss), bool)
    if window is not None:
        # At least the three nearest sizes: of three runs, two may be of one size.
        lowest = log_params[np.argmin(loss)]
        third = np.sort(np.abs(np.unique(log_params) - lowest))[2]
        keep = np.abs(log_params - lowest) <= max(window, third)
    centre = log_params[keep].mean()
    a, b, c = np.polyfit(log_params[keep] - centre, loss[keep], 2)
    return np.array([a, b - 2 * a * centre, c - b * centre + a * centre**2]), keep


def minimum(
    params: Array, loss: Array, flops: float, window: float | None = None
) -> IsoflopMinimum:
    """Where the loss is lowest in ln N at one budget, with its diagnostics."""
    x, warnings = np.log(params), []
    distinct = len(np.unique(x))
    if distinct < 3:
        raise LawError(
            f"budget {flops:.3g} FLOP has {distinct} model sizes; a minimum needs at least 3"
        )
    if distinct < 5:
        warnings.append(f"only {distinct} model sizes")
    ends = {x.min(): "smallest", x.max(): "largest"}
    if side := ends.get(x[np.argmin(loss)]):
        warnings.append(f"the lowest loss is at the {side} model: extend the grid")
    curve, keep = parabola(x, np.log(loss), window)
    used, upwards = x[keep], curve[0] > 0
    best = -curve[1] / (2 * curve[0]) if upwards else np.nan
    value = float(np.exp(np.polyval(curve, best)))
    centre, half = 0.5 * (used.max() + used.min()), 0.5 * (used.max() - used.min())
    if not upwards:
        warnings.append("the losses do not curve upwards: no minimum")
    elif not x.min() <= best <= x.max():
        warnings.append("the fitted minimum lies outside the sampled sizes")
    if upwards and abs(best - centre) > OFF_CENTRE * half:
        warnings.append("sampling is off-centre: a parabola is biased there")
    sizes = (float(params.min()), float(params.max()))
    best = float(np.exp(min(best, 700.0)))
    return IsoflopMinimum(
        flops, best, value, len(loss), sizes, tuple(curve.tolist()), tuple(warnings)
    )


def approach2(
    params: Array, loss: Array, flops: Array, *, resamples: int = 500, seed: int = 0
) -> PowerLaw:
    """Minima of every budget and the power law through them.

    The interval resamples runs within budgets. `windows` shows the exponent for several windows in
    ln N: if they disagree, so does the answer.
    """
    params, loss, flops = (np.asarray(v, np.float64) for v in (params, loss, flops))
    codes = group_budgets(flops)

    def minima(
        window: float | None, rng: np.random.Generator | None = None
    ) -> list[IsoflopMinimum]:
        """The minimum of each budget of 3 sizes; with `rng`, of its runs drawn anew."""
        lowest = []
        for k in range(codes.max() + 1):
            rows = np.flatnonzero(codes == k)
            drawn = rows if rng is None else rng.choice(rows, len(rows))
            if len(np.unique(params[drawn])) >= 3:
                budget = float(np.exp(np.mean(np.log(flops[rows]))))
                lowest.append(minimum(params[drawn], loss[drawn], budget, window))
        return lowest

    every = minima(None)
    warnings = [f"budget {m.flops:.3g} FLOP: {w}" for m in every for w in m.warnings]
    if thin := len(params) - sum(m.points for m in every):
        warnings.append(f"{thin} runs belong to no budget with 3 model sizes and were not used")
    usable = _near(every)
    if far := len(every) - len(usable):
        warnings.append(f"{far} budgets have no minimum near the sampled sizes and were not used")
    if len(usable) < 2:
        raise LawError(
            f"{len(usable)} budgets have a minimum; an exponent needs at least 2. Reasons: "
            + "; ".join(warnings[:3])
        )
    exponent, intercept = _line(usable)
    rng = np.random.default_rng(seed)
    draws = [_exponent(minima(None, rng)) for _ in range(resamples)]
    good = [d for d in draws if d is not None]
    interval = tuple(np.quantile(good, (0.025, 0.975)).tolist()) if len(good) > 20 else UNKNOWN
    if len(good) < 0.95 * resamples:
        warnings.append(f"{resamples - len(good)} of {resamples} resamples gave no exponent")
    windows = {label: _exponent(minima(width)) for label, width in WINDOWS.items()}
    known = {label: value for label, value in windows.items() if value is not None}
    low, high = min(known.values(), default=0.0), max(known.values(), default=0.0)
    if high - low > 0.03:
        warnings.append(f"the exponent depends on the window: {low:.3f} to {high:.3f}")
    if len(usable) < 4:
        warnings.append(f"only {len(usable)} budgets")
    return PowerLaw(exponent, intercept, interval, tuple(every), known, tuple(warnings))


def _exponent(minima: Sequence[IsoflopMinimum]) -> float | None:
    """Through the minima near the sampled sizes; None with fewer than 2."""
    near = _near(minima)
    return _line(near)[0] if len(near) >= 2 else None


def _near(minima: Sequence[IsoflopMinimum]) -> list[IsoflopMinimum]:
    """The one rule for estimate, windows and resamples: within FAR of the sampled sizes."""
    return [m for m in minima if m.sizes[0] / FAR < m.params < m.sizes[1] * FAR]


def _line(minima: Sequence[IsoflopMinimum]) -> tuple[float, float]:
    logs = np.log([(m.flops, m.params) for m in minima])
    slope, intercept = np.polyfit(logs[:, 0], logs[:, 1], 1)
    return float(slope), float(intercept)


def approach1(
    params: Array, flops: Array, loss: Array, runs: Array, *, resamples: int = 200, seed: int = 0
) -> PowerLaw:
    """The envelope: at many budgets the lowest loss of any run, then a line in logarithms.

    Points of one run (same `runs` label) are a training curve, interpolated in ln C. The interval
    resamples runs; neighbouring budgets share runs, so it is much wider than the line's own error.
    """
    params, flops, loss = (np.asarray(v, np.float64) for v in (params, flops, loss))
    labels = np.unique(np.asarray(runs).astype(str), return_inverse=True)[1]
    curves = []
    for k in range(labels.max() + 1):
        rows = np.flatnonzero(labels == k)
        rows = rows[np.argsort(flops[rows])]
        if len(rows) >= 2:
            curves.append((float(np.log(params[rows[0]])), np.log(flops[rows]), loss[rows]))
    if len(curves) < 3:
        raise LawError(
            f"{len(curves)} runs have several points; the envelope needs training curves of at "
            f"least 3 runs (run_id, and flops and loss along training)"
        )
    ends = [(log_c[0], log_c[-1]) for _, log_c, _ in curves]
    budgets = np.linspace(np.min(ends), np.max(ends), ENVELOPE)
    values = np.stack([np.interp(budgets, c, y, left=np.inf, right=np.inf) for _, c, y in curves])
    sizes = np.array([size for size, _, _ in curves])

    def line(chosen: Array) -> tuple[float, float]:
        best = chosen[np.argmin(values[chosen], axis=0)]
        size = sizes[best]
        # Where the smallest or the largest model wins, a better size was not on offer.
        inside = (size > sizes[chosen].min()) & (size < sizes[chosen].max())
        rows = inside & np.isfinite(values[best, np.arange(ENVELOPE)])
        if len(np.unique(size[rows])) < 2:
            return UNKNOWN
        slope, intercept = np.polyfit(budgets[rows], size[rows], 1)
        return float(slope), float(intercept)

    exponent, intercept = line(np.arange(len(curves)))
    if not np.isfinite(exponent):
        raise LawError("fewer than 2 sizes inside the sampled range touch the envelope")
    rng = np.random.default_rng(seed)
    draws = [line(rng.choice(len(curves), len(curves)))[0] for _ in range(resamples)]
    low, high = np.nanquantile(draws, (0.025, 0.975)).tolist()
    winners = len(np.unique(np.argmin(values, axis=0)))
    warnings = [f"only {winners} runs touch the envelope"] if winners < 6 else []
    return PowerLaw(exponent, intercept, (low, high), (), {}, tuple(warnings))


def approaches(
    result: Result, cost: FlopsPerToken, seed: int = 0
) -> tuple[list[dict[str, Any]], list[str]]:
    """Approaches 1 and 2 as far as the runs allow, for fit.json, and what is doubtful of them.

    A fit of params and tokens is approach 3; three answers that agree are worth more than one.
    """
    columns, target = result.problem.variables, result.problem.target
    if not {"params", "tokens"} <= set(columns) or not np.all(target > 0):
        return [], []
    params, runs = columns["params"], result.problem.clusters
    flops = cost.spent(params, columns["tokens"])
    attempts: list[tuple[str, Callable[..., PowerLaw], tuple[Array, ...]]] = []
    if len(designed(group_budgets(flops), params)) >= 2:
        attempts.append(("isoFLOP minima (approach 2)", approach2, (params, target, flops)))
    if len(np.unique(runs)) < len(runs):
        name = "envelope of training curves (approach 1)"
        attempts.append((name, approach1, (params, flops, target, runs)))
    records, doubts = [], []
    for name, estimate, given in attempts:
        try:
            line = estimate(*given, resamples=RESAMPLES, seed=seed)
        except LawError as error:
            if "approach 2" in name:  # there are budgets; training curves may just be few
                doubts.append(f"{name}: {error}")
            continue
        record = dataclasses.asdict(line)
        coefficient = math.exp(record.pop("intercept"))
        records.append({"approach": name, "coefficient": coefficient, **record})
        doubts += [f"{name}: {text}" for text in _doubts(line)]
    return records, doubts


def disagreement(
    ways: Sequence[Mapping[str, Any]], exponent: float | None, interval: Sequence[float] | None
) -> list[str]:
    """A warning when the intervals of two approaches do not meet; `exponent` is approach 3's."""
    known = [(w["approach"], w["exponent"], w["interval"]) for w in ways]
    if exponent is not None and interval is not None:
        known.append(("the fitted law (approach 3)", exponent, interval))
    apart = any(
        a[0] > b[1] or b[0] > a[1] for (_, _, a), (_, _, b) in itertools.combinations(known, 2)
    )
    if not apart:
        return []
    answers = "; ".join(f"{name} {e:.3f} [{low:.3f}, {high:.3f}]" for name, e, (low, high) in known)
    return [
        f"the approaches disagree on N* ~ C^a beyond their intervals: {answers}; no allocation is "
        f"safe until it is known why (see the doubts of each)"
    ]


def _doubts(line: PowerLaw) -> list[str]:
    """One line for all budgets that share a fault, then what concerns the whole line."""
    doubts = [w for w in line.warnings if not w.startswith("budget ")]
    flagged = [m for m in line.minima if m.warnings]
    if flagged:
        reasons = collections.Counter(w for m in flagged for w in m.warnings).most_common()
        text = "; ".join(f"{reason} ({count})" for reason, count in reasons)
        doubts.insert(0, f"{len(flagged)} of {len(line.minima)} budgets are doubtful: {text}")
    return doubts
