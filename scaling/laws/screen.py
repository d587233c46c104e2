"""Global search: where should the local fits start?

Variable projection (Golub and Pereyra 1973): for given exponents the coefficients in which a law
is affine are a small non-negative least-squares problem, solved exactly for every cell of a grid
(two exponents) or of a low-discrepancy sequence (more). The normal equations are linear in the
weights of the points, so all bootstrap resamples of the cells worth a look are one matrix product.

Residuals are linearised (error of the prediction times the slope of the link at the observation):
good enough to choose starts, which the local solver then takes to the true optimum.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from scaling.laws.backend import x64
from scaling.laws.law import Law, Namespace
from scaling.laws.losses import link, slope
from scaling.laws.problem import LOG_LIMIT, Array, Problem, bucket, padded

GRID = 33  # cells per axis for two searched parameters
SEQUENCE = 2048
SEQUENCE_PLAIN = 8192  # when nothing is linear every parameter is searched
MAX_SCREEN_POINTS = 2000
RESAMPLE_CELLS = 64  # the best on the whole table, among which a resample looks for its own
CHUNK = 1000  # resamples screened at once: bounds the memory of the normal equations
SHARE = 0.5  # of the prediction: where a dropped coefficient restarts

Columns = Mapping[str, jax.Array]


def quasi_random(count: int, dimensions: int, seed: int = 0) -> Array:
    """Points in the unit cube, [count, d]: the additive sequence of the generalised golden ratio.

    M. Roberts, "The unreasonable effectiveness of quasirandom sequences" (2018).
    """
    phi = 2.0
    for _ in range(64):
        phi = (1.0 + phi) ** (1.0 / (dimensions + 1))
    steps = phi ** -np.arange(1, dimensions + 1)
    offset = np.random.default_rng(seed).random(dimensions)
    return (offset + np.arange(1, count + 1)[:, None] * steps) % 1.0


def linear_slots(problem: Problem) -> list[int]:
    """Free slots that belong to exactly one parameter, in which the law is affine."""
    named = zip(problem.law.names, problem.slots, strict=True)
    return [
        slot
        for name, slot in named
        if name in problem.law.linear and problem.free[slot] and problem.slots.count(slot) == 1
    ]


def searched_cells(problem: Problem, seed: int = 0) -> Array:
    """Search vectors of all cells, [M, p]; linear slots hold their base value."""
    linear = linear_slots(problem)
    axes = [i for i in range(len(problem.names)) if problem.free[i] and i not in linear]
    if not axes:
        return problem.base[None, :].copy()
    low, high = problem.start[axes, 0], problem.start[axes, 1]
    if len(axes) == 1:
        unit = np.linspace(0, 1, 4 * GRID + 1)[:, None]
    elif len(axes) == 2 and linear:
        unit = np.array(list(itertools.product(np.linspace(0, 1, GRID), repeat=2)))
    else:
        unit = quasi_random(SEQUENCE if linear else SEQUENCE_PLAIN, len(axes), seed)
    cells = np.repeat(problem.base[None, :], len(unit), axis=0)
    cells[:, axes] = low + unit * (high - low)
    return cells


@functools.lru_cache(maxsize=64)
def _basis_program(
    law: Law, slots: tuple[int, ...], kinds: tuple[str, ...], linear: tuple[int, ...]
) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """Jitted `(cells [M, p], variables) -> (predictions without linear terms, basis [M, k, n])`."""

    def predict(
        vector: jax.Array, coefficients: jax.Array, variables: Columns, like: jax.Array
    ) -> jax.Array:
        values = {}
        for name, slot in zip(law.names, slots, strict=True):
            raw = jnp.exp(vector[slot]) if kinds[slot] == "log" else vector[slot]
            values[name] = coefficients[linear.index(slot)] if slot in linear else raw
        return law.formula(Namespace(**values), Namespace(**variables)) + jnp.zeros_like(like)

    def basis(
        vector: jax.Array, variables: Columns, like: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        offset = predict(vector, jnp.zeros(len(linear)), variables, like)
        rows = [predict(vector, unit, variables, like) - offset for unit in jnp.eye(len(linear))]
        return offset, jnp.stack(rows) if rows else jnp.zeros((0, like.shape[0]))

    return jax.jit(jax.vmap(basis, in_axes=(0, None, None)))


@dataclasses.dataclass(frozen=True)
class _Design:
    """Cells of a problem and their scaled basis: phi [M, k, n] = basis * slope / norm [M, k].

    `observed`, [M, n], is what the linear terms should add up to; `pick` the points looked at;
    `signed`, [k], says which coefficients may be negative.
    """

    cells: Array
    linear: list[int]
    signed: Array
    phi: Array
    norm: Array
    observed: Array
    pick: Array

    def some(self, rows: Array) -> "_Design":
        """The same of some cells."""
        parts = {k: getattr(self, k)[rows] for k in ("cells", "phi", "norm", "observed")}
        return dataclasses.replace(self, **parts)


def _design(problem: Problem, seed: int) -> _Design:
    pick = np.arange(problem.points)
    if problem.points > MAX_SCREEN_POINTS:
        pick = np.random.default_rng(seed).choice(problem.points, MAX_SCREEN_POINTS, replace=False)
    cells, linear = searched_cells(problem, seed), linear_slots(problem)
    program = _basis_program(problem.law, problem.slots, problem.kinds, tuple(linear))
    size, target = bucket(len(pick)), problem.target[pick]
    variables = {k: padded(v[pick], size) for k, v in problem.variables.items()}
    with x64():
        parts = program(cells, variables, padded(target, size))
    offset, phi = (np.asarray(part)[..., : len(pick)] for part in parts)
    with np.errstate(all="ignore"):
        if linear:
            omega = slope(problem.loss.space, target)
            phi, observed = phi * omega, (target - offset) * omega
        else:
            observed = link(problem.loss.space, offset) - link(problem.loss.space, target)
        norm = np.maximum(np.abs(phi).max(axis=2), 1e-290)
        phi = phi / norm[:, :, None]
    signed = np.array([problem.low[s] < 0 and problem.kinds[s] == "real" for s in linear], bool)
    return _Design(cells, linear, signed, phi, norm, observed, pick)


def _cell_fits(design: _Design, weights: Array, every_subset: bool) -> tuple[Array, Array]:
    """Constrained least squares of all cells under each row of weights, [R, n].

    Enumerates active sets. Returns coefficients [M, R, k] and the residual sums [M, R], inf where
    no subset of the terms has coefficients of the right sign.
    """
    phi, observed, k = design.phi, design.observed, len(design.linear)
    with np.errstate(all="ignore"):
        total = 0.5 * (observed * observed) @ weights.T
        right = np.zeros((*total.shape, k))
        gram = np.zeros((*total.shape, k, k))
        for i in range(k):
            right[:, :, i] = (phi[:, i] * observed) @ weights.T
            for j in range(i + 1):
                gram[:, :, i, j] = gram[:, :, j, i] = (phi[:, i] * phi[:, j]) @ weights.T
            gram[:, :, i, i] = gram[:, :, i, i] * (1 + 1e-12) + 1e-200  # keeps it invertible
        coefficients, gain = np.zeros(right.shape), np.full(total.shape, -np.inf)
        subsets = [s for size in range(k, 0, -1) for s in itertools.combinations(range(k), size)]
        for subset in (subsets if every_subset else subsets[:1]) or [()]:
            terms = list(subset)
            some = gram[:, :, terms][:, :, :, terms]
            solved = np.linalg.solve(some, right[:, :, terms, None])[..., 0]
            explained = 0.5 * np.sum(right[:, :, terms] * solved, axis=2)
            allowed = np.all((solved > 0) | design.signed[terms], axis=2)
            better = allowed & np.isfinite(explained) & (explained > gain)
            gain[better] = explained[better]
            full = np.zeros(right.shape)
            full[:, :, terms] = solved
            coefficients[better] = full[better]
        values = np.maximum(total - gain, 0.0)
    return coefficients, np.where(np.isfinite(values), values, np.inf)


def screen(problem: Problem, seed: int = 0) -> tuple[Array, Array]:
    """Every cell as a complete start, [M, p], and its value, [M], on the problem's own weights.

    The value is inf where a cell is infeasible. Coefficients that an active constraint drops restart
    at a share of the prediction, so that the local solver can still move them.
    """
    design = _design(problem, seed)
    coefficients, values = _cell_fits(design, problem.weights[None, design.pick], True)
    return _complete(problem, design, coefficients[:, 0]), values[:, 0]


def screen_resamples(problem: Problem, weights: Array, seed: int = 0) -> Array:
    """The best cell of each row of `weights`, [R, n], as complete starts, [R, p]."""
    design = _design(problem, seed)
    _, values = _cell_fits(design, problem.weights[None, design.pick], False)
    design = design.some(np.argsort(values[:, 0], kind="stable")[:RESAMPLE_CELLS])
    starts = []
    for first in range(0, len(weights), CHUNK):
        rows = weights[first : first + CHUNK, design.pick]
        coefficients, values = _cell_fits(design, rows, False)
        best = np.argmin(values, axis=0)
        starts.append(_complete(problem, design.some(best), coefficients[best, range(len(rows))]))
    return np.concatenate(starts)


def _complete(problem: Problem, design: _Design, coefficients: Array) -> Array:
    """Search vectors [M, p] of the design's cells with their scaled coefficients [M, k] put in."""
    vectors = design.cells.copy()
    typical = np.mean(np.abs(design.observed), axis=1)
    for position, slot in enumerate(design.linear):
        value, norm = coefficients[:, position], design.norm[:, position]
        if problem.kinds[slot] == "log":
            raw = np.log(np.maximum(value, SHARE * typical + 1e-300)) - np.log(norm)
            raw = np.clip(raw, -LOG_LIMIT, LOG_LIMIT)
        else:
            raw = value / norm
        vectors[:, slot] = np.clip(raw, problem.low[slot], problem.high[slot])
    return vectors


def choose(screened: tuple[Array, Array], count: int, seed: int = 0) -> tuple[Array, Array]:
    """Starts from one screen: the best quarter, the rest at random among feasible cells.

    Returns (vectors [count, p], is_random [count]); cells repeat when there are fewer than asked.
    """
    vectors, values = screened
    feasible = np.flatnonzero(np.isfinite(values))
    if not len(feasible):
        feasible = np.arange(len(values))
    order = feasible[np.argsort(values[feasible], kind="stable")]
    best = order[: max(1, count // 4)]
    rest = np.random.default_rng(seed + 1).choice(feasible, count - len(best), replace=True)
    return vectors[np.concatenate([best, rest])], np.arange(count) >= len(best)
