"""Global search: where should the local fits start?

Variable projection (Golub and Pereyra 1973): for given exponents the coefficients in which a law
is affine are a small non-negative least-squares problem, solved exactly for every cell of a grid
(two exponents) or of a low-discrepancy sequence (more). The normal equations are linear in the
weights of the points, so all bootstrap resamples of all cells are one matrix product.

Residuals are linearised (error of the prediction times the slope of the link at the observation):
good enough to choose starts, which the local solver then takes to the true optimum.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import Any

import numpy as np

from scaling.laws.backend import parallel, x64
from scaling.laws.law import Law, Namespace
from scaling.laws.losses import slope
from scaling.laws.problem import LOG_LIMIT, Array, Problem, bucket, padded

GRID = 33  # cells per axis for two searched parameters
SEQUENCE = 2048
SEQUENCE_PLAIN = 8192  # when nothing is linear every parameter is searched
MAX_SCREEN_POINTS = 2000
CHUNK = 128  # resamples screened at once: bounds the memory of the normal equations
SHARE = 0.5  # of the prediction: where a dropped coefficient restarts


@dataclasses.dataclass(frozen=True)
class Screen:
    """Cells of the search: `vectors` [M, p] complete starts, `values` [M] (inf: infeasible)."""

    vectors: Array
    values: Array


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
    owners: dict[int, list[str]] = {}
    for name, slot in zip(problem.law.names, problem.slots, strict=True):
        owners.setdefault(slot, []).append(name)
    return [
        slot
        for slot, held in owners.items()
        if problem.free[slot] and len(held) == 1 and held[0] in problem.law.linear
    ]


def searched_cells(problem: Problem, seed: int = 0) -> Array:
    """Search vectors of all cells, [M, p]; linear slots hold their base value."""
    linear = set(linear_slots(problem))
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
) -> Any:
    """Jitted `(cells [M, p], variables) -> (predictions without linear terms, basis [M, k, n])`."""
    import jax
    import jax.numpy as jnp

    def predict(vector: Any, natural: Any, variables: Any, like: Any) -> Any:
        values = {}
        for name, slot in zip(law.names, slots, strict=True):
            raw = jnp.exp(vector[slot]) if kinds[slot] == "log" else vector[slot]
            values[name] = natural[linear.index(slot)] if slot in linear else raw
        return law.formula(Namespace(**values), Namespace(**variables)) + jnp.zeros_like(like)

    def one(vector: Any, variables: Any, like: Any) -> Any:
        zero = jnp.zeros(len(linear))
        offset = predict(vector, zero, variables, like)
        rows = [
            predict(vector, zero.at[k].set(1.0), variables, like) - offset
            for k in range(len(linear))
        ]
        return offset, jnp.stack(rows) if rows else jnp.zeros((0, like.shape[0]))

    return jax.jit(jax.vmap(one, in_axes=(0, None, None)))


def _small_solve(gram: list[list[Any]], right: list[Any], xp: Any) -> list[Any]:
    """Solve many tiny positive systems at once by an unrolled Cholesky; entries are arrays."""
    k = len(right)
    lower: list[list[Any]] = [[None] * k for _ in range(k)]
    for i in range(k):
        for j in range(i + 1):
            total = gram[i][j]
            for m in range(j):
                total = total - lower[i][m] * lower[j][m]
            lower[i][j] = xp.sqrt(total) if i == j else total / lower[j][j]
    answer = list(right)
    for i in range(k):
        for m in range(i):
            answer[i] = answer[i] - lower[i][m] * answer[m]
        answer[i] = answer[i] / lower[i][i]
    for i in reversed(range(k)):
        for m in range(i + 1, k):
            answer[i] = answer[i] - lower[m][i] * answer[m]
        answer[i] = answer[i] / lower[i][i]
    return answer


def _cell_fits(
    phi: Any, observed: Any, rows: Any, signed: tuple[bool, ...], every_subset: bool, xp: Any
) -> tuple[Any, Any]:
    """Constrained least squares of all cells and rows by enumeration of active sets.

    `phi` [M, k, n], `observed` [M, n], `rows` [R, n]. Returns coefficients [k, M, R] and the
    residual sums [M, R], inf where no subset of the terms has coefficients of the right sign.
    """
    k = len(signed)
    right = [(phi[:, i] * observed) @ rows.T for i in range(k)]
    gram = [[(phi[:, i] * phi[:, j]) @ rows.T for j in range(i + 1)] for i in range(k)]
    for i in range(k):  # a trace of ridge keeps collinear cells finite
        gram[i][i] = gram[i][i] * (1 + 1e-12)
    total = 0.5 * (observed * observed) @ rows.T
    gain = xp.full(total.shape, -np.inf)
    coefficients = [xp.zeros(total.shape) for _ in range(k)]
    subsets = [s for size in range(k, 0, -1) for s in itertools.combinations(range(k), size)]
    for subset in subsets if every_subset else subsets[:1]:
        solved = _small_solve(
            [[gram[max(i, j)][min(i, j)] for j in subset] for i in subset],
            [right[i] for i in subset], xp,
        )  # fmt: skip
        found = xp.zeros(total.shape)
        for i, c in zip(subset, solved, strict=True):
            found = found + 0.5 * right[i] * c
        feasible = xp.isfinite(found)
        for i, c in zip(subset, solved, strict=True):
            feasible &= (c > 0) | signed[i]
        better = feasible & (found > gain)
        gain = xp.where(better, found, gain)
        for i in range(k):
            value = solved[subset.index(i)] if i in subset else 0.0
            coefficients[i] = xp.where(better, value, coefficients[i])
    values = xp.where(xp.isfinite(gain), xp.maximum(total - gain, 0.0), np.inf)
    return xp.stack(coefficients), values


@functools.lru_cache(maxsize=64)
def _resample_program(signed: tuple[bool, ...]) -> Any:
    """Jitted `(phi, observed, rows) -> (best cell [R], its coefficients [k, R], value [R])`."""
    import jax
    import jax.numpy as jnp

    def best(phi: Any, observed: Any, rows: Any) -> Any:
        coefficients, values = _cell_fits(phi, observed, rows, signed, False, jnp)
        cell = jnp.argmin(values, axis=0)
        column = jnp.arange(rows.shape[0])
        return cell, coefficients[:, cell, column], values[cell, column]

    return jax.jit(best)


@dataclasses.dataclass(frozen=True)
class _Design:
    """Cells of a problem and their scaled basis: phi [M, k, n] = basis * slope / norm [M, k]."""

    cells: Array
    linear: list[int]
    signed: tuple[bool, ...]
    phi: Array
    norm: Array
    observed: Array
    pick: Array


def _design(problem: Problem, seed: int) -> _Design:
    pick = np.arange(problem.points)
    if problem.points > MAX_SCREEN_POINTS:
        pick = np.random.default_rng(seed).choice(problem.points, MAX_SCREEN_POINTS, replace=False)
    cells, linear = searched_cells(problem, seed), linear_slots(problem)
    offset, basis = _cell_basis(problem, cells, tuple(linear), pick)
    omega = slope(problem.loss.space, problem.target[pick])
    if linear:
        phi = basis * omega
        norm = np.maximum(np.abs(phi).max(axis=2), 1e-290)
        observed, phi = (problem.target[pick] - offset) * omega, phi / norm[:, :, None]
    else:
        phi, norm = basis, np.ones((len(cells), 0))
        observed = _link_residual(problem, offset, problem.target[pick])
    signed = tuple(bool(problem.low[s] < 0 and problem.kinds[s] == "real") for s in linear)
    return _Design(cells, linear, signed, phi, norm, observed, pick)


def screen(problem: Problem, seed: int = 0) -> Screen:
    """Evaluate every cell on the problem's own weights.

    Coefficients that an active constraint drops restart at a share of the prediction, so that the
    local solver can still move them.
    """
    design = _design(problem, seed)
    rows = problem.weights[None, design.pick]
    with np.errstate(all="ignore"):
        if not design.linear:
            squares = 0.5 * design.observed**2
            return Screen(design.cells, np.nan_to_num(squares @ rows[0], nan=np.inf))
        coefficients, values = _cell_fits(
            design.phi, design.observed, rows, design.signed, True, np
        )
    everything = np.arange(len(design.cells))
    return Screen(_complete(problem, design, everything, coefficients[:, :, 0]), values[:, 0])


def screen_resamples(problem: Problem, weights: Array, seed: int = 0) -> Array:
    """The best cell of each row of `weights`, [R, n], as complete starts, [R, p]."""
    design = _design(problem, seed)
    rows = weights[:, design.pick]
    if not design.linear:
        with np.errstate(all="ignore"):
            squares = np.nan_to_num(0.5 * design.observed**2, nan=1e300, posinf=1e300)
        return design.cells[np.argmin(squares @ rows.T, axis=0)]
    program = _resample_program(design.signed)
    size = bucket(rows.shape[1])
    phi, observed = padded(design.phi, size, 0.0), padded(design.observed, size, 0.0)
    rows = padded(rows, size, 0.0)

    def chunk(part: Array) -> Array:
        whole = np.resize(part, (CHUNK, part.shape[1]))
        cell, coefficients, _ = program(phi, observed, whole)
        cell, coefficients = np.asarray(cell), np.asarray(coefficients)
        return _complete(problem, design, cell, coefficients)[: len(part)]

    parts = [rows[i : i + CHUNK] for i in range(0, len(rows), CHUNK)]
    return np.concatenate(parallel(chunk, parts))


def _complete(problem: Problem, design: _Design, cell: Array, coefficients: Array) -> Array:
    """Search vectors [m, p] of cells [m] with their scaled coefficients [k, m] put in."""
    vectors = design.cells[cell].copy()
    typical = np.mean(np.abs(design.observed), axis=1)[cell]
    for position, slot in enumerate(design.linear):
        value, norm = coefficients[position], design.norm[cell, position]
        if problem.kinds[slot] == "log":
            raw = np.log(np.maximum(value, SHARE * typical + 1e-300)) - np.log(norm)
            raw = np.clip(raw, -LOG_LIMIT, LOG_LIMIT)
        else:
            raw = value / norm
        vectors[:, slot] = np.clip(raw, problem.low[slot], problem.high[slot])
    return vectors


def _cell_basis(
    problem: Problem, cells: Array, linear: tuple[int, ...], pick: Array
) -> tuple[Array, Array]:
    program = _basis_program(problem.law, problem.slots, problem.kinds, linear)
    size = bucket(len(pick))
    variables = {k: padded(v[pick], size) for k, v in problem.variables.items()}
    with x64():
        offset, basis = program(cells, variables, padded(problem.target[pick], size))
    return np.asarray(offset)[:, : len(pick)], np.asarray(basis)[:, :, : len(pick)]


def _link_residual(problem: Problem, predicted: Array, target: Array) -> Array:
    from scaling.laws.losses import link

    with x64():
        g = np.asarray(link(problem.loss.space, predicted))
        return g - np.asarray(link(problem.loss.space, target))


def choose(found: Screen, count: int, seed: int = 0) -> tuple[Array, Array]:
    """Starts from one screen: the best quarter, the rest at random among feasible cells.

    Returns (vectors [count, p], is_random [count]); cells repeat when there are fewer than asked.
    """
    values, vectors = found.values, found.vectors
    feasible = np.flatnonzero(np.isfinite(values))
    if not len(feasible):
        feasible = np.arange(len(values))
    order = feasible[np.argsort(values[feasible], kind="stable")]
    best = order[: max(1, count // 4)]
    rest = np.random.default_rng(seed + 1).choice(feasible, count - len(best), replace=True)
    rows = np.concatenate([best, rest])
    random = np.arange(count) >= len(best)
    return vectors[rows], random
