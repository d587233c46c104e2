"""Encoder-decoder Transformer: reads a source both ways, writes a target token by token.

Legend: B batch, S tokens of the source, T tokens of the target, D model width, V vocabulary, L
layers of the decoder.
"""

import dataclasses
import math

import jax

from scaling.configs.errors import ConfigError
from scaling.configs.types import PositiveInt
from scaling.models.block import BlockConfig, Memory, make_norm
from scaling.models.cost import Cost
from scaling.models.transformer import Transformer


class EncoderDecoder(Transformer):
    """Vaswani et al. 2017 (1706.03762) with the blocks of `Transformer`, norms before each half.

    The fields are those of `Transformer`. The decoder's blocks read the encoder's output between their
    attention and their feed-forward, without positions. One table holds the tokens of both sides and,
    tied, the output matrix.

    Attributes:
      encoder_layers: layers of the encoder; None is `num_layers`, those of the decoder.
    """

    tie_embeddings: bool = True
    encoder_layers: PositiveInt | None = None

    def setup(self) -> None:  # noqa: D102
        if not self.causal:
            raise ConfigError(
                "model.causal",
                "is False, and a decoder must not read the tokens that it predicts",
                "leave it out: the encoder reads both ways as it is",
            )
        super().setup()
        self.encoder = self.stack(self._encoder_layers())(config=self.encoder_config())
        self.encoder_norm = make_norm(self.encoder_config())

    def hidden(  # type: ignore[override]
        self,
        source_BS: jax.Array,
        segments_BS: jax.Array,
        inputs_BT: jax.Array,
        *,
        train: bool,
    ) -> jax.Array:
        """What `head_kernel` multiplies, [B, T, D] of the compute type.

        Args:
          source_BS: int32 tokens.
          segments_BS: int32, 0 for padding, which changes nothing.
          inputs_BT: int32 tokens of the target before each place, a separator first.
          train: whether dropout is on; it draws from the `dropout` random stream.
        """
        memory = self.encode(source_BS, segments_BS, train=train)
        return self.decode(memory, inputs_BT, train=train)

    def encode(self, source_BS: jax.Array, segments_BS: jax.Array, *, train: bool) -> Memory:
        """What the decoder reads of a source; arguments as in `hidden`."""
        x_BSD, tables = self.embed(source_BS, None, train=train)
        x_BSD, _ = self.encoder(x_BSD, segments_BS, tables, train, None, None)
        return Memory(self.encoder_norm(x_BSD).astype(self.compute_dtype), segments_BS)

    def decode(
        self,
        memory: Memory,
        inputs_BT: jax.Array,
        positions_BT: jax.Array | None = None,
        *,
        train: bool,
    ) -> jax.Array:
        """What `head_kernel` multiplies, [B, T, D].

        With the mutable collection "cache" the inputs are the next tokens alone; what the decoder
        takes from the memory is computed in the first such call, and kept.

        Args:
          memory: of `encode`.
          inputs_BT: int32 tokens of the target.
          positions_BT: their positions; None counts from 0.
          train: whether dropout is on.
        """
        x_BTD, tables = self.embed(inputs_BT, positions_BT, train=train)
        x_BTD, _ = self.layers(x_BTD, None, tables, train, None, memory)
        return self.final_norm(x_BTD).astype(self.compute_dtype)

    def logits(self, memory: Memory, *inputs: jax.Array, train: bool) -> jax.Array:
        """Logits of `decode`, float32 [B, T, V]; arguments as there."""
        return self.unembed(self.decode(memory, *inputs, train=train))

    def cost(self, source_len: int, target_len: int) -> Cost | None:  # type: ignore[override]
        """What a token of the target passes through, S / T tokens of the source with it."""
        layers, width, block = self.num_layers, self.model_dim, self.block_config()
        decoder = super().cost(target_len)
        reader = self.clone(num_layers=self._encoder_layers(), causal=False)
        encoder = Transformer.cost(reader, source_len)
        if decoder is None or encoder is None:
            return None
        share = source_len / target_len
        q_width, kv_width = block.num_heads * block.head_dim, block.num_kv_heads * block.head_dim
        bias = q_width + 2 * kv_width + width if self.bias else 0
        norm = 2 * width if self.norm == "layernorm" and self.bias else width
        norm += 2 * block.head_dim if self.qk_norm else 0
        of_target, of_source = 2 * width * q_width, 2 * width * kv_width  # query, out; key, value
        reading = 2 * layers * q_width * source_len
        return dataclasses.replace(
            decoder,
            body=decoder.body + encoder.body + layers * (of_target + of_source + bias + norm),
            matmul=decoder.matmul
            + layers * of_target
            + round(share * (encoder.matmul + layers * of_source)),
            idle=decoder.idle + encoder.idle,
            attention=decoder.attention + reading + share * encoder.attention,
            attention_causal=decoder.attention_causal + reading + share * encoder.attention,
        )

    def block_config(self) -> BlockConfig:
        """Of the decoder: three products of a block are added to the residual stream, not two."""
        scale = self.init_scale / math.sqrt(3 * self.num_layers)
        return dataclasses.replace(super().block_config(), residual_scale=scale)

    def encoder_config(self) -> BlockConfig:
        """Of the encoder."""
        scale = self.init_scale / math.sqrt(2 * self._encoder_layers())
        return dataclasses.replace(super().block_config(), residual_scale=scale, causal=False)

    def _encoder_layers(self) -> int:
        return self.encoder_layers or self.num_layers
