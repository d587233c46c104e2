"""Classifiers of texts and of their tokens: Kim's convolutions, a Transformer encoder, GRU layers.

What stands behind a text (its padding) changes nothing.

Legend: B batch, T time, E embedding width, W words under a filter, F filters, D model width, V
vocabulary, K classes.
"""

import dataclasses
from typing import Annotated

import flax.linen as nn
import jax
import jax.numpy as jnp

from scaling.configs.errors import ConfigError
from scaling.configs.types import Fraction, PerMember, PositiveFloat, PositiveInt
from scaling.models.cost import Cost
from scaling.models.dims import known
from scaling.models.layers import Classifier, Dense, fan_in, table
from scaling.models.rnn import KINDS, bidirectional
from scaling.models.transformer import Transformer
from scaling.ops.matmul import lookup
from scaling.ops.rotary import Tables


class KimCNN(nn.Module):
    """Filters of several widths over word embeddings, their largest value over time, a linear head.

    Kim 2014 (1408.5882), his CNN-rand. Filters reach over both ends of the text, and what stands
    behind it (the padding) counts for nothing: the logits do not depend on how far a text is padded.

    Attributes:
      num_classes: K; None takes the data's.
      vocab_size: V; None takes the data's.
      embed_dim: E.
      filter_widths: W of each set of filters, in words.
      filters: F of each set.
      dropout: rate before the head.
      embed_dropout: share of words that training leaves out, the same numbers of a word together.
      init_scale: multiplies the standard deviation of the initial matrices; sqrt(2 / fan in) before
        ReLU, sqrt(1 / fan in) for the head.
      embed_scale: standard deviation of the initial embeddings.
    """

    num_classes: PositiveInt | None = None
    vocab_size: PositiveInt | None = None
    embed_dim: PositiveInt = 300
    filter_widths: tuple[PositiveInt, ...] = (3, 4, 5)
    filters: PositiveInt = 100
    dropout: Fraction = 0.5
    embed_dropout: Fraction = 0.0
    init_scale: Annotated[PositiveFloat, PerMember()] = 1.0
    embed_scale: PositiveFloat = 0.25

    @nn.compact
    def __call__(self, inputs_BT: jax.Array, segments_BT: jax.Array, *, train: bool) -> jax.Array:
        """Logits float32 [B, K].

        Args:
          inputs_BT: int32 tokens.
          segments_BT: int32, 0 for padding, which stands behind the text.
          train: whether dropout is on.
        """
        init = nn.with_partitioning(nn.initializers.normal(self.embed_scale), ("vocab", "embed"))
        rows = known("vocab_size", self.vocab_size)
        embedding_VE = self.param("embedding", init, (rows, self.embed_dim))
        text_BT = (segments_BT > 0).astype(jnp.float32)
        x_BTE = lookup(embedding_VE, inputs_BT) * text_BT[:, :, None]
        words = nn.Dropout(self.embed_dropout, broadcast_dims=(2,), deterministic=not train)
        x_BTE = words(x_BTE)
        if not self.is_initializing():
            x_BTE = self.perturb("embedded", x_BTE)
        pooled = [self._filter(x_BTE, text_BT, width) for width in self.filter_widths]
        x_BF = jnp.concatenate(pooled, axis=-1)
        x_BF = nn.Dropout(self.dropout, deterministic=not train)(x_BF)
        classes, axes = known("num_classes", self.num_classes), ("mlp", "classes")
        return Dense(classes, axes, fan_in(self.init_scale), True, name="head")(x_BF)

    def _filter(self, x_BTE: jax.Array, text_BT: jax.Array, width: int) -> jax.Array:
        """The largest value of each filter of one width, [B, F].

        A product of windows laid out side by side, not `nn.Conv`: a population's convolution would
        be one with groups, which XLA on CPU runs slowly.
        """
        length, ends = x_BTE.shape[1], (width - 1, width - 1)
        wide_BTE = jnp.pad(x_BTE, ((0, 0), ends, (0, 0)))
        windows = [wide_BTE[:, i : i + length + width - 1] for i in range(width)]
        window_BTJ = jnp.concatenate(windows, axis=-1)
        init = fan_in(self.init_scale * 2**0.5)
        layer = Dense(self.filters, ("embed", "mlp"), init, True, name=f"filter_{width}")
        value_BTF = nn.relu(layer(window_BTJ))
        # Window t holds tokens t - W + 1 to t: some of the text while t < its length + W - 1.
        inside_BT = jnp.pad(text_BT, ((0, 0), (width - 1, 0)), constant_values=1.0)
        return jnp.max(value_BTF * inside_BT[:, :, None], axis=1)

    def cost(self, seq_len: int) -> Cost:
        """What a text of `seq_len` tokens passes through; padding counts as work."""
        classes = known("num_classes", self.num_classes)
        body = matmul = 0
        for width in self.filter_widths:
            kernel = width * self.embed_dim * self.filters
            body += kernel + self.filters
            matmul += kernel * (seq_len + width - 1)
        head = len(self.filter_widths) * self.filters * classes
        return Cost(
            body=body + head + classes,
            matmul=matmul + head,
            embedding=known("vocab_size", self.vocab_size) * self.embed_dim,
        )


