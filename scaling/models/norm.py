"""Norms: RMSNorm, LayerNorm, group norm, and batch norm that does not depend on accumulation.

Legend: B batch, G groups, S rows of a group, D features, x any dimensions.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from scaling.configs.errors import ConfigError
from scaling.configs.types import PositiveInt
from scaling.models.layers import Initializer

# Groups of `group_norm`, which must divide the channels.
GROUPS = 8


class RMSNorm(nn.Module):
    """x / rms(x) * scale over the last dimension (Zhang and Sennrich 2019), in float32."""

    epsilon: float = 1e-6
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x_xD: jax.Array) -> jax.Array:
        """[..., D] to [..., D] of `dtype`."""
        scale_xD = _broadcastable(_parameter(self, "scale", nn.initializers.ones, x_xD), x_xD)
        x_xD = x_xD.astype(jnp.float32)
        power_x1 = jnp.mean(jnp.square(x_xD), axis=-1, keepdims=True)
        return (x_xD * jax.lax.rsqrt(power_x1 + self.epsilon) * scale_xD).astype(self.dtype)


class LayerNorm(nn.Module):
    """(x - mean) / deviation * scale (+ bias) over the last dimension (Ba et al. 2016)."""

    epsilon: float = 1e-6
    use_bias: bool = True
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x_xD: jax.Array) -> jax.Array:
        """[..., D] to [..., D] of `dtype`."""
        scale_xD = _broadcastable(_parameter(self, "scale", nn.initializers.ones, x_xD), x_xD)
        x_xD = x_xD.astype(jnp.float32)
        x_xD = x_xD - jnp.mean(x_xD, axis=-1, keepdims=True)
        variance_x1 = jnp.mean(jnp.square(x_xD), axis=-1, keepdims=True)
        y_xD = x_xD * jax.lax.rsqrt(variance_x1 + self.epsilon) * scale_xD
        if self.use_bias:
            bias_D = _parameter(self, "bias", nn.initializers.zeros, x_xD)
            y_xD = y_xD + _broadcastable(bias_D, x_xD)
        return y_xD.astype(self.dtype)


def group_norm(dtype: str, name: str, channels: int | None = None) -> nn.GroupNorm:
    """Group norm (Wu and He 2018, 1803.08494) over `GROUPS` groups, or groups of so many channels."""
    return nn.GroupNorm(
        num_groups=None if channels else GROUPS,
        group_size=channels,
        epsilon=1e-5,
        dtype=dtype,
        scale_init=nn.with_partitioning(nn.initializers.ones, ("norm",)),
        bias_init=nn.with_partitioning(nn.initializers.zeros, ("norm",)),
        name=name,
    )


class GroupedBatchNorm(nn.Module):
    """Batch norm over strided groups of the batch ("ghost batches", Hoffer et al. 2017).

    With B rows and groups of S, group g holds rows g, g + B/S, g + 2B/S, ...: each group is
    normalised by its own mean and variance over its rows and all middle dimensions. A train step
    that accumulates over k microbatches gives microbatch i the rows i, i + k, ...; as long as k
    divides B/S, its groups are then the very same sets of rows as those of the whole batch, so the
    result depends neither on the accumulation nor on how rows lie on devices. Running statistics
    move by the mean over groups, so the microbatches' updates average to the whole batch's.

    Attributes:
      group_size: S; None normalises over the whole (micro)batch, and then accumulation matters.
      momentum: share of the old running statistics that a step keeps.
      epsilon: added to the variance.
      dtype: type of the result; statistics are float32.
    """

    group_size: PositiveInt | None = None
    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x_BxD: jax.Array, *, train: bool) -> jax.Array:
        """Normalises [B, ..., D].

        Raises:
          ValueError: in training, when B is not a multiple of the group size.
        """
        scale_D = _parameter(self, "scale", nn.initializers.ones, x_BxD)
        bias_D = _parameter(self, "bias", nn.initializers.zeros, x_BxD)
        mean_D = self.variable("batch_stats", "mean", jnp.zeros, scale_D.shape, jnp.float32)
        var_D = self.variable("batch_stats", "var", jnp.ones, scale_D.shape, jnp.float32)
        if not train:
            gain_D = scale_D * jax.lax.rsqrt(var_D.value + self.epsilon)
            shift_D = bias_D - mean_D.value * gain_D
            y_BxD = x_BxD * _broadcastable(gain_D, x_BxD) + _broadcastable(shift_D, x_BxD)
            return y_BxD.astype(self.dtype)

        group_SGxD = self._grouped(x_BxD)
        axes = (0, *range(2, group_SGxD.ndim - 1))
        mean_GxD = jnp.mean(group_SGxD, axis=axes, keepdims=True)
        centred_SGxD = group_SGxD - mean_GxD
        var_GxD = jnp.mean(jnp.square(centred_SGxD), axis=axes, keepdims=True)
        if not self.is_initializing():
            keep = self.momentum
            mean_D.value = keep * mean_D.value + (1 - keep) * _mean_over_groups(mean_GxD)
            var_D.value = keep * var_D.value + (1 - keep) * _mean_over_groups(var_GxD)
        gain_GxD = jax.lax.rsqrt(var_GxD + self.epsilon) * _broadcastable(scale_D, var_GxD)
        y_SGxD = centred_SGxD * gain_GxD + _broadcastable(bias_D, group_SGxD)
        return y_SGxD.reshape(x_BxD.shape).astype(self.dtype)

    def _grouped(self, x_BxD: jax.Array) -> jax.Array:
        """[B, ..., D] as float32 [S, G, ..., D]: row s * G + g goes to place s of group g."""
        rows = x_BxD.shape[0]
        size = self.group_size or rows
        if rows % size:
            raise ConfigError(
                "model.batch_norm_group",
                f"a (micro)batch of {rows} rows does not divide into groups of {size}",
                "change it, train.batch_size or train.accumulate",
            )
        return x_BxD.astype(jnp.float32).reshape(size, rows // size, *x_BxD.shape[1:])


def _parameter(module: nn.Module, name: str, init: Initializer, x_xD: jax.Array) -> jax.Array:
    return module.param(name, nn.with_partitioning(init, ("norm",)), x_xD.shape[-1:], jnp.float32)


def _broadcastable(value_D: jax.Array, like_xD: jax.Array) -> jax.Array:
    """A vector with leading dimensions of size one, so that ranks match."""
    return value_D.reshape((1,) * (like_xD.ndim - 1) + (-1,))


def _mean_over_groups(value_GxD: jax.Array) -> jax.Array:
    """Mean over groups of [1, G, 1, ..., D], as [D]."""
    return jnp.mean(value_GxD, axis=tuple(range(value_GxD.ndim - 1)))
