"""Taggers of tokens: a Transformer encoder and bidirectional GRU layers, with a linear head.

What stands behind a text (its padding) changes nothing.

Legend: B batch, T time, D model width, V vocabulary, K tags.
"""

from typing import Annotated

import flax.linen as nn
import jax
import jax.numpy as jnp

from scaling.configs.errors import ConfigError
from scaling.configs.types import PositiveInt, Range
from scaling.models.cost import Cost
from scaling.models.layers import Dense, Model, fan_in
from scaling.models.norm import LayerNorm
from scaling.models.rnn import KINDS, Layer, both_ways
from scaling.models.text import TextEncoder
from scaling.ops import constrain
from scaling.ops.matmul import lookup


class EncoderTagger(TextEncoder):
    """The encoder of `TextEncoder` with its head on every token; the fields are the same."""

    def __call__(  # type: ignore[override]
        self, inputs_BT: jax.Array, segments_BT: jax.Array, *, train: bool
    ) -> jax.Array:
        """Logits float32 [B, T, K].

        Args:
          inputs_BT: int32 tokens.
          segments_BT: int32, 0 for padding, which stands behind the text.
          train: whether dropout is on.
        """
        x_BTD = self.hidden(inputs_BT, segments_BT, train=train).astype(jnp.float32)
        return self.classifier(self.input_dropout(x_BTD, deterministic=not train))

    def cost(self, seq_len: int) -> Cost | None:
        """What a text of `seq_len` tokens passes through; padding counts as work."""
        text = super().cost(seq_len)
        if text is None:
            return None
        assert self.num_classes is not None
        head = self.model_dim * self.num_classes
        return Cost(
            body=text.body,
            matmul=text.matmul + (seq_len - 1) * head,
            embedding=text.embedding,
            attention=text.attention,
            attention_causal=text.attention_causal,
        )


class GRUTagger(Model):
    """Layers of two GRUs of D / 2 units, one in each direction (Huang et al. 2015, 1508.01991).

    x + both(LayerNorm(x)), and a norm before the head.

    Attributes:
      num_classes: K; None takes the data's.
      vocab_size: V; None takes the data's.
      num_layers: of two GRUs each.
      model_dim: D, of the embeddings and of every layer.
      dropout: rate on the embeddings, after each layer and before the head.
    """

    num_classes: PositiveInt | None = None
    vocab_size: PositiveInt | None = None
    num_layers: PositiveInt = 1
    model_dim: PositiveInt = 128
    dropout: Annotated[float, Range(0, below=1)] = 0.3

    @nn.compact
    def __call__(self, inputs_BT: jax.Array, segments_BT: jax.Array, *, train: bool) -> jax.Array:
        """Logits float32 [B, T, K]; arguments as of `EncoderTagger`."""
        if self.num_classes is None or self.vocab_size is None:
            raise ValueError("model.num_classes or vocab_size is not set and the data gave none")
        if self.model_dim % 2:
            raise ConfigError(
                "model.model_dim", f"is {self.model_dim}", "make it even: each direction has half"
            )
        dtype = self.compute_dtype
        drop = nn.Dropout(self.dropout, deterministic=not train)
        init = nn.initializers.normal(self.init_scale / self.model_dim**0.5)
        embedding_VD = self.param(
            "embedding",
            nn.with_partitioning(init, ("vocab", "embed")),
            (self.vocab_size, self.model_dim),
        )
        x_BTD = drop(lookup(embedding_VD, inputs_BT))
        length_B = jnp.sum(segments_BT > 0, axis=1)
        for i in range(self.num_layers):
            y_BTD = LayerNorm(dtype=dtype, name=f"norm_{i}")(x_BTD)
            ahead, behind = (
                Layer("gru", self.model_dim // 2, self.init_scale, dtype, name=f"{way}_{i}")
                for way in ("forward", "backward")
            )
            y_BTD = drop(both_ways(ahead, behind, y_BTD, length_B))
            x_BTD = constrain(x_BTD + y_BTD, ("batch", "length", "embed"))
        x_BTD = LayerNorm(dtype=dtype, name="final_norm")(x_BTD)
        scale = fan_in(self.init_scale)
        head = Dense(self.num_classes, ("embed", "classes"), scale, True, dtype, name="head")
        return head(drop(x_BTD)).astype(jnp.float32)

    def cost(self, seq_len: int) -> Cost:
        """What a text of `seq_len` tokens passes through; padding counts as work."""
        assert self.num_classes is not None
        assert self.vocab_size is not None
        width, gates = self.model_dim, KINDS["gru"].gates
        half = width // 2
        # In each direction the inputs' matrix [D, 3 D / 2] and the recurrent one [D / 2, 3 D / 2].
        layer = 2 * gates * half * (width + half)
        head = width * self.num_classes
        biases = self.num_layers * 2 * gates * half + self.num_classes
        norms = (self.num_layers + 1) * 2 * width
        return Cost(
            body=self.num_layers * layer + head + biases + norms,
            matmul=seq_len * (self.num_layers * layer + head),
            embedding=self.vocab_size * width,
        )
