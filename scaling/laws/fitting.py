"""The fit: global search, local polish of many starts, and an honest account of what was found."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from scaling.laws import identify
from scaling.laws.explore import explore, joined
from scaling.laws.law import Law, LawError
from scaling.laws.losses import Loss, objective, unlink
from scaling.laws.problem import LOG_LIMIT, Array, Problem, build_problem
from scaling.laws.screen import choose, screen
from scaling.laws.solver import Solution, solve
from scaling.laws.table import Table

STARTS = 32
MINIMUM_TOLERANCE = 1e-6  # relative difference of objectives within which two minima are one
VANISHED = 1e-6  # relative change of a prediction below which a term plays no part


@dataclasses.dataclass(frozen=True)
class Minimum:
    """One distinct local minimum: its objective, parameters and how many starts ended there."""

    objective: float
    parameters: dict[str, float]
    starts: int


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """A fitted law. Arrays are over the points used, [n]; `vector` is the search vector, [p]."""

    law: Law
    problem: Problem
    vector: Array
    parameters: dict[str, float]
    derived: dict[str, float]
    objective: float
    gradient_norm: float
    converged: bool
    starts: int
    reached: float
    minima: tuple[Minimum, ...]
    at_bound: tuple[str, ...]
    at_start: tuple[str, ...]
    warnings: tuple[str, ...]
    excluded: tuple[tuple[int, str], ...]
    conventions: dict[str, str]
    ranges: dict[str, tuple[float, float]]
    source: str

    @property
    def points(self) -> int:
        """Number of points fitted."""
        return self.problem.points

    @property
    def loss(self) -> Loss:
        """What was minimised."""
        return self.problem.loss

    @property
    def residuals(self) -> Array:
        """g(prediction) - g(observation), [n]."""
        return self.problem.residuals(self.vector)

    @property
    def predicted(self) -> Array:
        """Predictions in the units of the target, [n]."""
        return unlink(self.loss.space, self.residuals + self.problem.linked_target())

    def predict(self, **variables: Any) -> Array:
        """Point predictions at other values of the variables (see `forecast` for intervals)."""
        return self.law.evaluate(self.parameters, variables)

    def with_warnings(self, *extra: str) -> Result:
        """A copy with further warnings."""
        fresh = [w for w in extra if w not in self.warnings]
        return dataclasses.replace(self, warnings=(*self.warnings, *fresh))


def fit(
    table: Table | Mapping[str, Any],
    law: Law | str,
    loss: Loss | None = None,
    *,
    weights: Array | None = None,
    fix: Mapping[str, float] | None = None,
    tie: Mapping[str, str] | None = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    starts: int = STARTS,
    seed: int = 0,
) -> Result:
    """Fit a law to a table (or a mapping of columns).

    The default loss is Huber with delta 1e-3 in the law's own space (log for loss laws), summed.
    `weights` are per row of the table and override its `weight` column. Raises LawError for tables
    that cannot be fitted: missing columns, fewer points than free parameters, no valid row.
    """
    from scaling.laws import get_law

    law = get_law(law) if isinstance(law, str) else law
    loss = loss or Loss(space=law.space)
    if not isinstance(table, Table):
        table = Table.from_columns(table)
    if weights is not None:
        table = table.with_column("weight", np.asarray(weights, np.float64))
    prepared = table.prepare(law, loss)
    problem = build_problem(
        law, prepared.variables, prepared.target, loss, prepared.weights, prepared.clusters,
        fix=fix, tie=tie, bounds=bounds,
    )  # fmt: skip
    _check_size(problem)
    result = fit_problem(problem, starts=starts, seed=seed)
    return dataclasses.replace(
        result,
        warnings=(*prepared.warnings, *result.warnings),
        excluded=prepared.excluded,
        conventions=prepared.conventions,
        source=prepared.source,
    )


def fit_problem(problem: Problem, *, starts: int = STARTS, seed: int = 0) -> Result:
    """Fit a prepared problem: screen, polish, and describe every minimum found."""
    if problem.freedom == 0:
        vectors, random = problem.base[None, :].copy(), np.array([True])
    else:
        vectors, random = choose(screen(problem, seed=seed), max(starts - 1, 1), seed)
        # The middle of the start ranges guards against a screen that misleads (outliers).
        vectors = np.concatenate([vectors, problem.base[None, :]])
        random = np.append(random, False)
    solution = solve(problem, vectors)
    if not np.isfinite(solution.values).any():
        raise LawError(
            f"law {problem.law.name}: no start gives a finite objective on this table; check that "
            f"the variables and the target are positive and in the stated units, or give --bounds"
        )
    if problem.loss.kind != "lsq" and len(_distinct(problem, solution)) > 1:
        more, further = explore(problem, solution)
        vectors, solution = np.concatenate([vectors, more]), joined([solution, further])
        random = np.append(random, np.zeros(len(more), bool))
    return _describe(problem, vectors, random, solution)


def _check_size(problem: Problem) -> None:
    if problem.points < problem.freedom:
        raise LawError(
            f"{problem.points} usable points cannot determine {problem.freedom} free parameters "
            f"{list(problem.free_names)} of law {problem.law.name}: add runs, or fix some "
            f"(--fix=NAME=VALUE) or tie some (--tie=NAME=NAME)"
        )


def _describe(problem: Problem, starts: Array, random: Array, solution: Solution) -> Result:
    best = int(np.argmin(np.where(np.isfinite(solution.values), solution.values, np.inf)))
    vector = solution.vectors[best]
    level = float(solution.values[best])
    floor = 1e-12 * float(np.sum(problem.weights)) * problem.spread() ** 2 * 1e-12
    same = solution.values <= level * (1 + 1e-4) + floor
    minima = _distinct(problem, solution)
    parameters = {k: float(v) for k, v in problem.natural(vector).items()}
    residuals = problem.residuals(vector)
    bounded = _at_bound(problem, vector)
    still = tuple(
        n
        for i, n in enumerate(problem.names)
        if problem.free[i] and abs(vector[i] - starts[best, i]) < 1e-12 and n not in bounded
    )
    exact = np.max(np.abs(residuals)) < 1e-9
    converged = bool(solution.converged[best] or solution.gradients[best] < 1e-6 or exact)
    warnings = _warnings(problem, vector, minima, bounded, still, converged, residuals)
    reached = float(np.mean(same[random])) if random.any() else float(np.mean(same))
    return Result(
        law=problem.law,
        problem=problem,
        vector=vector,
        parameters=parameters,
        derived=derive(problem.law, parameters),
        objective=objective(residuals, problem.weights, problem.loss),
        gradient_norm=float(solution.gradients[best]),
        converged=converged,
        starts=len(starts),
        reached=reached,
        minima=minima,
        at_bound=bounded,
        at_start=still,
        warnings=tuple(warnings),
        excluded=(),
        conventions={},
        ranges={
            **{k: (float(v.min()), float(v.max())) for k, v in problem.variables.items()},
            problem.law.target.name: (float(problem.target.min()), float(problem.target.max())),
        },
        source="",
    )


def derive(law: Law, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Derived quantities of a law (exponents of the optimum, for instance) from its parameters.

    NaN or infinity where they do not exist, as the exponents of a law whose terms all vanished.
    """
    from scaling.laws.law import Namespace

    numbers = {k: np.asarray(v, np.float64)[()] for k, v in parameters.items()}
    with np.errstate(all="ignore"):
        values = {k: f(Namespace(**numbers)) for k, f in law.derived.items()}
    return {k: (float(v) if np.ndim(v) == 0 else np.asarray(v)) for k, v in values.items()}


