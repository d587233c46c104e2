"""A second look around the best minimum, where a robust loss has several.

Narrowing Huber's delta leads every start along the same path from the least-squares answer, so on
a law whose parameters trade off all of them can end in one of many shallow minima next to each
other. Starts along the principal axes of the estimate, a few standard errors out, find the others.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from scaling.laws.problem import Array, Problem
from scaling.laws.solver import Solution, solve

DISTANCES = (0.25, 0.5, 1.0, 2.0, 4.0)  # standard errors along each axis, both ways
ROUNDS = 4
GAIN = 1e-9  # relative fall of the objective below which the look around ends


def explore(problem: Problem, solution: Solution) -> tuple[Array, Solution]:
    """(starts [m, p], their end points) around the best vector so far, moving when it improves."""
    best = int(np.argmin(np.where(np.isfinite(solution.values), solution.values, np.inf)))
    vector, value = solution.vectors[best], float(solution.values[best])
    starts, found = [], []
    for _ in range(ROUNDS):
        starts.append(around(problem, vector))
        found.append(solve(problem, starts[-1], warm=True))
        values = np.where(np.isfinite(found[-1].values), found[-1].values, np.inf)
        lowest = int(np.argmin(values))
        if not values[lowest] < value * (1 - GAIN):
            break
        vector, value = found[-1].vectors[lowest], float(values[lowest])
    return np.concatenate(starts), joined(found)


def around(problem: Problem, vector: Array) -> Array:
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


def joined(solutions: list[Solution]) -> Solution:
    """The lanes of several solutions as one."""
    names = [f.name for f in dataclasses.fields(Solution)]
    return Solution(**{k: np.concatenate([getattr(s, k) for s in solutions]) for k in names})
