"""A small U-Net that is told the time (after Ho et al. 2020, 2006.11239, appendix B).

Legend: B batch, H height, W width, C channels, D features, T = H W positions, N heads, K head width.

    down    for each level: residual blocks; a convolution with stride 2 to the next
    middle  residual block, self-attention over all positions, residual block
    up      for each level: one residual block more, each reading what the way down left

Each residual block adds a projection of the time; norms are group norms, so rows do not see each other.
"""

import functools
import math
from typing import Annotated

import flax.linen as nn
import jax
import jax.numpy as jnp

from scaling.configs.errors import ConfigError
from scaling.configs.types import Fraction, MultipleOf, PositiveInt
from scaling.models.dims import head_dim
from scaling.models.layers import Dense, Model, convolution, fan_in, upsampled
from scaling.models.norm import GROUPS, group_norm
from scaling.ops import constrain
from scaling.ops.attention import attention

# Times of 0 to 1 are seen as 0 to 1,000, with wavelengths up to 10,000 (as positions of a text).
TIME_SCALE, LONGEST = 1000.0, 10_000.0


class UNet(Model):
    """Called as model(x_BHWC, time_B, train=...) -> float32 [B, H, W, C], of the shape of x.

    Attributes:
      width: channels at full resolution; a multiple of 8.
      multipliers: channels of each level in multiples of the width; each level but the first has
        half the side of the one before.
      blocks: residual blocks of a level on the way down; one more on the way up.
      num_heads: of the attention at the lowest level.
      dropout: rate inside residual blocks.
      init_scale: multiplies the standard deviation sqrt(1 / fan in) of the initial kernels; the
        last of each branch, and the output, start at zero.
    """

    width: Annotated[PositiveInt, MultipleOf(GROUPS)] = 64
    multipliers: tuple[PositiveInt, ...] = (1, 2, 2)
    blocks: PositiveInt = 2
    num_heads: PositiveInt = 4
    dropout: Fraction = 0.0

    @nn.compact
    def __call__(self, x_BHWC: jax.Array, time_B: jax.Array, *, train: bool) -> jax.Array:
        """Velocity or noise of images in about [-1, 1] at times in [0, 1]."""
        self._check(x_BHWC.shape[1:3])
        dtype = self.compute_dtype
        conv = functools.partial(convolution, init=fan_in(self.init_scale), dtype=dtype)
        features = [self.width * m for m in self.multipliers]
        time_BD = self._time(time_B, dtype)

        def block(x_BHWC: jax.Array, features: int, name: str) -> jax.Array:
            layer = ResidualBlock(features, self.dropout, dtype, self.init_scale, name=name)
            return constrain(layer(x_BHWC, time_BD, train), ("batch", None, None, None))

        h = conv(self.width, 3, name="first")(x_BHWC)
        left = [h]
        for i, wide in enumerate(features):
            if i:
                h = conv(h.shape[-1], 3, stride=2, name=f"down_{i}")(h)
                left.append(h)
            for j in range(self.blocks):
                h = block(h, wide, f"down_{i}_{j}")
                left.append(h)
        h = block(h, features[-1], "middle_0")
        h = SelfAttention(self.num_heads, dtype, self.init_scale, name="attention")(h)
        h = block(h, features[-1], "middle_1")
        for i, wide in reversed(list(enumerate(features))):
            for j in range(self.blocks + 1):
                h = block(jnp.concatenate([h, left.pop()], axis=-1), wide, f"up_{i}_{j}")
            if i:
                h = conv(wide, 3, name=f"up_{i}")(upsampled(h))
        h = nn.silu(group_norm(dtype, "last_norm")(h))
        last = conv(x_BHWC.shape[-1], 3, init=nn.initializers.zeros, out=None, name="last")
        return last(h).astype(jnp.float32)

    def _check(self, sides: tuple[int, ...]) -> None:
        """Raises ConfigError where there is no level, or the sides do not divide."""
        if not self.multipliers:
            raise ConfigError("model.multipliers", "is empty", "give one for each level")
        factor = 2 ** (len(self.multipliers) - 1)
        if sides[0] % factor or sides[1] % factor:
            raise ConfigError(
                "model.multipliers",
                f"{len(self.multipliers)} levels need sides that divide by {factor}, and the images "
                f"are {sides[0]} x {sides[1]}",
                "give fewer multipliers",
            )

    def _time(self, time_B: jax.Array, dtype: str) -> jax.Array:
        """Sines and cosines of the time through two dense layers, [B, 4 width]."""
        half = self.width // 2
        rate_D = jnp.exp(-math.log(LONGEST) * jnp.arange(half) / half)
        angle_BD = TIME_SCALE * time_B[:, None] * rate_D[None]
        x_BD = jnp.concatenate([jnp.cos(angle_BD), jnp.sin(angle_BD)], axis=-1)
        wide, init = 4 * self.width, fan_in(self.init_scale)
        x_BD = nn.silu(Dense(wide, (None, "mlp"), init, True, dtype, name="time_0")(x_BD))
        return nn.silu(Dense(wide, ("mlp", "embed"), init, True, dtype, name="time_1")(x_BD))


class ResidualBlock(nn.Module):
    """x + branch(x, time): twice [group norm, SiLU, 3 x 3 convolution], the time in between.

    Attributes:
      features: channels out; where they differ from those in, a 1 x 1 convolution is the shortcut.
      dropout: rate before the second convolution.
      dtype: type of the computation.
      init_scale: as of `UNet`.
    """

    features: int
    dropout: float
    dtype: str
    init_scale: float

    @nn.compact
    def __call__(self, x_BHWC: jax.Array, time_BD: jax.Array, train: bool) -> jax.Array:
        """[B, H, W, C] to [B, H, W, features]."""
        init = fan_in(self.init_scale)
        conv = functools.partial(convolution, self.features, init=init, dtype=self.dtype)
        h = nn.silu(group_norm(self.dtype, "norm_0")(x_BHWC))
        h = conv(3, name="conv_0")(h)
        time = Dense(self.features, ("embed", "conv_out"), init, True, self.dtype, name="time")
        h = h + time(time_BD)[:, None, None]
        h = nn.silu(group_norm(self.dtype, "norm_1")(h))
        h = nn.Dropout(self.dropout, deterministic=not train)(h)
        h = conv(3, init=nn.initializers.zeros, name="conv_1")(h)
        if x_BHWC.shape[-1] != self.features:
            x_BHWC = conv(1, name="shortcut")(x_BHWC)
        return x_BHWC.astype(self.dtype) + h


class SelfAttention(nn.Module):
    """x + attention over all positions; attributes as of `UNet`."""

    num_heads: int
    dtype: str
    init_scale: float

    @nn.compact
    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        """[B, H, W, C] to the same."""
        batch, height, width, channels = x_BHWC.shape
        split = (batch, height * width, self.num_heads, head_dim(channels, self.num_heads))
        x_BTD = group_norm(self.dtype, "norm")(x_BHWC).reshape(batch, -1, channels)
        axes, init = ("embed", "heads"), fan_in(self.init_scale)
        q, k, v = (
            Dense(channels, axes, init, True, self.dtype, name=name)(x_BTD).reshape(split)
            for name in ("query", "key", "value")
        )
        # A few dozen positions: the flash kernels want more, and some an even number.
        y_BTNK = attention(q, k, v, causal=False, implementation="xla")
        zero = nn.initializers.zeros
        out = Dense(channels, ("heads", "embed"), zero, True, self.dtype, name="out")
        return x_BHWC + out(y_BTNK.reshape(x_BTD.shape)).reshape(x_BHWC.shape)