class TextEncoder(Transformer):
    """The Transformer's blocks without the causal mask, the mean over the text, a linear head.

    The fields are those of `Transformer`; its output matrix over the vocabulary is not there.

    Attributes:
      num_classes: K; None takes the data's.
    """

    num_classes: PositiveInt | None = None
    causal: bool = False
    tie_embeddings: bool = True

    def setup(self) -> None:  # noqa: D102
        if not self.tie_embeddings:
            raise ConfigError(
                "model.tie_embeddings",
                "is False, and a classifier has no output matrix over the vocabulary",
                "leave it out",
            )
        super().setup()
        classes, axes = known("num_classes", self.num_classes), ("embed", "classes")
        self.classifier = Dense(classes, axes, fan_in(self.init_scale), True)

    def embed(  # noqa: D102
        self, inputs_BT: jax.Array, positions_BT: jax.Array | None, *, train: bool
    ) -> tuple[jax.Array, Tables | None]:
        x_BTD, tables = super().embed(inputs_BT, positions_BT, train=train)
        return x_BTD if self.is_initializing() else self.perturb("embedded", x_BTD), tables

    def __call__(  # type: ignore[override]
        self, inputs_BT: jax.Array, segments_BT: jax.Array, *, train: bool
    ) -> jax.Array:
        """Logits float32 [B, K]; arguments as of `KimCNN`."""
        x_BTD = self.hidden(inputs_BT, segments_BT, train=train).astype(jnp.float32)
        text_BT1 = (segments_BT > 0).astype(jnp.float32)[:, :, None]
        mean_BD = jnp.sum(x_BTD * text_BT1, axis=1) / jnp.sum(text_BT1, axis=1)
        return self.classifier(self.input_dropout(mean_BD, deterministic=not train))

    def cost(self, seq_len: int) -> Cost | None:
        """What a text of `seq_len` tokens passes through; padding counts as work."""
        token = super().cost(seq_len)
        if token is None:
            return None
        classes = known("num_classes", self.num_classes)
        head = self.model_dim * classes
        return Cost(
            body=token.body + head + classes,
            matmul=token.matmul * seq_len + head,
            embedding=token.embedding,
            attention=token.attention * seq_len,
            attention_causal=token.attention_causal * seq_len,
        )


class EncoderTagger(TextEncoder):
    """The encoder of `TextEncoder` with its head on every token; the fields are the same."""

    def __call__(  # type: ignore[override]
        self, inputs_BT: jax.Array, segments_BT: jax.Array, *, train: bool
    ) -> jax.Array:
        """Logits float32 [B, T, K]; arguments as of `KimCNN`."""
        x_BTD = self.hidden(inputs_BT, segments_BT, train=train).astype(jnp.float32)
        return self.classifier(self.input_dropout(x_BTD, deterministic=not train))

    def cost(self, seq_len: int) -> Cost | None:
        """What a text of `seq_len` tokens passes through; padding counts as work."""
        text = super().cost(seq_len)
        if text is None:
            return None
        head = self.model_dim * known("num_classes", self.num_classes)
        return dataclasses.replace(text, matmul=text.matmul + (seq_len - 1) * head)


class GRUTagger(Classifier):
    """`bidirectional` layers and a head on every token (Huang et al. 2015, 1508.01991).

    Attributes:
      vocab_size: V; None takes the data's.
      num_layers: of two GRUs each.
      model_dim: D, of the embeddings and of every layer.
      dropout: rate on the embeddings, after each layer and before the head.
    """

    vocab_size: PositiveInt | None = None
    num_layers: PositiveInt = 1
    model_dim: PositiveInt = 128
    dropout: Fraction = 0.3

    @nn.compact
    def __call__(self, inputs_BT: jax.Array, segments_BT: jax.Array, *, train: bool) -> jax.Array:
        """Logits float32 [B, T, K]; arguments as of `KimCNN`."""
        drop = nn.Dropout(self.dropout, deterministic=not train)
        rows = known("vocab_size", self.vocab_size)
        embedding_VD = table(self, "embedding", rows, self.model_dim, self.init_scale)
        x_BTD = bidirectional(
            drop(lookup(embedding_VD, inputs_BT)),
            jnp.sum(segments_BT > 0, axis=1),
            layers=self.num_layers,
            init_scale=self.init_scale,
            dtype=self.compute_dtype,
            drop=drop,
        )
        return self.classify(drop(x_BTD), "embed")

    def cost(self, seq_len: int) -> Cost:
        """What a text of `seq_len` tokens passes through; padding counts as work."""
        width, gates = self.model_dim, KINDS["gru"].gates
        half = width // 2
        # In each direction the inputs' matrix [D, 3 D / 2] and the recurrent one [D / 2, 3 D / 2].
        layer = 2 * gates * half * (width + half)
        head = width * self.classes
        biases = self.num_layers * 2 * gates * half + self.classes
        norms = (self.num_layers + 1) * 2 * width
        return Cost(
            body=self.num_layers * layer + head + biases + norms,
            matmul=seq_len * (self.num_layers * layer + head),
            embedding=known("vocab_size", self.vocab_size) * width,
        )
