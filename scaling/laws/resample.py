"""Resampling: pairs, whole runs, or new noise; every resample searched globally and polished.

Points of one training run are not independent, so tables with a `run_id` that repeats are
resampled by run. A resample is a vector of weights on the same points, so thousands of fits share
one screen (matrix products) and one compiled solver.
"""

import dataclasses
from typing import Any, Literal

import numpy as np
from scipy import stats

from scaling.laws.combined import joined
from scaling.laws.fitting import Result, derive
from scaling.laws.law import LawError
from scaling.laws.problem import Array, Problem
from scaling.laws.screen import screen_resamples
from scaling.laws.solver import solve

FIRST_STEPS, MORE_STEPS = 60, (300, 2000)  # of all starts; of the best of each lane
PILOT = 60  # resamples that try every start: what wins for a twentieth is missed in 5 % of tables
WINS = 1e-6  # relative difference of objectives that makes a start better than those before it
ENOUGH = 1e-10  # relative fall of the objective that moves a resample by less than 1 % of its error
FLAT = 1e-5  # scaled gradient of a resample that counts as converged

Kind = Literal["points", "runs", "parametric"]


@dataclasses.dataclass(frozen=True, eq=False)
class Draws:
    """Fits of resamples: `vectors` [R, p], parameters and derived quantities as arrays [R].

    Resamples that did not converge, however often refitted, are left out: `dropped` counts them.
    `units` independent observations were resampled, `freedom` parameters fitted; `squared` says
    that the loss is squared error for most residuals, `effective_share` how much of the points the
    weights that lean on large runs leave in effect.
    """

    kind: str
    vectors: Array
    parameters: dict[str, Array]
    derived: dict[str, Array]
    dropped: int
    units: int
    freedom: int
    seed: int
    squared: bool = True
    effective_share: float = 1.0

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def converged(self) -> float:
        """Share of the resamples that converged, and so are here."""
        return len(self) / (len(self) + self.dropped)

    @property
    def values(self) -> dict[str, Array]:
        """Parameters and derived quantities together."""
        return {**self.parameters, **self.derived}

    def standard_errors(self) -> dict[str, float]:
        """Standard deviation over resamples (ddof 1)."""
        return {k: float(np.std(v, ddof=1)) for k, v in self.values.items()}

    def intervals(self, level: float = 0.95) -> dict[str, tuple[float, float]]:
        """Percentile intervals of every parameter and derived quantity; see `interval`."""
        return {k: self.interval(v, level) for k, v in self.values.items()}

    def levels(self, level: float) -> tuple[float, float]:
        """The quantiles between which an interval lies; see `interval`."""
        if self.squared:
            return expanded_percentiles(level, self.effective_share * self.units, self.freedom)
        return (1 - level) / 2, (1 + level) / 2

    def interval(self, values: Array, level: float = 0.95) -> tuple[float, float]:
        """Percentiles of `values` [R], widened for small samples where errors are squared.

        Squares: the percentile interval uses normal quantiles and the variance of n, not n - p,
        points; Hesterberg (2015, arXiv 1411.5279, section 3.3) corrects both by moving the
        percentiles. Absolute errors (Huber with a delta below the noise) have the opposite fault:
        resampling pairs overstates their spread (by 1.1 at 90 points, 1.4 at 25, five parameters),
        so their percentiles are left alone.
        """
        low, high = self.levels(level)
        finite = values[np.isfinite(values)]
        if not len(finite):
            return (float("nan"), float("nan"))
        return (float(np.quantile(finite, low)), float(np.quantile(finite, high)))


def expanded_percentiles(level: float, units: float, freedom: int) -> tuple[float, float]:
    """The two quantile levels for `units` independent observations and `freedom` parameters."""
    spare = max(units - freedom, 1)
    reach = np.sqrt(units / spare) * stats.t.ppf(0.5 + level / 2, spare)
    tail = float(stats.norm.cdf(-reach))
    return tail, 1 - tail


def resample_counts(clusters: Array, resamples: int, seed: int) -> Array:
    """How often each point is drawn, [R, n], when whole clusters are drawn with replacement."""
    _, codes = np.unique(clusters, return_inverse=True)
    groups = int(codes.max()) + 1
    generator = np.random.default_rng(seed)
    counts = generator.multinomial(groups, np.full(groups, 1 / groups), size=resamples)
    return counts[:, codes].astype(np.float64)


