"""The fit: global search, local polish of many starts, and what can and cannot be trusted in it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from scaling.laws import leaning
from scaling.laws.catalogue import get_law
from scaling.laws.combined import joined, parts
from scaling.laws.law import Law, LawError, Namespace
from scaling.laws.losses import Loss, objective, unlink
from scaling.laws.problem import LOG_LIMIT, Array, Problem, build_problem
from scaling.laws.screen import choose, screen
from scaling.laws.solver import Solution, solve
from scaling.laws.table import Table

STARTS = 32
MINIMUM_TOLERANCE = 1e-6  # relative difference of objectives within which two minima are one
TUNING = 1.345  # robust standard deviations; 95 % efficient on Gaussian noise (Huber 1964)
VANISHED = 1e-6  # relative change of a prediction below which a term plays no part
WEAK, BLIND = 1e3, 1e8  # condition numbers of a weak direction, and of one that is not determined

# The second look around a minimum: standard errors along each axis, both ways; how often; and the
# relative fall of the objective below which it ends.
DISTANCES = (0.25, 0.5, 1.0, 2.0, 4.0)
ROUNDS, GAIN = 4, 1e-9
# On a long table, whose steps are dear and whose shallow minima few, only the best of them go on.
LONG, SURVIVORS = 512, 8


@dataclasses.dataclass(frozen=True)
class LocalMinimum:
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
    minima: tuple[LocalMinimum, ...]
    at_bound: tuple[str, ...]
    at_start: tuple[str, ...]
    ranges: dict[str, tuple[float, float]]
    warnings: tuple[str, ...] = ()
    excluded: tuple[tuple[int, str], ...] = ()
    conventions: dict[str, str] = dataclasses.field(default_factory=dict)
    source: str = ""
    members: tuple["Result", ...] = ()

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

    def predict(self, **variables: ArrayLike) -> Array:
        """Point predictions at other values of the variables (see `forecast` for intervals)."""
        return self.law.evaluate(self.parameters, variables)


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
    adapt: bool = False,
    lean: float | None = None,
) -> Result:
    """Fit a law to a table (or a mapping of columns).

    The default loss is Huber with delta 1e-3 in the law's own space (log for loss laws), summed:
    the convention of the papers. `adapt` chooses delta from the residuals instead, see
    `noise_delta`; `conventions["delta"]` says which it was. `lean` is the power of compute in the
    weights, see `leaning`: None chooses it for a combination of laws, which is there for
    forecasts, and is 0 for one law.
    `weights` are per row of the table and override its `weight` column. Raises LawError for tables
    that cannot be fitted: missing columns, fewer points than free parameters, no valid row.
    """
    law = get_law(law) if isinstance(law, str) else law
    loss = loss or Loss(space=law.space)
    if not isinstance(table, Table):
        table = Table.from_columns(table)
    if weights is not None:
        table = table.with_column("weight", np.asarray(weights, np.float64))
    table, warnings = table.prepare(law, loss)
    target, rows = table.columns[law.target.name], (table.weights, table.clusters)
    problem = build_problem(
        law, table.columns, target, loss, *rows, fix=fix, tie=tie, bounds=bounds
    )
    if problem.points < problem.freedom:
        raise LawError(
            f"{problem.points} usable points cannot determine {problem.freedom} free parameters "
            f"{list(problem.free_names)} of law {law.name}: add runs, or fix some "
            f"(--fix=NAME=VALUE) or tie some (--tie=NAME=NAME)"
        )
    if lean is None:
        lean = leaning.power_for(problem.compute, problem.freedom) if law.members else 0.0
    problem = problem.leaning(lean)
    conventions = dict(table.notes)
    if lean:
        conventions["lean"] = (
            f"weights grow as compute^{lean:.3g}: {problem.effective:.3g} effective points of "
            f"{problem.points}"
        )
    if loss.kind == "huber":
        whose = "the papers'" if loss.delta == Loss.delta else "as given"
        conventions["delta"] = f"{loss.delta:g}, {whose}"
        if adapt and problem.freedom:
            delta = noise_delta(problem, starts, seed)
            problem = dataclasses.replace(problem, loss=dataclasses.replace(loss, delta=delta))
            conventions["delta"] = f"{delta:.3g}, from the residuals of a least-squares fit"
    result = fit_problem(problem, starts=starts, seed=seed)
    return dataclasses.replace(
        result,
        warnings=(*warnings, *result.warnings),
        excluded=table.excluded,
        conventions=conventions,
        source=table.source,
    )


def noise_delta(problem: Problem, starts: int = STARTS, seed: int = 0) -> float:
    """Huber's delta for the noise of a table: `TUNING` robust deviations, at least the loss's own.

    The deviation is the median absolute residual of a least-squares fit, for n - p points. With a
    delta far below the noise Huber's loss is L1 in effect, and wastes a third of the points.
    """
    squares = dataclasses.replace(problem, loss=dataclasses.replace(problem.loss, kind="lsq"))
    r = np.abs(fit_problem(squares, starts=starts, seed=seed).residuals)
    spare = max(problem.points - problem.freedom, 1)
    spread = 1.4826 * float(np.median(r)) * np.sqrt(problem.points / spare)
    return max(problem.loss.delta, TUNING * spread)


def fit_problem(problem: Problem, *, starts: int = STARTS, seed: int = 0) -> Result:
    """Fit a prepared problem: screen, polish, and describe every minimum found."""
    if problem.law.members:
        return _fit_members(problem, starts, seed)
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
        lanes = [solution, *_look_around(problem, solution)]
        fields = [field.name for field in dataclasses.fields(Solution)]
        solution = Solution(**{k: np.concatenate([getattr(s, k) for s in lanes]) for k in fields})
    return _described(problem, solution, random)


def _fit_members(problem: Problem, starts: int, seed: int) -> Result:
    """Each law of a combination fitted by itself; what is said of the search is of the worst."""
    members = tuple(fit_problem(part, starts=starts, seed=seed) for part, _ in parts(problem))
    vector = joined(problem, [member.vector for member in members])
    parameters = {k: float(v) for k, v in problem.natural(vector).items()}

    def named(attribute: str, join: str) -> tuple[str, ...]:
        return tuple(f"{m.law.name}{join}{t}" for m in members for t in getattr(m, attribute))

    residuals = problem.residuals(vector)
    value = objective(residuals, problem.weights, problem.loss)
    return Result(
        law=problem.law,
        problem=problem,
        vector=vector,
        parameters=parameters,
        derived=derive(problem.law, parameters),
        objective=value,
        gradient_norm=max(m.gradient_norm for m in members),
        converged=all(m.converged for m in members),
        starts=sum(m.starts for m in members),
        reached=min(m.reached for m in members),
        minima=(LocalMinimum(value, parameters, 1),),
        at_bound=named("at_bound", "_"),
        at_start=named("at_start", "_"),
        ranges=members[0].ranges,
        warnings=named("warnings", ": "),
        members=members,
    )


def _look_around(problem: Problem, solution: Solution) -> list[Solution]:
    """From starts around the best vector so far, moving when it improves.

    Narrowing Huber's delta leads every start along the same path from the least-squares answer, so
    on a law whose parameters trade off all of them can end in one of many shallow minima next to
    each other. Starts along the principal axes of the estimate find the others.
    """
    best = _best(solution)
    vector, value = solution.vectors[best], solution.values[best]
    survivors = SURVIVORS if problem.points >= LONG else None
    ends: list[Solution] = []
    for _ in range(ROUNDS):
        ends.append(solve(problem, _around(problem, vector), warm=True, survivors=survivors))
        best = _best(ends[-1])
        if not ends[-1].values[best] < value * (1 - GAIN):
            break
        vector, value = ends[-1].vectors[best], ends[-1].values[best]
    return ends


def _around(problem: Problem, vector: Array) -> Array:
    """Vectors at `DISTANCES` along the principal axes of the free slots, [2 d q, p]."""
    free = np.flatnonzero(problem.free)
    jacobian = problem.jacobian(vector)[:, free] * np.sqrt(problem.weights)[:, None]
    # The median is the noise of the bulk; outliers must not lengthen the steps.
    noise = 1.4826 * float(np.median(np.abs(problem.residuals(vector))))
    values, axes = np.linalg.eigh(jacobian.T @ jacobian)
    lengths = noise / np.sqrt(np.maximum(values, 1e-12 * max(float(values.max()), 1e-300)))
    steps = np.concatenate([[-d, d] for d in DISTANCES])
    moved = np.repeat(vector[None, :], len(steps) * len(free), axis=0)
    moved[:, free] += (steps[:, None, None] * (axes * lengths).T[None]).reshape(-1, len(free))
    return np.clip(moved, problem.low, problem.high)


def _best(solution: Solution) -> int:
    """The lane of the lowest objective; of those that differ by rounding alone, the flattest."""
    values = np.where(np.isfinite(solution.values), solution.values, np.inf)
    lowest = values <= values.min() * (1 + 1e-12)
    return int(np.argmin(np.where(lowest, solution.gradients, np.inf)))


def _described(problem: Problem, solution: Solution, random: Array) -> Result:
    """`random` says of the first starts whether they were chosen at random."""
    best = _best(solution)
    vector, level = solution.vectors[best], float(solution.values[best])
    floor = 1e-12 * float(np.sum(problem.weights)) * problem.spread() ** 2 * 1e-12
    same = solution.values <= level * (1 + 1e-4) + floor
    parameters = {k: float(v) for k, v in problem.natural(vector).items()}
    residuals, jacobian = problem.residuals(vector), problem.jacobian(vector)
    bounded = _at_bound(problem, vector, jacobian)
    unmoved = problem.free & (np.abs(vector - solution.starts[best]) < 1e-12)
    still = [n for n, u in zip(problem.names, unmoved, strict=True) if u and n not in bounded]
    exact = bool(np.max(np.abs(residuals)) < 1e-9)
    columns = {**problem.variables, problem.law.target.name: problem.target}
    result = Result(
        law=problem.law,
        problem=problem,
        vector=vector,
        parameters=parameters,
        derived=derive(problem.law, parameters),
        objective=objective(residuals, problem.weights, problem.loss),
        gradient_norm=float(solution.gradients[best]),
        converged=bool(solution.converged[best] or solution.gradients[best] < 1e-6 or exact),
        starts=len(solution.starts),
        reached=float(np.mean(same[: len(random)][random] if random.any() else same)),
        minima=_distinct(problem, solution),
        at_bound=tuple(bounded),
        at_start=tuple(still),
        ranges={k: (float(v.min()), float(v.max())) for k, v in columns.items()},
    )
    warnings = (*_warnings(result, residuals, exact), *_identification(problem, jacobian))
    return dataclasses.replace(result, warnings=warnings)


def derive(law: Law, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Derived quantities of a law (exponents of the optimum, for instance) from its parameters.

    NaN or infinity where they do not exist, as the exponents of a law whose terms all vanished.
    """
    numbers = {k: np.asarray(v, np.float64)[()] for k, v in parameters.items()}
    with np.errstate(all="ignore"):
        values = {k: f(Namespace(**numbers)) for k, f in law.derived.items()}
    return {k: (float(v) if np.ndim(v) == 0 else np.asarray(v)) for k, v in values.items()}


