"""The objective: a robust loss of residuals in a link space, and its derivatives.

Residual r = g(prediction) - g(observation) with g = ln ("log"), identity ("raw") or ln(1 + .)
("log1p"). rho(r) is r^2/2 within `delta` and delta (|r| - delta/2) outside (Huber 1964, scipy's
convention), so delta = inf is least squares and delta -> 0 is delta times the absolute error.
`over` multiplies rho where the prediction is above the observation (asymmetric loss).

Huber's delta is in units of the residual: 1e-3 on log loss, where noise is 5e-3, is close to L1.
"""

import dataclasses
import math
from typing import Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from scaling.laws.backend import array_module
from scaling.laws.law import LawError, Space

A = TypeVar("A", np.ndarray, jax.Array)

CHOICES = {
    "kind": ("huber", "lsq", "l1"),
    "space": ("log", "raw", "log1p"),
    "reduction": ("sum", "mean"),
}


@dataclasses.dataclass(frozen=True)
class Loss:
    """What is minimised. `reduction` scales the reported objective, never where a fit stops."""

    kind: Literal["huber", "lsq", "l1"] = "huber"
    delta: float = 1e-3
    space: Space = "log"
    reduction: Literal["sum", "mean"] = "sum"
    over: float = 1.0

    def __post_init__(self) -> None:
        for field, known in CHOICES.items():
            if getattr(self, field) not in known:
                raise LawError(f"loss {field} {getattr(self, field)!r} is not one of {known}")
        for field in ("delta", "over"):
            if not 0 < getattr(self, field) < math.inf:
                raise LawError(f"{field} {getattr(self, field)} must be a positive number")

    def threshold(self, spread: float) -> float:
        """The delta that the solver works with; `spread` is the standard deviation of g(target)."""
        if self.kind == "lsq":
            return math.inf
        if self.kind == "l1":  # |r| smoothed over a band that is negligible against the data
            return 1e-8 * max(spread, 1e-6)
        return self.delta


def link(space: str, value: A) -> A:
    """g(value), for JAX or numpy arrays."""
    return value if space == "raw" else getattr(array_module(value), space)(value)


def unlink(space: str, value: np.ndarray) -> np.ndarray:
    """The inverse of `link`, numpy."""
    if space == "log":
        return np.exp(value)
    return np.expm1(value) if space == "log1p" else value


def slope(space: str, value: np.ndarray) -> np.ndarray:
    """dg/dvalue, numpy: what turns an error of the prediction into a residual."""
    if space == "log":
        return 1.0 / value
    return 1.0 / (1.0 + value) if space == "log1p" else np.ones_like(value)


def rho(residual: A, delta: A | float, over: A | float, smooth: bool = False) -> A:
    """Loss of each residual divided by min(delta, 1): O(residual) for robust, O(r^2) for squares.

    The scale does not move the minimum; `objective` undoes it. `smooth` takes the pseudo-Huber
    function sqrt(r^2 + delta^2) - delta instead, whose curvature never vanishes: the way to L1.
    """
    xp = array_module(residual)
    side = xp.where(residual > 0, over, 1.0)
    bound = xp.where(xp.isfinite(delta), delta, 1.0)
    if smooth:
        root = xp.sqrt(residual * residual + bound * bound)
        return residual * residual / (root + bound) * side
    size = xp.abs(residual)
    value = xp.where(size <= delta, 0.5 * size * size, bound * (size - 0.5 * bound))
    return value * side / xp.minimum(delta, 1.0)


def derivatives(
    residual: jax.Array, delta: jax.Array, over: jax.Array, smooth: bool = False
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(psi, psi', psi / r) of `rho`: first and second derivative and the weight of IRLS."""
    side = jnp.where(residual > 0, over, 1.0)
    bound = jnp.where(jnp.isfinite(delta), delta, 1.0)
    if smooth:
        root = jnp.sqrt(residual * residual + bound * bound)
        return residual / root * side, (bound / root) ** 2 / root * side, side / root
    size = jnp.abs(residual)
    factor = side / jnp.minimum(delta, 1.0)
    inside = size <= delta
    psi = jnp.where(inside, residual, jnp.sign(residual) * bound) * factor
    curvature = jnp.where(inside, 1.0, 0.0) * factor
    weight = jnp.where(inside, 1.0, bound / jnp.maximum(size, 1e-300)) * factor
    return psi, curvature, weight


def objective(residuals: np.ndarray, weights: np.ndarray, loss: Loss) -> float:
    """The reported objective (numpy): weighted sum or mean of the loss as its authors define it.

    L1 is the sum of |r| (not scaled by a delta); least squares is the sum of r^2 / 2.
    """
    r, w = np.asarray(residuals, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    if loss.kind == "l1":
        value = np.abs(r) * np.where(r > 0, loss.over, 1.0)
    else:
        delta = loss.threshold(1.0)
        value = rho(r, delta, loss.over) * min(delta, 1.0)
    total = float(np.sum(w * value))
    return total / float(np.sum(w)) if loss.reduction == "mean" else total
