"""Multi-layer perceptron on flattened images.

Legend: B batch, H height, W width, C channels, D features, K classes.
"""

import itertools
import math

import flax.linen as nn
import jax

from scaling.configs.types import Fraction, PositiveInt
from scaling.models.cost import Cost
from scaling.models.layers import Classifier, Dense, fan_in


class MLP(Classifier):
    """Dense layers with ReLU, and a linear head.

    Attributes:
      hidden_dims: widths of the hidden layers.
      dropout: rate after each hidden layer.
    """

    hidden_dims: tuple[PositiveInt, ...] = (512, 256)
    dropout: Fraction = 0.0

    @nn.compact
    def __call__(self, images_BHWC: jax.Array, *, train: bool) -> jax.Array:
        """Logits float32 [B, K] of images with values in [0, 1]."""
        dtype = self.compute_dtype
        x_BD = images_BHWC.reshape(images_BHWC.shape[0], -1)
        # Axis names alternate as in a Transformer's block, so that neighbours shard to match.
        for i, width in enumerate(self.hidden_dims):
            axes = ("embed", "mlp") if i % 2 == 0 else ("mlp", "embed")
            init = fan_in(self.init_scale * 2**0.5)
            x_BD = nn.relu(Dense(width, axes, init, True, dtype, name=f"dense_{i}")(x_BD))
            x_BD = nn.Dropout(self.dropout, deterministic=not train)(x_BD)
        return self.classify(x_BD, "embed" if len(self.hidden_dims) % 2 == 0 else "mlp")

    def cost(self, image_shape: tuple[int, int, int]) -> Cost:
        """What an image of (height, width, channels) passes through."""
        widths = (math.prod(image_shape), *self.hidden_dims, self.classes)
        products = [a * b for a, b in itertools.pairwise(widths)]
        return Cost(body=sum(products) + sum(widths[1:]), matmul=sum(products), first=products[0])