def _distinct(problem: Problem, solution: Solution) -> tuple[LocalMinimum, ...]:
    """Converged end points, grouped by objective, best first; at most eight."""
    usable = np.flatnonzero(np.isfinite(solution.values) & (solution.gradients < 1e-5))
    minima: list[LocalMinimum] = []
    tiny = 1e-20 * float(np.sum(problem.weights))
    for row in usable[np.argsort(solution.values[usable], kind="stable")]:
        value = float(solution.values[row])
        if minima and value - minima[-1].objective <= MINIMUM_TOLERANCE * abs(value) + tiny:
            minima[-1] = dataclasses.replace(minima[-1], starts=minima[-1].starts + 1)
        else:
            natural = problem.natural(solution.vectors[row])
            minima.append(LocalMinimum(value, {k: float(v) for k, v in natural.items()}, 1))
    return tuple(minima[:8])


def _at_bound(problem: Problem, vector: Array, jacobian: Array) -> list[str]:
    """Free parameters at a bound, or (positive ones) so small that their term has vanished."""
    span = 1e-9 * np.maximum(1.0, np.abs(vector))
    at_edge = (vector <= problem.low + span) | (vector >= problem.high - span)
    gone = (np.array(problem.kinds) == "log") & (np.max(np.abs(jacobian), axis=0) < VANISHED)
    bounded = problem.free & (at_edge | gone)
    return [name for name, at in zip(problem.names, bounded, strict=True) if at]


