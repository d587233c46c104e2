"""What a fit says of itself: everything that goes into fit.json and the report."""

import dataclasses
import math
from collections.abc import Sequence
from platform import python_version
from typing import Any

import numpy as np
from scipy import __version__ as scipy_version

from scaling.laws.allocation import FlopsPerToken, optimum
from scaling.laws.arguments import FitOptions
from scaling.laws.comparison import Score, compare, fold_masks, score, seed_noise, seed_weights
from scaling.laws.fitting import Result, fit, fit_problem
from scaling.laws.forecasting import forecast
from scaling.laws.isoflop import approaches, disagreement
from scaling.laws.profiles import Profile, standard_errors
from scaling.laws.resample import Draws
from scaling.laws.table import Table
from scaling.track import provenance

STACKED, MOST_GROUPS = 0.3, 20  # share of the residuals' variance between the values of a column


@dataclasses.dataclass(frozen=True)
class Analysis:
    """A fit and what was made from it: `draws` and `profiles` are None and () if not asked for."""

    options: FitOptions
    table: Table
    result: Result
    draws: Draws | None
    profiles: Sequence[Profile]
    cost: FlopsPerToken


def make_record(analysis: Analysis) -> dict[str, Any]:
    """Everything that goes into fit.json and the report."""
    result, draws, options = analysis.result, analysis.draws, analysis.options
    problem = result.problem
    slots = dict(zip(result.law.names, problem.slots, strict=True))
    fixed = [name for name, slot in slots.items() if not problem.free[slot]]
    # Tied parameters share the profile of the one that leads.
    ends = {problem.names.index(p.name): [p.low, p.high] for p in analysis.profiles}
    swept = {name: ends[slot] for name, slot in slots.items() if slot in ends}
    boot = draws.intervals(options.level) if draws else {}
    known = {**swept, **{name: list(interval) for name, interval in boot.items()}}
    loss = dataclasses.asdict(result.loss)
    return {
        "law": result.law.name,
        "equation": result.law.equation,
        "law_source": result.law.source,
        "parameters": result.parameters,
        "fixed": fixed,
        "intervals": {n: known[n] for n in result.parameters if n in known and n not in fixed},
        "level": options.level,
        "interval_note": _interval_note(draws),
        "standard_errors": standard_errors(result),
        "profile_intervals": swept,
        "derived": result.derived,
        "derived_intervals": {k: list(boot[k]) for k in result.derived if k in boot},
        "published": {p.label: dict(p.values) for p in result.law.published},
        "objective": result.objective,
        "gradient_norm": result.gradient_norm,
        "converged": result.converged,
        "points": result.points,
        "starts": result.starts,
        "reached": result.reached,
        "minima": [dataclasses.asdict(m) for m in result.minima],
        "at_bound": list(result.at_bound),
        "at_start": list(result.at_start),
        "excluded": [{"row": n, "reason": r} for n, r in result.excluded],
        "loss": loss if result.loss.kind == "huber" else {**loss, "delta": None},
        "conventions": result.conventions,
        "ranges": {k: list(v) for k, v in result.ranges.items()},
        "source": result.source,
        "cost": analysis.cost.name,
        **_uses(analysis),
        "seed": options.seed,
        "versions": {"python": python_version(), "scipy": scipy_version, **provenance.versions()},
    }


def _uses(analysis: Analysis) -> dict[str, Any]:
    """What the fit is good for: allocation, predictions, comparison; and all warnings."""
    result, draws, options = analysis.result, analysis.draws, analysis.options
    optima = []
    if options.budgets:
        optima = optimum(
            result,
            options.budgets,
            draws,
            cost=analysis.cost,
            inference_tokens=options.inference_tokens,
            at=options.at,
            level=options.level,
        )
    forecasts = []
    if options.predict and draws is not None:
        forecasts = [forecast(result, point, draws, options.level) for point in options.predict]
    ways, doubts = approaches(result, analysis.cost, options.seed)
    noise = seed_noise(result)
    boot = draws.intervals(options.level) if draws else {}
    apart = disagreement(ways, result.derived.get("a"), boot.get("a"))
    warnings = [*apart, *analysis.cost.warnings, *result.warnings, *_doubts(analysis)]
    warnings += [w for o in optima for w in o.warnings]
    for f in forecasts:
        point = ", ".join(f"{k} {v:.4g}" for k, v in f.variables.items())
        warnings += [f"prediction at {point}: {w}" for w in f.warnings]
    return {
        "warnings": list(dict.fromkeys([*warnings, *doubts])),
        "seed_noise": None if noise is None else {"deviation": noise[0], "freedom": noise[1]},
        "approaches": ways,
        "optimum": [{**dataclasses.asdict(o), "intervals": o.intervals or {}} for o in optima],
        "forecasts": [dataclasses.asdict(f) for f in forecasts],
        "comparison": [dataclasses.asdict(s) for s in _scores(analysis)],
    }


