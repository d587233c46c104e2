"""From what each example has to the sums of a batch, and to the mean with its standard error.

Legend: B batch, x nothing, or the tokens of an example.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scaling.tasks.base import Context, Loss, Sown, Total, Totals


def weighted(values: Mapping[str, jax.Array], weights_Bx: jax.Array) -> dict[str, Total]:
    """{name: (weighted sum, sum of the weights)} of what has these weights."""
    weight = jnp.sum(weights_Bx)
    return {name: (jnp.sum(weights_Bx * x_Bx), weight) for name, x_Bx in values.items()}


def summed(
    values: Mapping[str, jax.Array],
    weights_Bx: jax.Array,
    context: Context,
    sown: Sown,
    objective_Bx: jax.Array | None = None,
) -> Loss:
    """The loss of a batch; in evaluation with the moments that `mean_loss` reads.

    Args:
      values: name -> a number for each weight; "loss" is one of them, the others are reported too.
      weights_Bx: 0 for what does not count.
      context: of the call.
      sown: what the model left beside its output.
      objective_Bx: what is differentiated; None is the loss.
    """
    metrics = weighted(values, weights_Bx)
    total, weight = metrics["loss"]
    if not context.train:
        parts = (weights_Bx * values["loss"], weights_Bx)
        loss_B, weight_B = (jnp.sum(x.reshape(len(x), -1), axis=1) for x in parts)
        metrics["moments"] = (moments(loss_B, weight_B), weight)
    if objective_Bx is not None:
        total = jnp.sum(weights_Bx * objective_Bx)
    return sown.added_to(Loss(total, weight, metrics, sown.state))


def mean_loss(totals: Totals, units: str) -> dict[str, Any]:
    """The mean loss, its standard error, and under the name `units` the weight behind it."""
    loss_sum, weight = (float(x) for x in totals["loss"])
    error = standard_error(loss_sum, weight, totals["moments"][0])
    return {"loss": loss_sum / weight, "loss_standard_error": error, units: weight}


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
