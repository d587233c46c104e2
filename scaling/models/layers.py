"""Layers that the families share, their initialiser and their type.

Legend: N flattened leading dimensions, D features in, F features out; B batch, H height, W width,
C channels.
"""

import math
from collections.abc import Callable
from typing import Annotated, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from scaling.configs.types import PerMember, PositiveFloat, PositiveInt
from scaling.models.dims import known
from scaling.ops.matmul import matmul

Initializer = Callable[..., jax.Array]

# The name under which a rematerialisation policy finds what a dense layer's product gave.
DENSE_NAME = "dense"


class Model(nn.Module, kw_only=True):  # type: ignore[call-arg]
    """What most families share.

    Attributes:
      dtype: type of the products; parameters, norms, states and what comes out are float32. `auto` is
        bfloat16 on accelerators.
      init_scale: multiplies the standard deviation of every initial matrix: sqrt(2 / fan in) before
        rectifiers (He et al. 2015, 1502.01852), else sqrt(1 / fan in), where a model says no other.
      platform: where it runs: "cpu", "gpu" or "tpu". Given by the code.
    """

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    init_scale: Annotated[PositiveFloat, PerMember()] = 1.0
    platform: str = "cpu"

    @property
    def compute_dtype(self) -> str:
        """`dtype` with `auto` resolved: bfloat16 where the matrix units have it, float32 on CPU."""
        if self.dtype != "auto":
            return self.dtype
        return "float32" if self.platform == "cpu" else "bfloat16"


class Classifier(Model):
    """A model that ends in a linear layer `head`.

    Attributes:
      num_classes: K; None takes the data's.
    """

    num_classes: PositiveInt | None = None

    @property
    def classes(self) -> int:
        """`num_classes`, which must be known by now."""
        return known("num_classes", self.num_classes)

    def classify(self, x_xD: jax.Array, axis: str) -> jax.Array:
        """Logits float32 [..., K] of what the head reads; `axis` is the logical name of D."""
        axes, init = (axis, "classes"), fan_in(self.init_scale)
        head = Dense(self.classes, axes, init, True, self.compute_dtype, name="head")
        return head(x_xD).astype(jnp.float32)


def fan_in(scale: float = 1.0) -> Initializer:
    """Truncated normal with standard deviation scale / sqrt(fan in) (LeCun et al. 1998)."""
    return nn.initializers.variance_scaling(scale**2, "fan_in", "truncated_normal")


def stochastic_depth(y_Bx: jax.Array, rate: float | jax.Array, rng: jax.Array) -> jax.Array:
    """A residual branch in training, left out of a row with probability `rate`, less than 1.

    What stays is divided by 1 - rate, so that evaluation takes every branch as it is (Huang et al.
    2016, 1603.09382; the scale as in later code).
    """
    kept_B1 = jax.random.bernoulli(rng, 1.0 - rate, (len(y_Bx), *(1,) * (y_Bx.ndim - 1)))
    return jnp.where(kept_B1, y_Bx / jnp.asarray(1.0 - rate, y_Bx.dtype), 0)


def inside(count_B: jax.Array, length: int) -> jax.Array:
    """Whether a place is among the first `count_B` of its row, bool[B, length]."""
    return jnp.arange(length)[None] < count_B[:, None]


def convolution(
    features: int,
    side: int,
    *,
    init: Initializer,
    dtype: str,
    name: str,
    stride: int = 1,
    use_bias: bool = True,
    pad: int | None = None,
    out: str | None = "conv_out",
) -> nn.Conv:
    """A square convolution, its axes named.

    Args:
      features: channels out.
      side: of the kernel.
      init: of the kernel; zeros for the bias.
      dtype: type of the computation.
      name: of the layer.
      stride: of both sides.
      use_bias: whether to add a bias.
      pad: zeros on each side; None for as many as keep the sides (divided by the stride).
      out: logical name of the channels out; None where they are the few of an image.
    """
    return nn.Conv(
        features,
        (side, side),
        strides=(stride, stride),
        padding="SAME" if pad is None else ((pad, pad), (pad, pad)),
        use_bias=use_bias,
        dtype=dtype,
        kernel_init=nn.with_partitioning(init, (None, None, "conv_in", out)),
        bias_init=nn.with_partitioning(nn.initializers.zeros, ("norm",)),
        name=name,
    )


def table(
    module: nn.Module, name: str, rows: int, width: int, scale: float, axis: str = "vocab"
) -> jax.Array:
    """A parameter [rows, width] of vectors that are looked up, of length about `scale`."""
    init = nn.with_partitioning(nn.initializers.normal(scale / math.sqrt(width)), (axis, "embed"))
    return module.param(name, init, (rows, width), jnp.float32)


class Dense(nn.Module):
    """y_xF = x_xD @ kernel_DF (+ bias_F), computed on the flattened leading dimensions.

    XLA on CPU runs one (N, D) matmul faster than a batch of (T, D) ones; TPU and GPU do not mind.

    Attributes:
      features: F.
      axes: logical names of (D, F).
      kernel_init: initialiser of the kernel; zeros for the bias.
      use_bias: whether to add a bias.
      dtype: type of the computation; parameters are float32.
    """

    features: int
    axes: tuple[str | None, str | None]
    kernel_init: Initializer = fan_in()
    use_bias: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x_xD: jax.Array) -> jax.Array:
        """Maps [..., D] to [..., F] of `dtype`."""
        shape = (x_xD.shape[-1], self.features)
        kernel_DF = self.param(
            "kernel", nn.with_partitioning(self.kernel_init, self.axes), shape, jnp.float32
        )
        x_ND = x_xD.reshape(-1, shape[0]).astype(self.dtype)
        y_NF = matmul(x_ND, kernel_DF.astype(self.dtype), self.axes)
        y_NF = checkpoint_name(y_NF, DENSE_NAME)
        if self.use_bias:
            bias_F = self.param(
                "bias",
                nn.with_partitioning(nn.initializers.zeros, self.axes[1:]),
                shape[1:],
                jnp.float32,
            )
            y_NF = y_NF + bias_F.astype(self.dtype)[None]
        return y_NF.reshape(*x_xD.shape[:-1], self.features)


def upsampled(x_BHWC: jax.Array) -> jax.Array:
    """Twice the sides, each value repeated."""
    batch, height, width, channels = x_BHWC.shape
    x = jnp.broadcast_to(x_BHWC[:, :, None, :, None], (batch, height, 2, width, 2, channels))
    return x.reshape(batch, 2 * height, 2 * width, channels)