def bootstrap(
    result: Result,
    resamples: int = 1000,
    kind: Kind | None = None,
    *,
    seed: int = 0,
    counts: Array | None = None,
) -> Draws:
    """Refit resamples of the data of `result`.

    `kind` "points" draws points, "runs" draws clusters (the default when any run has several
    points), "parametric" keeps the points and draws Gaussian noise of the estimated (robust)
    scale. `counts`, [R, n], gives the resamples explicitly.
    """
    problem = result.problem
    units = len(np.unique(problem.clusters))
    if kind is None:
        kind = "runs" if units < problem.points else "points"
    if kind not in ("points", "runs", "parametric"):
        raise LawError(f"bootstrap kind {kind!r} is not one of points, runs, parametric")
    if problem.freedom == 0:
        raise LawError("every parameter is fixed: nothing to resample")
    units = units if kind == "runs" else problem.points
    if kind == "parametric":
        vectors, converged = _parametric(result, resamples, seed)
    else:
        if counts is None:
            owners = problem.clusters if kind == "runs" else np.arange(problem.points)
            counts = resample_counts(owners, resamples, seed)
        vectors, converged = refit(result, counts * problem.weights, seed)
    dropped = int(np.sum(~converged))
    if 2 * dropped > len(vectors):
        raise LawError(
            f"{dropped} of {len(vectors)} resamples of law {problem.law.name} did not converge: "
            f"take a law with fewer parameters, fix one (--fix=NAME=VALUE), or do without "
            f"(--bootstrap=0)"
        )
    vectors = vectors[converged]
    parameters = problem.natural(vectors)
    derived = {
        k: np.broadcast_to(v, len(vectors)) for k, v in derive(problem.law, parameters).items()
    }
    squares = {"lsq": np.inf, "l1": 0.0}.get(result.loss.kind, result.loss.delta)
    return Draws(
        kind,
        vectors,
        parameters,
        derived,
        dropped,
        units,
        problem.freedom,
        seed,
        squared=kind == "parametric" or bool(np.median(np.abs(result.residuals)) < squares),
        effective_share=problem.effective / problem.points,
    )


def refit(
    result: Result, weights: Array, seed: int = 0, search: bool = True
) -> tuple[Array, Array]:
    """Fits under other weights, [R, n]: (vectors [R, p], which converged [R]).

    Each is the best of: from the full-data fit, from its other minima, from its own screen.
    """
    if result.members:
        ends = [refit(member, weights, seed, search) for member in result.members]
        return _together(result.problem, ends)
    problem = result.problem
    others = [problem.vector(minimum.parameters) for minimum in result.minima[1:3]]
    starts = [np.tile(vector, (len(weights), 1)) for vector in (result.vector, *others)]
    if search:
        starts.append(screen_resamples(problem, weights, seed))
    return _best(problem, starts, weights=weights)


def _best(problem: Problem, starts: list[Array], **given: Array) -> tuple[Array, Array]:
    """The lowest end of each lane over several starts, [R, p], and which of them converged, [R].

    `given` are the weights or the observations of every lane, see `solve`.

    All lanes go to their end from the first start, the full fit. Then the first few try the others,
    for a few steps, and the rest those that won. They are judged against lanes that have converged:
    in a valley any start comes out a little below one that has not.
    """
    count = len(starts[0])
    vectors, reached = starts[0].copy(), np.full(count, np.inf)
    ended, good = np.zeros((2, count), bool)

    def run(lanes: Array, begin: Array, max_steps: int) -> Array:
        """Polishes from `begin`, [m, p]; returns which lanes, [m], are lower than before."""
        rows: dict[str, Any] = {k: v[lanes] for k, v in given.items()}
        end = solve(problem, begin, **rows, warm=True, max_steps=max_steps, enough=ENOUGH)
        lower = end.values <= reached[lanes] * (1 + 1e-12)
        wins = end.values < reached[lanes] * (1 - WINS)
        vectors[lanes[lower]], reached[lanes[lower]] = end.vectors[lower], end.values[lower]
        ended[lanes] = np.where(lower, end.converged, ended[lanes])
        good[lanes] = np.where(lower, end.converged | (end.gradients < FLAT), good[lanes])
        return wins

    def go_on(lanes: Array, max_steps: int) -> None:
        if len(lanes):
            run(lanes, vectors[lanes], max_steps)

    run(np.arange(count), starts[0], FIRST_STEPS)
    go_on(np.flatnonzero(~ended), MORE_STEPS[0])
    pilot, rest = np.arange(min(PILOT, count)), np.arange(PILOT, count)
    for start in starts[1:]:
        if run(pilot, start[pilot], FIRST_STEPS).any() and len(rest):
            run(rest, start[rest], FIRST_STEPS)
    for max_steps in MORE_STEPS:
        go_on(np.flatnonzero(~good), max_steps)
    return vectors, good


def _parametric(result: Result, resamples: int, seed: int) -> tuple[Array, Array]:
    problem, r = result.problem, result.residuals
    generator = np.random.default_rng(seed)
    noise = 1.4826 * np.median(np.abs(r))  # robust: by the median absolute deviation
    if result.loss.kind == "lsq":
        noise = np.sqrt(np.average(r * r, weights=problem.weights))
    noise = float(noise * np.sqrt(problem.points / max(problem.points - problem.freedom, 1)))
    spread = noise / np.sqrt(problem.weights / problem.weights.mean())
    observed = (
        r
        + problem.linked_target()
        + spread * generator.standard_normal((resamples, problem.points))
    )
    ends = [
        _best(one.problem, [np.tile(one.vector, (resamples, 1))], observed=observed)
        for one in result.members or (result,)
    ]
    if not result.members:
        return ends[0]
    return _together(problem, ends)


def _together(problem: Problem, ends: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Of the members of a combination: vectors of all, and where every member converged."""
    return joined(problem, [v for v, _ in ends]), np.all([good for _, good in ends], axis=0)
