"""Speech recognisers: a spectrogram becomes logits of symbols, fewer frames a second.

Two strided convolutions over time and frequency, then an encoder: bidirectional GRU layers or
conformer blocks; a linear head. What stands behind an utterance (its padding) is held at zero or
hidden throughout: the logits of its frames do not depend on how far it is padded.

Legend: B batch, T frames of the spectrogram, M mel bands, U frames of the encoder, N bands after the
convolutions, C channels, D model width, V symbols.
"""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from scaling.configs.errors import ConfigError
from scaling.configs.types import Fraction, PositiveInt
from scaling.models.block import Attention, BlockConfig, FeedForward
from scaling.models.dims import known
from scaling.models.layers import Dense, Model, fan_in, inside
from scaling.models.norm import LayerNorm
from scaling.models.rnn import bidirectional
from scaling.models.transformer import Transformer
from scaling.ops import constrain
from scaling.ops.log_mel import Count
from scaling.ops.rotary import Tables, rotary_tables

KERNEL = 3  # side of the convolutions over the spectrogram


class Recogniser(Model):
    """What both encoders share: the convolutions before them, the head behind.

    Attributes:
      vocab_size: V, the blank among them; None takes the data's.
      channels: C.
      time_strides: frames that each of the two convolutions makes one of; over frequency both make
        one of two.
      model_dim: D.
      num_layers: layers of the encoder.
      dropout: rate after the convolutions and after each layer or part of a block.
    """

    vocab_size: PositiveInt | None = None
    channels: PositiveInt = 32
    time_strides: tuple[PositiveInt, PositiveInt] = (2, 2)
    model_dim: PositiveInt = 256
    num_layers: PositiveInt = 2
    dropout: Fraction = 0.1

    @nn.compact
    def __call__(self, features_BTM: jax.Array, frames_B: jax.Array, *, train: bool) -> jax.Array:
        """Logits float32 [B, U, V], U = `encoder_frames(T)`.

        Args:
          features_BTM: standardised log-mel spectrograms.
          frames_B: int32, how many frames of each are of the utterance; the rest is padding.
          train: whether dropout is on.
        """
        drop = nn.Dropout(self.dropout, deterministic=not train)
        x_BTMC = features_BTM[..., None].astype(self.compute_dtype)
        for i, stride in enumerate(self.time_strides):
            frames_B = -(-frames_B // stride)
            x_BTMC = nn.relu(self._convolution(f"conv_{i}", stride)(x_BTMC))
            inside_BT = inside(frames_B, x_BTMC.shape[1])
            x_BTMC = x_BTMC * inside_BT[..., None, None].astype(x_BTMC.dtype)
        x_BUJ = x_BTMC.reshape(*x_BTMC.shape[:2], -1)
        x_BUD = self._dense("project", self.model_dim, ("conv_out", "embed"))(x_BUJ)
        x_BUD = drop(LayerNorm(dtype=self.compute_dtype, name="project_norm")(x_BUD))
        x_BUD = self.encode(x_BUD, frames_B, drop, train)
        head = self._dense("head", known("vocab_size", self.vocab_size), ("embed", "vocab"))
        return head(x_BUD).astype(jnp.float32)

    def encode(
        self, x_BUD: jax.Array, frames_B: jax.Array, drop: nn.Module, train: bool
    ) -> jax.Array:
        """The layers between convolutions and head, [B, U, D] to [B, U, D]; of the subclass."""
        raise NotImplementedError

    def encoder_frames(self, frames: Count) -> Count:
        """Frames with logits, U, of an utterance with so many frames of the spectrogram."""
        for stride in self.time_strides:
            frames = -(-frames // stride)
        return frames

    def _dense(self, name: str, features: int, axes: tuple[str, str]) -> Dense:
        return Dense(features, axes, fan_in(self.init_scale), True, self.compute_dtype, name=name)

    def _convolution(self, name: str, stride: int) -> nn.Conv:
        # Padded by one on each side whatever the length: SAME would lay the strides of even and odd
        # lengths at different frames.
        side = KERNEL // 2
        init = fan_in(self.init_scale * 2**0.5)
        return nn.Conv(
            self.channels,
            (KERNEL, KERNEL),
            (stride, 2),
            padding=((side, side), (side, side)),
            dtype=self.compute_dtype,
            kernel_init=nn.with_partitioning(init, (None, None, "conv_in", "conv_out")),
            bias_init=nn.with_partitioning(nn.initializers.zeros, ("conv_out",)),
            name=name,
        )


class SpeechGRU(Recogniser):
    """`scaling.models.rnn.bidirectional` layers (Graves et al. 2013, 1303.5778)."""

    def encode(
        self, x_BUD: jax.Array, frames_B: jax.Array, drop: nn.Module, train: bool
    ) -> jax.Array:
        """See `Recogniser`."""
        del train
        return bidirectional(
            x_BUD,
            frames_B,
            layers=self.num_layers,
            init_scale=self.init_scale,
            dtype=self.compute_dtype,
            drop=drop,
        )


class Conformer(Recogniser):
    """Conformer blocks (Gulati et al. 2020, 2005.08100).

    Half a feed-forward, self-attention, a depthwise convolution over time, half a feed-forward, each
    added to the residual stream after a norm of its own, and a norm behind. Two things differ from
    the paper: positions are rotary, and the convolution has LayerNorm where the paper has batch
    norm, so that rows do not meet.

    Attributes:
      num_heads: of attention.
      mlp_dim: hidden width of a feed-forward; None is 4 D.
      kernel_size: frames under the depthwise convolution, odd.
    """

    num_heads: PositiveInt = 4
    mlp_dim: PositiveInt | None = None
    kernel_size: PositiveInt = 15

    def encode(
        self, x_BUD: jax.Array, frames_B: jax.Array, drop: nn.Module, train: bool
    ) -> jax.Array:
        """See `Recogniser`."""
        if self.kernel_size % 2 == 0:
            raise ConfigError(
                "model.kernel_size", f"is {self.kernel_size}", "make it odd: it lies around a frame"
            )
        if self.model_dim % (2 * self.num_heads):
            raise ConfigError(
                "model.num_heads",
                f"{self.num_heads} heads of model.model_dim={self.model_dim} have no even width, and "
                "rotary positions turn pairs of features",
                "make model_dim a multiple of twice the heads",
            )
        config = self._block_config()
        tables = rotary_tables(jnp.arange(x_BUD.shape[1]), config.head_dim, 10_000.0)
        inside_BU = inside(frames_B, x_BUD.shape[1])
        for i in range(self.num_layers):
            block = ConformerBlock(config, self.kernel_size, name=f"block_{i}")
            x_BUD = block(x_BUD, inside_BU, tables, train)
        return x_BUD

    def _block_config(self) -> BlockConfig:
        """That of a Transformer of these sizes, with four products added to the residual stream."""
        same = ("model_dim", "num_heads", "mlp_dim", "dropout", "dtype", "init_scale", "platform")
        encoder = Transformer(
            norm="layernorm",
            mlp="gelu",
            bias=True,
            causal=False,
            parent=None,
            **{key: getattr(self, key) for key in same},
        )
        scale = self.init_scale / math.sqrt(4 * self.num_layers)
        return dataclasses.replace(encoder.block_config(), residual_scale=scale)


class ConformerBlock(nn.Module):
    """One block; see `Conformer`."""

    config: BlockConfig
    kernel_size: int

    @nn.compact
    def __call__(
        self, x_BUD: jax.Array, inside_BU: jax.Array, tables: Tables, train: bool
    ) -> jax.Array:
        """[B, U, D] to [B, U, D]; `inside_BU` is False behind an utterance."""
        config = self.config
        drop = nn.Dropout(config.dropout, deterministic=not train)

        def norm(name: str) -> LayerNorm:
            return LayerNorm(config.norm_epsilon, dtype=config.dtype, name=f"{name}_norm")

        def half(name: str, x_BUD: jax.Array) -> jax.Array:
            return x_BUD + 0.5 * drop(FeedForward(config, name=name)(norm(name)(x_BUD)))

        x_BUD = half("first", x_BUD)
        y_BUD = norm("attention")(x_BUD)
        attend = Attention(config, name="attention")
        x_BUD = x_BUD + drop(attend(y_BUD, inside_BU.astype(jnp.int32), tables))
        x_BUD = x_BUD + drop(self._convolved(norm("convolution")(x_BUD), inside_BU))
        x_BUD = norm("final")(half("last", x_BUD))
        return constrain(x_BUD, ("batch", "length", "embed"))

    def _convolved(self, x_BUD: jax.Array, inside_BU: jax.Array) -> jax.Array:
        """Gated linear unit, depthwise convolution over time, norm, swish, linear."""
        config, width, length = self.config, x_BUD.shape[-1], x_BUD.shape[1]
        both_BUF = config.dense("glu", 2 * width, ("embed", "mlp"))(x_BUD)
        value_BUD, gate_BUD = jnp.split(both_BUF, 2, axis=-1)
        y_BUD = value_BUD * nn.sigmoid(gate_BUD) * inside_BU[..., None].astype(x_BUD.dtype)
        init = nn.with_partitioning(fan_in(config.init_scale), (None, "embed"))
        kernel_KD = self.param("kernel", init, (self.kernel_size, width), jnp.float32)
        # A sum of shifted arrays, which XLA fuses, and not a convolution with a group for each
        # feature, which it runs slowly on CPU.
        side = self.kernel_size // 2
        wide_BUD = jnp.pad(y_BUD, ((0, 0), (side, side), (0, 0)))
        kernel_KD = kernel_KD.astype(y_BUD.dtype)
        taps = [
            wide_BUD[:, k : k + length] * kernel_KD[k][None, None] for k in range(self.kernel_size)
        ]
        y_BUD = sum(taps[1:], taps[0])
        y_BUD = LayerNorm(config.norm_epsilon, dtype=config.dtype, name="inner_norm")(y_BUD)
        return config.dense("out", width, ("mlp", "embed"), residual=True)(nn.swish(y_BUD))
