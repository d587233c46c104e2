"""Intervals without resampling: profile likelihood and the sandwich.

A profile fixes one parameter on a grid, refits the others, and keeps the values at which the
objective has not risen significantly. For least squares that is the F interval; for robust losses
the rise is scaled by kappa = E[psi'] / E[psi^2] (the "tau" test of Ronchetti 1982), which makes it
chi-squared. Both assume independent points: with several points per run, use the bootstrap by runs.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from scipy import stats

from scaling.laws.fitting import Result
from scaling.laws.law import LawError
from scaling.laws.problem import Array
from scaling.laws.solver import solve

GRID = 24
REACH = 6.0  # first half-width of the grid, in standard errors
MAX_WIDEN = 6


@dataclasses.dataclass(frozen=True, eq=False)
class Profile:
    """Values of one parameter and the test statistic there ([m], 0 at the best fit).

    `low` and `high` bound the set where the statistic is below `threshold`; None where it never
    crosses within the bounds of the parameter, which is then not identified on that side.
    """

    name: str
    values: Array
    statistic: Array
    threshold: float
    low: float | None
    high: float | None
    warnings: tuple[str, ...] = ()


def noise_constants(result: Result) -> tuple[float, float]:
    """(E[psi'], E[psi^2]) of the loss at the fit, per unit of weight, for n - p points.

    For Huber with a small delta E[psi'] is a density at zero; it is averaged over the band of the
    Hall-Sheather (1988) bandwidth when that is wider than delta.
    """
    problem = result.problem
    r, w = result.residuals, problem.weights
    n, p = problem.points, problem.freedom
    spare = max(n - p, 1)
    if problem.loss.kind == "lsq":
        return 1.0, float(np.sum(w * r * r) / spare)
    delta = problem.loss.threshold(problem.spread())
    size = np.abs(r)
    # Half-width in probability around the median at which a density is estimated.
    width = n ** (-1 / 3) * 1.96 ** (2 / 3) * (1.5 / (2 * np.pi)) ** (1 / 3)
    band = max(delta, float(np.quantile(size, min(2 * width, 0.9))))
    inside = float(np.sum(size <= band))
    # p residuals are pulled to zero by the fit itself and say nothing about the density.
    share = max(inside - p, 1.0) / spare
    if problem.loss.kind == "l1":
        return 2 * share / (2 * band), float(n / spare)
    psi = np.clip(r, -delta, delta)
    return share * delta / band, float(np.sum(w * psi * psi) / spare)


def sandwich(result: Result) -> Array:
    """Covariance of the search vector, [p, p], robust to unequal noise and to clusters.

    Zero rows for fixed parameters; infinite variances where the data say nothing.
    """
    problem = result.problem
    free = np.flatnonzero(problem.free)
    jacobian = problem.jacobian(result.vector)[:, free]
    r, w = result.residuals, problem.weights
    slope, _ = noise_constants(result)
    delta = problem.loss.threshold(problem.spread())
    psi = np.sign(r) if problem.loss.kind == "l1" else np.clip(r, -delta, delta)
    scores = jacobian * (w * psi)[:, None]
    _, codes = np.unique(problem.clusters, return_inverse=True)
    sums = np.zeros((codes.max() + 1, len(free)))
    np.add.at(sums, codes, scores)
    bread = slope * (jacobian.T * w) @ jacobian
    inverse = np.linalg.pinv(bread, rcond=1e-14, hermitian=True)
    spare = max(len(sums) - len(free), 1)
    covariance = np.zeros((len(problem.names), len(problem.names)))
    covariance[np.ix_(free, free)] = inverse @ (sums.T @ sums) @ inverse * (len(sums) / spare)
    return covariance


def standard_errors(result: Result) -> dict[str, float]:
    """Sandwich standard errors of the parameters (delta method for logarithmic ones)."""
    if result.members:
        return {
            f"{member.law.name}_{name}": error
            for member in result.members
            for name, error in standard_errors(member).items()
        }
    sigma = np.sqrt(np.diag(sandwich(result)))
    errors = {}
    for name, slot in zip(result.law.names, result.problem.slots, strict=True):
        scale = result.parameters[name] if result.problem.kinds[slot] == "log" else 1.0
        errors[name] = float(sigma[slot] * scale)
    return errors


def profile(result: Result, name: str, level: float = 0.95) -> Profile:
    """Profile one parameter over a grid that widens until both sides cross the threshold."""
    problem = result.problem
    if name not in result.law.names:
        raise LawError(f"law {result.law.name} has no parameter {name!r}")
    for member in result.members:  # a parameter of a combination is profiled in its own law's fit
        own = name.removeprefix(f"{member.law.name}_")
        if own != name and own in member.law.names:
            return dataclasses.replace(profile(member, own, level), name=name)
    slot = problem.slots[result.law.names.index(name)]
    if not problem.free[slot]:
        raise LawError(f"{name} is fixed or tied: profile the parameter it follows")
    spare = max(problem.points - problem.freedom, 1)
    threshold = float(stats.t.ppf(0.5 + level / 2, spare) ** 2)
    walker = _Walker(result, slot)
    below, above = (walker.side(sign, threshold) for sign in (-1, 1))
    values = np.concatenate([below.values[::-1], [result.vector[slot]], above.values])
    warnings = list(walker.warnings)
    for name_of_side, side in (("below", below), ("above", above)):
        if side.crossing is None:
            warnings.append(
                f"{name} is not identified: no value {name_of_side} the fit is excluded, its "
                f"profile is flat"
            )

    def natural(value: Array) -> Array:
        return np.exp(value) if problem.kinds[slot] == "log" else value

    def end(side: _Side) -> float | None:
        return None if side.crossing is None else float(natural(np.array(side.crossing)))

    return Profile(
        name=name,
        values=natural(values),
        statistic=np.concatenate([below.statistic[::-1], [0.0], above.statistic]),
        threshold=threshold,
        low=end(below),
        high=end(above),
        warnings=tuple(warnings),
    )


class _Side(NamedTuple):
    """Grid values outwards from the best fit, their statistic, and where it crosses."""

    values: Array
    statistic: Array
    crossing: float | None


class _Walker:
    """Evaluates the profile of one slot; keeps what every grid shares."""

    def __init__(self, result: Result, slot: int) -> None:
        self.result, self.slot = result, slot
        slope, square = noise_constants(result)
        self.kappa = slope / max(square, 1e-300)
        covariance = sandwich(result)
        variance = max(float(covariance[slot, slot]), 0.0)
        alone = np.eye(len(covariance))[slot]
        self.path = covariance[:, slot] / variance if variance > 0 else alone
        kind, value = result.problem.kinds[slot], float(result.vector[slot])
        unit = 1.0 if kind == "log" else max(abs(value), 1e-3)
        self.error = float(np.clip(np.sqrt(variance), 1e-8 * unit, 0.5 * unit))
        weight = result.problem.weights.sum() if result.loss.reduction == "mean" else 1.0
        self.best = result.objective * float(weight)
        self.warnings: list[str] = []

    def statistic(self, targets: Array) -> Array:
        """The test statistic at values of the slot, [m]; refits all others from two starts."""
        result, problem = self.result, self.result.problem
        steps = targets - result.vector[self.slot]
        along = result.vector + steps[:, None] * self.path
        starts = np.concatenate([along, np.tile(result.vector, (len(along), 1))])
        starts[:, self.slot] = np.tile(targets, 2)
        free = np.tile(problem.free, (len(starts), 1))
        free[:, self.slot] = False
        solution = solve(problem, starts, free=free, warm=True)
        values = solution.values.reshape(2, -1).min(axis=0)
        rise = 2 * (values - self.best) * self.kappa
        if np.min(rise) < -1e-6 * max(1.0, abs(2 * self.best * self.kappa)):
            text = f"profiling {problem.names[self.slot]} found a better minimum than the fit"
            if text not in self.warnings:
                self.warnings.append(text)
        return np.maximum(rise, 0.0)

    def side(self, sign: int, threshold: float) -> _Side:
        """A grid outwards that widens until the statistic crosses the threshold."""
        problem, centre = self.result.problem, float(self.result.vector[self.slot])
        edge = float(problem.high[self.slot] if sign > 0 else problem.low[self.slot])
        reach = REACH * self.error
        values, statistic = np.array([centre]), np.zeros(1)
        for _ in range(MAX_WIDEN):
            end = centre + sign * min(reach, abs(edge - centre))
            if end == values[-1]:
                break
            grid = np.linspace(values[-1], end, GRID // 2 + 1)[1:]
            values = np.concatenate([values, grid])
            statistic = np.concatenate([statistic, self.statistic(grid)])
            if statistic[-1] > threshold or end == edge:
                break
            reach *= 4
        crossing = None
        if np.any(statistic > threshold):
            first = int(np.argmax(statistic > threshold))
            crossing = self._crossing(values[first - 1], values[first], threshold)
        return _Side(values[1:], statistic[1:], crossing)

    def _crossing(self, low: float, high: float, threshold: float) -> float:
        """Refine the crossing twice by a small grid; the root of the statistic is near linear."""
        for _ in range(2):
            grid = np.linspace(low, high, 6)
            roots = np.sqrt(self.statistic(grid))
            first = max(int(np.argmax(roots > np.sqrt(threshold))), 1)
            low, high = grid[first - 1], grid[first]
        ends = roots[first - 1 : first + 1]
        return float(np.interp(np.sqrt(threshold), ends, [low, high]))