def _distinct(problem: Problem, solution: Solution) -> tuple[Minimum, ...]:
    """Converged end points, grouped by objective, best first; at most eight."""
    usable = np.flatnonzero(np.isfinite(solution.values) & (solution.gradients < 1e-5))
    order = usable[np.argsort(solution.values[usable], kind="stable")]
    found: list[Minimum] = []
    tiny = 1e-20 * float(np.sum(problem.weights))
    for row in order:
        value = float(solution.values[row])
        if found and value - found[-1].objective <= MINIMUM_TOLERANCE * abs(value) + tiny:
            found[-1] = dataclasses.replace(found[-1], starts=found[-1].starts + 1)
            continue
        natural = {k: float(v) for k, v in problem.natural(solution.vectors[row]).items()}
        found.append(Minimum(value, natural, 1))
    return tuple(found[:8])


def _at_bound(problem: Problem, vector: Array) -> tuple[str, ...]:
    """Free parameters at a bound, or (positive ones) so small that their term has vanished."""
    names = []
    jacobian = problem.jacobian(vector)
    for i, name in enumerate(problem.names):
        if not problem.free[i]:
            continue
        span = 1e-9 * max(1.0, abs(vector[i]))
        at_edge = vector[i] <= problem.low[i] + span or vector[i] >= problem.high[i] - span
        gone = problem.kinds[i] == "log" and np.max(np.abs(jacobian[:, i])) < VANISHED
        if at_edge or gone:
            names.append(name)
    return tuple(names)


def _warnings(
    problem: Problem, vector: Array, minima: tuple[Minimum, ...], bounded: tuple[str, ...],
    still: tuple[str, ...], converged: bool, residuals: Array,
) -> list[str]:  # fmt: skip
    warnings = []
    spare = problem.points - problem.freedom
    if spare < 3:
        warnings.append(
            f"only {problem.points} points for {problem.freedom} free parameters: intervals and "
            f"extrapolation cannot be trusted"
        )
    if not converged:
        warnings.append("the best start did not converge: parameters are provisional")
    for name in bounded:
        i = problem.names.index(name)
        value = problem.natural(vector)[name]
        inside = problem.low[i] + 1e-6 < vector[i] < problem.high[i] - 1e-6
        if inside or vector[i] <= -0.99 * LOG_LIMIT:
            warnings.append(f"{name} = {value:.3g} plays no part: the data do not support its term")
        else:
            warnings.append(f"{name} = {value:.6g} is at the bound of its range")
    if still and converged and np.max(np.abs(residuals)) > 1e-9:
        warnings.append(f"{', '.join(still)} never left the start: the data do not move it")
    if len(minima) > 1:
        gap = minima[1].objective / max(minima[0].objective, 1e-300) - 1
        warnings.append(
            f"{len(minima)} distinct local minima; the second is {100 * gap:.3g} % above the best"
        )
    scale = float(np.std(problem.linked_target()))
    if scale > 0 and np.std(residuals) > 0.5 * scale and problem.points > 3:
        warnings.append(
            "the law explains less than half of the spread of the target: wrong law or columns?"
        )
    return [*warnings, *identify.warnings(problem, vector)]
