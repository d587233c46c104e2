"""The objective: a robust loss of residuals in a link space, and its derivatives.

Residual r = g(prediction) - g(observation) with g = ln ("log"), identity ("raw") or ln(1 + .)
("log1p"). rho(r) is r^2/2 within `delta` and delta (|r| - delta/2) outside (Huber 1964, scipy's
convention), so delta = inf is least squares and delta -> 0 is delta times the absolute error.
`over` multiplies rho where the prediction is above the observation (asymmetric loss).

Huber's delta is in units of the residual: 1e-3 on log loss, where noise is 5e-3, is close to L1.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

from scaling.laws.law import LawError

Space = Literal["log", "raw", "log1p"]
KINDS = ("huber", "lsq", "l1")
SPACES = ("log", "raw", "log1p")


@dataclasses.dataclass(frozen=True)
class Loss:
    """What is minimised. `reduction` scales the reported objective, never where a fit stops."""

    kind: Literal["huber", "lsq", "l1"] = "huber"
    delta: float = 1e-3
    space: Space = "log"
    reduction: Literal["sum", "mean"] = "sum"
    over: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise LawError(f"loss kind {self.kind!r} is not one of {KINDS}")
        if self.space not in SPACES:
            raise LawError(f"space {self.space!r} is not one of {SPACES}")
        if self.reduction not in ("sum", "mean"):
            raise LawError(f"reduction {self.reduction!r} is not one of ('sum', 'mean')")
        if not (self.delta > 0 and math.isfinite(self.delta)):
            raise LawError(
                f"delta {self.delta} must be a positive number (residuals in {self.space})"
            )
        if not (self.over > 0 and math.isfinite(self.over)):
            raise LawError(f"over {self.over} must be a positive number")

    def threshold(self, spread: float) -> float:
        """The delta that the solver works with; `spread` is the standard deviation of g(target)."""
        if self.kind == "lsq":
            return math.inf
        if self.kind == "l1":  # |r| smoothed over a band that is negligible against the data
            return 1e-8 * max(spread, 1e-6)
        return self.delta


def link(space: str, value: Any) -> Any:
    """g(value), for JAX or numpy arrays."""
    import jax.numpy as jnp

    if space == "log":
        return jnp.log(value)
    return jnp.log1p(value) if space == "log1p" else value


def unlink(space: str, value: Any) -> Any:
    """The inverse of `link`, numpy."""
    import numpy as np

    if space == "log":
        return np.exp(value)
    return np.expm1(value) if space == "log1p" else value


def slope(space: str, value: Any) -> Any:
    """dg/dvalue, numpy: what turns an error of the prediction into a residual."""
    import numpy as np

    if space == "log":
        return 1.0 / value
    return 1.0 / (1.0 + value) if space == "log1p" else np.ones_like(value)


def rho(residual: Any, delta: Any, over: Any, smooth: bool = False) -> Any:
    """Loss of each residual divided by min(delta, 1): O(residual) for robust, O(r^2) for squares.

    The scale does not move the minimum; `objective` undoes it. `smooth` takes the pseudo-Huber
    function sqrt(r^2 + delta^2) - delta instead, whose curvature never vanishes: the way to L1.
    """
    import jax.numpy as jnp

    side = jnp.where(residual > 0, over, 1.0)
    bound = jnp.where(jnp.isfinite(delta), delta, 1.0)
    if smooth:
        root = jnp.sqrt(residual * residual + bound * bound)
        return residual * residual / (root + bound) * side
    size = jnp.abs(residual)
    value = jnp.where(size <= delta, 0.5 * size * size, bound * (size - 0.5 * bound))
    return value * side / jnp.minimum(delta, 1.0)


def derivatives(residual: Any, delta: Any, over: Any, smooth: bool = False) -> tuple[Any, Any, Any]:
    """(psi, psi', psi / r) of `rho`: first and second derivative and the weight of IRLS."""
    import jax.numpy as jnp

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


def objective(residuals: Any, weights: Any, loss: Loss) -> float:
    """The reported objective (numpy): weighted sum or mean of the loss as its authors define it.

    L1 is the sum of |r| (not scaled by a delta); least squares is the sum of r^2 / 2.
    """
    import numpy as np

    r, w = np.asarray(residuals, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    size = np.abs(r)
    if loss.kind == "l1":
        value = size
    elif loss.kind == "lsq":
        value = 0.5 * size * size
    else:
        value = np.where(
            size <= loss.delta, 0.5 * size * size, loss.delta * (size - 0.5 * loss.delta)
        )
    total = float(np.sum(w * value * np.where(r > 0, loss.over, 1.0)))
    return total / float(np.sum(w)) if loss.reduction == "mean" else total