def _warnings(result: Result, residuals: Array, exact: bool) -> list[str]:
    problem, minima, warnings = result.problem, result.minima, []
    if problem.points - problem.freedom < 3:
        warnings.append(
            f"only {problem.points} points for {problem.freedom} free parameters: intervals and "
            f"extrapolation cannot be trusted"
        )
    if not result.converged:
        warnings.append("the best start did not converge: parameters are provisional")
    for name in result.at_bound:
        i, value = problem.names.index(name), result.parameters[name]
        inside = problem.low[i] + 1e-6 < result.vector[i] < problem.high[i] - 1e-6
        if inside or result.vector[i] <= -0.99 * LOG_LIMIT:
            warnings.append(f"{name} = {value:.3g} plays no part: the data do not support its term")
        else:
            warnings.append(f"{name} = {value:.6g} is at the bound of its range")
    if result.at_start and result.converged and not exact:
        names = ", ".join(result.at_start)
        warnings.append(f"{names} never left the start: the data do not move it")
    if len(minima) > 1:
        gap = minima[1].objective / max(minima[0].objective, 1e-300) - 1
        warnings.append(
            f"{len(minima)} distinct local minima; the second is {100 * gap:.3g} % above the best"
        )
    scale = problem.spread()
    if scale > 0 and np.std(residuals) > 0.5 * scale and problem.points > 3:
        warnings.append(
            "the law explains less than half of the spread of the target: wrong law or columns?"
        )
    return warnings


