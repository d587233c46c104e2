"""Cross-entropy in the form that shards over the vocabulary, and sums that carry their error.

Legend: B batch, T time, V vocabulary.
"""

import jax
import jax.numpy as jnp
import numpy as np


def cross_entropy(logits_BxV: jax.Array, targets_Bx: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Negative log likelihood and log normaliser, in nats, float32.

    The target's logit is picked by comparison rather than by a gather: it fuses into the reduction,
    its gradient is no scatter, and with the vocabulary sharded over a mesh axis it stays local.

    Args:
      logits_BxV: unnormalised scores, any leading dimensions.
      targets_Bx: int32 classes, the leading dimensions of the logits.

    Returns:
      (nll, log_z), both with the shape of the targets.
    """
    logits_BxV = logits_BxV.astype(jnp.float32)
    classes_V = jax.lax.broadcasted_iota(jnp.int32, logits_BxV.shape, logits_BxV.ndim - 1)
    hit_BxV = classes_V == jnp.expand_dims(targets_Bx, -1)
    target_Bx = jnp.sum(jnp.where(hit_BxV, logits_BxV, 0.0), axis=-1)
    log_z_Bx = jax.nn.logsumexp(logits_BxV, axis=-1)
    return log_z_Bx - target_Bx, log_z_Bx


def smoothed(
    nll: jax.Array, log_z: jax.Array, logits_BxV: jax.Array, smoothing: float | jax.Array
) -> jax.Array:
    """Cross-entropy against (1 - s) one-hot + s uniform (Szegedy et al. 2016, 1512.00567)."""
    uniform = log_z - jnp.mean(logits_BxV.astype(jnp.float32), axis=-1)
    return (1.0 - smoothing) * nll + smoothing * uniform


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