def _doubts(analysis: Analysis) -> list[str]:
    """What the intervals assume that does not hold."""
    result, draws = analysis.result, analysis.draws
    warnings = [w for p in analysis.profiles for w in p.warnings] + _stacked(analysis)
    if draws and draws.dropped:
        warnings.append(
            f"{draws.dropped} of {len(draws) + draws.dropped} resamples did not converge when "
            f"refitted, and are left out of the intervals"
        )
    runs = len(np.unique(result.problem.clusters))
    if draws and draws.kind == "points" and runs < result.points:
        warnings.append(
            f"{result.points} points of {runs} runs were resampled as if independent: intervals are "
            f"too narrow, use --resample=runs"
        )
    if draws and draws.kind == "runs" and draws.units < 2 * result.problem.freedom:
        warnings.append(
            f"only {draws.units} runs for {result.problem.freedom} free parameters: intervals from "
            f"resampled runs are rough"
        )
    if not draws and analysis.profiles:
        warnings.append(
            "no bootstrap was run: intervals are profiles and assume independent points"
        )
    elif not draws and result.problem.freedom:
        warnings.append(
            "neither a bootstrap nor profiles were run: the parameters have no intervals"
        )
    return warnings


def _stacked(analysis: Analysis) -> list[str]:
    """The column of words by which residuals differ most: several experiments in one table."""
    table, result = analysis.table, analysis.result
    kept = ~np.isin(table.numbers, [number for number, _ in result.excluded])
    if kept.sum() != result.points or result.points < 3 * result.problem.freedom:
        return []
    residuals = result.residuals
    total = max(float(np.sum((residuals - residuals.mean()) ** 2)), 1e-300)
    shares: list[tuple[float, int, str]] = []
    for name, cells in table.part(kept).text.items():
        codes = np.unique(np.array(cells), return_inverse=True)[1]
        counts = np.bincount(codes)
        shared = np.sum(counts > 2) > 1 and len(counts) <= MOST_GROUPS
        if shared and not np.isfinite(table.columns[name]).any():
            means = np.bincount(codes, residuals) / counts
            share = float(np.sum(counts * (means - residuals.mean()) ** 2)) / total
            shares.append((round(share, 2), -len(counts), name))
    share, _, name = max(shares, default=(0.0, 0, ""))
    if share <= STACKED:
        return []
    return [
        f"residuals differ by {name} ({share:.0%} of their variance is between its values): if they "
        f"are different experiments, --by={name} fits each by itself"
    ]


def _interval_note(draws: Draws | None) -> str:
    if draws is None:
        return "Intervals are profile likelihood; they assume independent points of equal noise."
    what = {"points": "points", "runs": "whole runs", "parametric": "Gaussian noise"}[draws.kind]
    percentiles = "expanded percentiles" if draws.squared else "plain percentiles (absolute errors)"
    return (
        f"Bootstrap: {len(draws)} resamples of {what} ({draws.units} units), each searched globally; "
        f"{percentiles}. Profiles assume independent points of equal noise: where the two "
        f"disagree, trust the bootstrap."
    )


def _scores(analysis: Analysis) -> list[Score]:
    """Errors on runs left out: of the law, and of those that --compare names."""
    result, options = analysis.result, analysis.options
    if not options.compare:
        spare = result.points - fold_masks(result.problem.clusters).sum(axis=1).max()
        enough = result.problem.freedom and spare > result.problem.freedom
        return [score(result, seed=options.seed)] if enough else []
    lean = result.problem.lean
    others = [
        fit(analysis.table, name, result.loss, lean=lean, starts=options.starts, seed=options.seed)
        for name in options.compare
        if name != result.law.name
    ]
    if options.weights == "seeds":
        others = [reweighted(other, options) for other in others]
    return compare(analysis.table, [result, *others], result.loss, seed=options.seed)


def clean(value: object) -> Any:
    """A value that strict JSON can hold: no NaN or infinity, no numpy types."""
    if isinstance(value, dict):
        return {str(k): clean(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [clean(v) for v in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def reweighted(result: Result, options: FitOptions) -> Result:
    """The fit again, with weights from the noise between its seeds."""
    problem = dataclasses.replace(result.problem, weights=seed_weights(result), lean=0.0)
    problem = problem.leaning(result.problem.lean)
    again = fit_problem(problem, starts=options.starts, seed=options.seed)
    return dataclasses.replace(
        again,
        excluded=result.excluded,
        conventions={**result.conventions, "weights": "seed noise"},
        source=result.source,
        warnings=tuple(dict.fromkeys((*result.warnings, *again.warnings))),
    )
