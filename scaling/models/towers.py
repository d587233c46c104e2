"""Two models that put their inputs into one space, with the scale on which they are compared.

Legend: B batch, U frames, D width of the space.
"""

from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from scaling.configs.types import PositiveFloat, PositiveInt
from scaling.experiment import Model
from scaling.models.layers import inside

EPSILON = 1e-12  # added to a squared length


class Towers(nn.Module):
    """Dual encoder (Radford et al. 2021, CLIP, 2103.00020): unit vectors, and a learned scale.

    A tower is any model that ends in a linear head, which here is the projection into the space: one
    of images or of texts with `num_classes` for D, or one of sound with `vocab_size` for D, whose frames
    are averaged. The task fills these in.

    Attributes:
      first: model of the first of a pair.
      second: model of the second.
      embed_dim: D.
      scale: initial factor of the products, learned as its logarithm; CLIP has 1 / 0.07, SigLIP 10.
      bias: initial value of a learned number added to all products, -10 in SigLIP; None for none.
    """

    first: Model
    second: Model
    embed_dim: PositiveInt = 64
    scale: PositiveFloat = 1 / 0.07
    bias: float | None = None

    @nn.compact
    def __call__(
        self, first: tuple[jax.Array, ...], second: tuple[jax.Array, ...], *, train: bool
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """(unit vectors float32 [B, D] of both, log of the scale, bias).

        Args:
          first: what the first tower is called with.
          second: likewise.
          train: whether dropout is on.
        """
        x_BD = embedded(cast("nn.Module", self.first), first, train)
        y_BD = embedded(cast("nn.Module", self.second), second, train)
        start = jnp.log(jnp.float32(self.scale))
        log_scale = self.param("log_scale", lambda _: start)
        bias = jnp.float32(0.0)
        if self.bias is not None:
            bias = self.param("bias", lambda _: jnp.float32(cast("float", self.bias)))
        return x_BD, y_BD, log_scale, bias


def embedded(tower: nn.Module, inputs: tuple[jax.Array, ...], train: bool) -> jax.Array:
    """Unit vectors, float32 [B, D]; those of frames are averaged before."""
    x_BxD: jax.Array = tower(*inputs, train=train).astype(jnp.float32)
    if x_BxD.ndim == 3:
        frames_B = tower.encoder_frames(inputs[1])
        inside_BU = inside(frames_B, x_BxD.shape[1]).astype(jnp.float32)
        x_BxD = jnp.sum(x_BxD * inside_BU[:, :, None], axis=1) / frames_B[:, None]
    return x_BxD * jax.lax.rsqrt(jnp.sum(x_BxD**2, axis=1, keepdims=True) + EPSILON)
