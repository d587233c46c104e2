"""A small convolutional network with batch norm, for small images.

Legend: B batch, H height, W width, C channels, D features that the head reads, K classes.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from scaling.configs.types import Fraction, PositiveInt, Probability
from scaling.models.cost import Cost
from scaling.models.layers import Classifier, convolution, fan_in
from scaling.models.norm import GroupedBatchNorm


class CNN(Classifier):
    """Stages of [convolution, 2 x 2 max pooling, batch norm, ReLU]; a linear head on all that remains.

    The batch statistics are mutable state beside the parameters (`batch_stats`).

    Attributes:
      channels: output channels of each stage.
      kernel_size: side of the square kernels.
      batch_norm_group: rows that share batch statistics; see `GroupedBatchNorm`. None normalises
        over the whole (micro)batch, and then the result depends on the accumulation.
      batch_norm_momentum: share of the old running statistics that a step keeps.
      dropout: rate before the head.
    """

    channels: tuple[PositiveInt, ...] = (16, 32, 64)
    kernel_size: PositiveInt = 3
    batch_norm_group: PositiveInt | None = None
    batch_norm_momentum: Probability = 0.9
    dropout: Fraction = 0.0

    @nn.compact
    def __call__(self, images_BHWC: jax.Array, *, train: bool) -> jax.Array:
        """Logits float32 [B, K] of images with values in [0, 1]."""
        dtype = self.compute_dtype
        x_BHWC = images_BHWC.astype(dtype)
        for i, channels in enumerate(self.channels):
            conv = convolution(
                channels,
                self.kernel_size,
                init=fan_in(self.init_scale * 2**0.5),
                dtype=dtype,
                name=f"conv_{i}",
                use_bias=False,  # batch norm takes the mean away again
            )
            x_BHWC = max_pool(conv(x_BHWC))
            norm = GroupedBatchNorm(
                self.batch_norm_group, self.batch_norm_momentum, dtype=dtype, name=f"norm_{i}"
            )
            x_BHWC = nn.relu(norm(x_BHWC, train=train))
        # Flattened, not averaged: where in the image a feature is tells digits apart.
        x_BD = x_BHWC.reshape(x_BHWC.shape[0], -1)
        x_BD = nn.Dropout(self.dropout, deterministic=not train)(x_BD)
        return self.classify(x_BD, "conv_out")

    def cost(self, image_shape: tuple[int, int, int]) -> Cost:
        """What an image of (height, width, channels) passes through; padding counts as work."""
        height, width, channels = image_shape
        body, products = 0, []
        for features in self.channels:
            kernel = self.kernel_size**2 * channels * features
            body += kernel + 2 * features  # batch norm: scale and shift
            products.append(kernel * height * width)
            height, width, channels = -(-height // 2), -(-width // 2), features
        head = height * width * channels * self.classes
        return Cost(
            body=body + head + self.classes,
            matmul=sum(products) + head,
            first=products[0] if products else head,
        )


def max_pool(x_BHWC: jax.Array) -> jax.Array:
    """Largest of each 2 x 2 square; an odd last row or column stands alone.

    By reshaping, not `nn.max_pool`: the gradient of XLA's pooling (select-and-scatter) took half of
    the CNN's train step on CPU.
    """
    batch, height, width, channels = x_BHWC.shape
    odd = ((0, 0), (0, height % 2), (0, width % 2), (0, 0))
    x_BHWC = jnp.pad(x_BHWC, odd, constant_values=-jnp.inf)
    squares = (batch, -(-height // 2), 2, -(-width // 2), 2, channels)
    return jnp.max(x_BHWC.reshape(squares), axis=(2, 4))
