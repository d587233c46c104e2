"""Residual networks (He et al. 2015, 1512.03385): those for CIFAR and those for ImageNet.

Legend: B batch, H height, W width, C channels, D features that the head reads, K classes.

    stem          stages                                      at the start
    cifar         3 of n basic blocks, depth 6 n + 2          3 x 3 convolution
    imagenet      4, basic (18, 34) or bottleneck blocks      7 x 7 with stride 2, 3 x 3 max pooling
    imagenet_3x3  the same                                    3 x 3 convolution, for small images

Each stage but the first halves the side and doubles the channels. Where a block changes the shape
its shortcut is a 1 x 1 convolution with a norm (option B of the paper; its CIFAR nets padded with
zeros). A bottleneck strides in its 3 x 3 convolution, as in later code ("v1.5").
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from scaling.configs.errors import ConfigError
from scaling.configs.types import Fraction, PositiveInt, Probability
from scaling.models.cost import Cost
from scaling.models.layers import Classifier, convolution, fan_in, stochastic_depth
from scaling.models.norm import GroupedBatchNorm, group_norm

# Depth -> blocks in each stage, and whether they are bottlenecks.
IMAGENET: dict[int, tuple[tuple[int, ...], bool]] = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}


class _Convolution(NamedTuple):
    """One convolution of a block: side of the kernel, stride, channels out, whether ReLU follows."""

    name: str
    side: int
    stride: int
    channels: int
    relu: bool


class _Block(NamedTuple):
    """One residual block: its branch, and the shortcut where the shape changes."""

    name: str
    branch: list[_Convolution]
    shortcut: _Convolution | None
    drop_rate: float


class ResNet(Classifier):
    """Convolutional stem, stages of residual blocks, mean over positions, a linear head.

    Attributes:
      depth: layers with weights: 6 n + 2 with the stem `cifar`, else 18, 34, 50, 101 or 152.
      stem: which kind of network; see the module's docstring.
      width: channels of the first stage; None is 16 with the stem `cifar`, else 64.
      norm: `batch` (statistics are the mutable state `batch_stats`), `group` (Wu and He 2018,
        1803.08494), or `none`: biases, and a learned scale of each branch that starts at zero
        (SkipInit; De and Smith 2020, 2002.10444).
      batch_norm_group: rows that share batch statistics; see `GroupedBatchNorm`. None normalises
        over the whole (micro)batch, and then the result depends on the accumulation.
      batch_norm_momentum: share of the old running statistics that a step keeps.
      group_channels: channels that group norm normalises together.
      dropout: rate before the head.
      stochastic_depth: rate at which the last block's branch is left out for an image in training;
        earlier blocks in proportion to their place (Huang et al. 2016, 1603.09382).
    """

    depth: PositiveInt = 20
    stem: Literal["cifar", "imagenet", "imagenet_3x3"] = "cifar"
    width: PositiveInt | None = None
    norm: Literal["batch", "group", "none"] = "batch"
    batch_norm_group: PositiveInt | None = None
    batch_norm_momentum: Probability = 0.9
    group_channels: PositiveInt = 16
    dropout: Fraction = 0.0
    stochastic_depth: Fraction = 0.0

    @nn.compact
    def __call__(self, images_BHWC: jax.Array, *, train: bool) -> jax.Array:
        """Logits float32 [B, K] of images with values in [0, 1], which it moves to [-1, 1]."""
        dtype = self.compute_dtype
        x_BHWC = (2.0 * images_BHWC - 1.0).astype(dtype)
        x_BHWC = self._convolve(self._stem(), x_BHWC, train)
        if self.stem == "imagenet":
            x_BHWC = nn.max_pool(x_BHWC, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for block in self._blocks():
            x_BHWC = self._residual(block, x_BHWC, train)
        x_BD = jnp.mean(x_BHWC.astype(jnp.float32), axis=(1, 2)).astype(dtype)
        x_BD = nn.Dropout(self.dropout, deterministic=not train)(x_BD)
        return self.classify(x_BD, "conv_out")

    def cost(self, image_shape: tuple[int, int, int]) -> Cost:
        """What an image of (height, width, channels) passes through; padding counts as work."""
        per_channel = 1 if self.norm == "none" else 2  # a bias, or a scale and a shift
        body = matmul = 0

        def pass_through(conv: _Convolution, shape: tuple[int, int, int]) -> tuple[int, int, int]:
            nonlocal body, matmul
            height, width = (-(-side // conv.stride) for side in shape[:2])
            kernel = conv.side**2 * shape[2] * conv.channels
            body += kernel + per_channel * conv.channels
            matmul += kernel * height * width
            return height, width, conv.channels

        shape = pass_through(self._stem(), image_shape)
        first = matmul
        if self.stem == "imagenet":
            shape = (-(-shape[0] // 2), -(-shape[1] // 2), shape[2])
        for block in self._blocks():
            before = shape
            for conv in block.branch:
                shape = pass_through(conv, shape)
            if block.shortcut is not None:
                pass_through(block.shortcut, before)
            body += self.norm == "none"  # the branch's scale
        head = shape[2] * self.classes
        return Cost(body=body + head + self.classes, matmul=matmul + head, first=first)

    def _width(self) -> int:
        return self.width or (16 if self.stem == "cifar" else 64)

    def _stem(self) -> _Convolution:
        side, stride = (7, 2) if self.stem == "imagenet" else (3, 1)
        return _Convolution("stem", side, stride, self._width(), relu=True)

    def _stages(self) -> tuple[tuple[int, ...], bool]:
        """(blocks in each stage, whether they are bottlenecks)."""
        if self.stem != "cifar":
            if self.depth not in IMAGENET:
                known = ", ".join(map(str, IMAGENET))
                raise ConfigError(
                    "model.depth",
                    f"{self.depth} is not a depth with model.stem={self.stem}",
                    f"give one of {known}, or --config.model.stem=cifar for 6 n + 2 layers",
                )
            return IMAGENET[self.depth]
        blocks, rest = divmod(self.depth - 2, 6)
        if rest or blocks < 1:
            near = 6 * max(1, round((self.depth - 2) / 6)) + 2
            raise ConfigError(
                "model.depth",
                f"{self.depth} is not 6 n + 2, as model.stem=cifar needs",
                f"give {near}, or --config.model.stem=imagenet for 18, 34, 50, 101 and 152",
            )
        return (blocks,) * 3, False

    def _blocks(self) -> Iterator[_Block]:
        stages, bottleneck = self._stages()
        channels_in, number, total = self._width(), 0, sum(stages)
        for i, count in enumerate(stages):
            inner = self._width() * 2**i
            out = 4 * inner if bottleneck else inner
            for j in range(count):
                stride = 2 if i > 0 and j == 0 else 1
                number += 1
                branch = [
                    _Convolution("conv_0", 3, stride, out, relu=True),
                    _Convolution("conv_1", 3, 1, out, relu=False),
                ]
                if bottleneck:
                    branch = [
                        _Convolution("conv_0", 1, 1, inner, relu=True),
                        _Convolution("conv_1", 3, stride, inner, relu=True),
                        _Convolution("conv_2", 1, 1, out, relu=False),
                    ]
                changes = stride > 1 or channels_in != out
                shortcut = _Convolution("shortcut", 1, stride, out, False) if changes else None
                drop_rate = self.stochastic_depth * number / total
                yield _Block(f"stage_{i}_block_{j}", branch, shortcut, drop_rate)
                channels_in = out

    def _residual(self, block: _Block, x_BHWC: jax.Array, train: bool) -> jax.Array:
        y_BHWC = x_BHWC
        for conv in block.branch:
            y_BHWC = self._convolve(conv, y_BHWC, train, f"{block.name}_")
        if self.norm == "none":
            init = nn.with_partitioning(nn.initializers.zeros, ())
            y_BHWC = y_BHWC * self.param(f"{block.name}_scale", init, ()).astype(y_BHWC.dtype)
        if train and block.drop_rate:
            y_BHWC = stochastic_depth(y_BHWC, block.drop_rate, self.make_rng("dropout"))
        if block.shortcut is not None:
            x_BHWC = self._convolve(block.shortcut, x_BHWC, train, f"{block.name}_")
        return nn.relu(x_BHWC + y_BHWC)

    def _convolve(
        self, conv: _Convolution, x_BHWC: jax.Array, train: bool, prefix: str = ""
    ) -> jax.Array:
        """Convolution, norm, and ReLU where it follows."""
        x_BHWC = convolution(
            conv.channels,
            conv.side,
            init=fan_in(self.init_scale * 2**0.5),
            dtype=self.compute_dtype,
            name=prefix + conv.name,
            stride=conv.stride,
            use_bias=self.norm == "none",
            pad=(conv.side - 1) // 2,  # whatever the stride, as in the published nets
        )(x_BHWC)
        x_BHWC = self._normalise(x_BHWC, train, f"{prefix}{conv.name}_norm")
        return nn.relu(x_BHWC) if conv.relu else x_BHWC

    def _normalise(self, x_BHWC: jax.Array, train: bool, name: str) -> jax.Array:
        dtype = self.compute_dtype
        if self.norm == "batch":
            group, momentum = self.batch_norm_group, self.batch_norm_momentum
            return GroupedBatchNorm(group, momentum, dtype=dtype, name=name)(x_BHWC, train=train)
        if self.norm == "none":
            return x_BHWC
        if x_BHWC.shape[-1] % self.group_channels:
            raise ConfigError(
                "model.group_channels",
                f"{self.group_channels} does not divide {x_BHWC.shape[-1]} channels",
                f"give a divisor of model.width={self._width()}",
            )
        return group_norm(dtype, name, self.group_channels)(x_BHWC)
