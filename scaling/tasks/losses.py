"""Sums that carry their standard error."""

import jax
import jax.numpy as jnp
import numpy as np


def moments(loss_B: jax.Array, weight_B: jax.Array) -> jax.Array:
    """Second moments of (loss, weight) over examples, for `standard_error`; float32[3]."""
    return jnp.stack([jnp.sum(loss_B**2), jnp.sum(loss_B * weight_B), jnp.sum(weight_B**2)])


def standard_error(loss_sum: float, weight: float, moments_3: np.ndarray) -> float:
    """Standard error of the ratio sum(loss) / sum(weight) with examples as the sampling unit.

    Tokens of one window are not independent, so the window is the unit (Cochran 1977, ratio
    estimator): Var(R) = sum (l_i - R w_i)^2 / W^2.
    """
    ratio = loss_sum / weight
    squares = moments_3[0] - 2 * ratio * moments_3[1] + ratio**2 * moments_3[2]
    return float(np.sqrt(max(squares, 0.0)) / weight)