def _identification(problem: Problem, jacobian: Array) -> list[str]:
    """Warnings about constant variables and directions that the data do not determine."""
    warnings = [
        f"{name} has the single value {column[0]:.6g}: what the law says about it is not identified"
        for name, column in problem.variables.items()
        if np.ptp(column) <= 1e-9 * np.max(np.abs(column))
    ]
    weighted = jacobian * np.sqrt(problem.weights)[:, None]
    norms = np.linalg.norm(weighted, axis=0)
    matter = problem.free & (norms > 1e-12 * max(float(norms.max(initial=0.0)), 1e-300))
    if matter.sum() < 2:
        return warnings
    names = np.array(problem.names)[matter]
    _, values, rows = np.linalg.svd(weighted[:, matter] / norms[matter], full_matrices=False)
    condition = float(values[0] / max(values[-1], 1e-300))
    if condition > WEAK:
        weakest = np.abs(rows[-1])
        order = np.argsort(-weakest, kind="stable")
        heavy = [str(names[i]) for i in order if weakest[i] > 0.3] or list(names[order[:2]])
        word = "cannot be told apart" if condition > BLIND else "trade off against each other"
        warnings.append(
            f"{', '.join(heavy)} {word} on these points (condition number {condition:.2g}): quote "
            f"predictions rather than single values, or fix one"
        )
    return warnings
