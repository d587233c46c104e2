"""A convolutional generator and discriminator for small images (after DCGAN, Radford et al. 2015).

Legend: B batch, Z latent, H height, W width, C channels.

    generator      dense to H/4 x W/4 x 4 w; twice [nearest upsampling, 3 x 3 convolution]; 3 x 3, tanh
    discriminator  3 x 3 convolution; twice 4 x 4 with stride 2, to 4 w; one linear unit

Rows do not see each other: the generator has group norm (Wu and He 2018, 1803.08494) in place of batch
norm, the discriminator none. So the loss does not depend on how a batch is cut, and averaged weights
need no statistics of their own. The generator upsamples and convolves instead of a transposed
convolution, whose overlaps leave checkerboards (Odena et al. 2016).
"""

import functools
import math
from typing import Annotated

import flax.linen as nn
import jax
import jax.numpy as jnp

from scaling.configs.errors import ConfigError
from scaling.configs.types import MultipleOf, PositiveInt
from scaling.models.layers import Dense, Model, convolution, fan_in, upsampled
from scaling.models.norm import GROUPS, group_norm
from scaling.ops import constrain

ImageShape = tuple[int, int, int]
LEAK = 0.2  # slope of the discriminator's rectifier below zero


class DCGAN(Model):
    """Two players in one module, so that one task trains both: `generator/...`, `discriminator/...`.

    Attributes:
      width: w, channels at full resolution; a multiple of 8.
      latent: Z.
      spectral_norm: divide each kernel of the discriminator by its largest singular value, which
        bounds the slope of every layer (Miyato et al. 2018, 1802.05957). The vectors of the power
        iteration are the state collection `spectral`.
    """

    width: Annotated[PositiveInt, MultipleOf(GROUPS)] = 64
    latent: PositiveInt = 64
    spectral_norm: bool = False

    def setup(self) -> None:
        """Makes the two players."""
        dtype = self.compute_dtype
        self.generator = Generator(self.width, dtype, self.init_scale)
        self.discriminator = Discriminator(self.width, self.spectral_norm, dtype, self.init_scale)

    def generate(self, z_BZ: jax.Array, shape: ImageShape) -> jax.Array:
        """Images float32 [B, H, W, C] in (-1, 1) of standard normal z; `shape` is (H, W, C)."""
        return self.generator(z_BZ, shape)

    def discriminate(self, images_BHWC: jax.Array) -> jax.Array:
        """Scores float32 [B] of images in [-1, 1], large for real ones.

        Where `spectral` is a mutable collection, the power iteration takes a step first.
        """
        return self.discriminator(images_BHWC)

    def __call__(self, z_BZ: jax.Array, shape: ImageShape) -> jax.Array:
        """Scores of generated images: touches every parameter, for `init`."""
        return self.discriminate(self.generate(z_BZ, shape))


class Generator(nn.Module):
    """Images of latent vectors; attributes as of `DCGAN`."""

    width: int
    dtype: str
    init_scale: float

    @nn.compact
    def __call__(self, z_BZ: jax.Array, shape: ImageShape) -> jax.Array:
        """[B, Z] to float32 [B, H, W, C].

        Raises:
          ConfigError: a side of the images does not divide by four.
        """
        height, width, channels = shape
        if height % 4 or width % 4:
            raise ConfigError(
                "data.source",
                f"gives images of {height} x {width}, and dcgan halves each side twice",
                "give images whose sides divide by 4, or another model",
            )
        hidden = fan_in(self.init_scale * 2**0.5)
        start, axes = (height // 4, width // 4, 4 * self.width), (None, "conv_out")
        x_BD = Dense(math.prod(start), axes, hidden, True, self.dtype, name="start")(z_BZ)
        x_BHWC = x_BD.reshape(-1, *start)
        x_BHWC = nn.relu(group_norm(self.dtype, "start_norm")(x_BHWC))
        for i, features in enumerate((2 * self.width, self.width)):
            x_BHWC = convolution(
                features, 3, init=hidden, use_bias=False, dtype=self.dtype, name=f"up_{i}"
            )(upsampled(x_BHWC))
            x_BHWC = nn.relu(group_norm(self.dtype, f"up_{i}_norm")(x_BHWC))
            x_BHWC = constrain(x_BHWC, ("batch", None, None, None))
        out = convolution(
            channels, 3, init=fan_in(self.init_scale), dtype=self.dtype, out=None, name="image"
        )
        return jnp.tanh(out(x_BHWC).astype(jnp.float32))


class Discriminator(nn.Module):
    """Scores of images; attributes as of `DCGAN`."""

    width: int
    spectral_norm: bool
    dtype: str
    init_scale: float

    @nn.compact
    def __call__(self, images_BHWC: jax.Array) -> jax.Array:
        """[B, H, W, C] to float32 [B]."""
        layer = functools.partial(SpectralConv, spectral_norm=self.spectral_norm, dtype=self.dtype)
        hidden, w = self.init_scale * 2**0.5, self.width
        x_BHWC = images_BHWC
        for i, (features, side, stride) in enumerate(((w, 3, 1), (2 * w, 4, 2), (4 * w, 4, 2))):
            conv = layer((side, side), features, stride, "conv_out", hidden, name=f"conv_{i}")
            x_BHWC = nn.leaky_relu(conv(x_BHWC), LEAK)
        # A kernel as large as what remains: a linear unit on all of it.
        window = x_BHWC.shape[1], x_BHWC.shape[2]
        head = layer(window, 1, 1, None, self.init_scale, padding="VALID", name="head")
        return head(x_BHWC).astype(jnp.float32)[:, 0, 0, 0]


class SpectralConv(nn.Module):
    """A convolution whose kernel may be divided by its largest singular value; see `convolution`.

    Attributes:
      window: sides of the kernel.
      scale: of the initial kernel; see `fan_in`.
      spectral_norm: whether it is divided.
    """

    window: tuple[int, int]
    features: int
    stride: int
    out: str | None
    scale: float
    spectral_norm: bool
    dtype: str
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        """[B, H, W, C] to [B, H', W', features] of `dtype`."""
        shape = (*self.window, x_BHWC.shape[-1], self.features)
        names = (None, None, "conv_in", self.out)
        init = nn.with_partitioning(fan_in(self.scale), names)
        kernel = self.param("kernel", init, shape, jnp.float32)
        zeros = nn.with_partitioning(nn.initializers.zeros, ("norm",))
        bias = self.param("bias", zeros, (self.features,), jnp.float32)
        if self.spectral_norm:
            kernel = kernel / self._singular_value(kernel.reshape(-1, self.features))
        y_BHWC = jax.lax.conv_general_dilated(
            x_BHWC.astype(self.dtype),
            kernel.astype(self.dtype),
            (self.stride, self.stride),
            self.padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y_BHWC + bias.astype(self.dtype)[None, None, None]

    def _singular_value(self, kernel_DF: jax.Array) -> jax.Array:
        """|W u| for the vector u of the power iteration, a constant to the gradient; float32[]."""

        def drawn() -> jax.Array:
            return _unit(jax.random.normal(self.make_rng("params"), (self.features,)))

        u_F = self.variable("spectral", "u", drawn)
        fixed_DF = jax.lax.stop_gradient(kernel_DF)
        if self.is_mutable_collection("spectral"):
            u_F.value = _unit(fixed_DF.T @ _unit(fixed_DF @ u_F.value))
        v_D = _unit(fixed_DF @ u_F.value)
        return v_D @ (kernel_DF @ u_F.value)


def _unit(x: jax.Array) -> jax.Array:
    return x / jnp.maximum(jnp.linalg.norm(x), 1e-12)
