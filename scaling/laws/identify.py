"""Which parameters the data determine: local rank, trade-offs, and designs that cannot work."""

from __future__ import annotations

import numpy as np

from scaling.laws.problem import Array, Problem

WEAK = 1e3  # condition number of the scaled sensitivities from which a direction counts as weak
BLIND = 1e8


def sensitivities(problem: Problem, vector: Array) -> tuple[Array, tuple[str, ...]]:
    """Weighted derivatives of the residuals, [n, q], of the free slots that matter, unit columns."""
    jacobian = problem.jacobian(vector) * np.sqrt(problem.weights)[:, None]
    norms = np.linalg.norm(jacobian, axis=0)
    keep = problem.free & (norms > 1e-12 * max(float(norms.max(initial=0.0)), 1e-300))
    names = tuple(n for n, k in zip(problem.names, keep, strict=True) if k)
    return jacobian[:, keep] / norms[keep], names


def condition(problem: Problem, vector: Array) -> tuple[float, dict[str, float]]:
    """Condition number of the scaled sensitivities and the weakest direction by parameter."""
    scaled, names = sensitivities(problem, vector)
    if not names:
        return 1.0, {}
    _, values, rows = np.linalg.svd(scaled, full_matrices=False)
    weakest = dict(zip(names, rows[-1], strict=True))
    return float(values[0] / max(values[-1], 1e-300)), weakest


def warnings(problem: Problem, vector: Array) -> list[str]:
    """Warnings about constant variables and directions that the data do not determine."""
    found = []
    for name, column in problem.variables.items():
        if np.ptp(column) <= 1e-9 * np.max(np.abs(column)):
            found.append(
                f"{name} has the single value {column[0]:.6g}: what the law says about it is "
                f"not identified"
            )
    number, weakest = condition(problem, vector)
    if number > WEAK and len(weakest) > 1:
        parts = sorted(weakest, key=lambda n: -abs(weakest[n]))
        heavy = [n for n in parts if abs(weakest[n]) > 0.3] or parts[:2]
        word = "cannot be told apart" if number > BLIND else "trade off against each other"
        found.append(
            f"{', '.join(heavy)} {word} on these points (condition number {number:.2g}): quote "
            f"predictions rather than single values, or fix one"
        )
    return found
