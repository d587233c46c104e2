"""Decoder Transformer: pre-norm, causal, the variations that language-model scaling work uses.

Legend: B batch, T time, D model width, H query heads, G key/value heads, K head width, F hidden
width of the feed-forward block, L layers, V vocabulary, N = B * T.

Parameters of the blocks are stacked over layers ("layers" is their first axis), whether the layers
run as a loop (`nn.scan`, whose compile time does not grow with depth) or unrolled (faster on CPU):
one tree, one checkpoint, one output.

Initialisation: matrices are truncated normal with variance init_scale^2 / fan in; the two matrices
of a block that write to the residual stream are scaled down by a further sqrt(2 L), which keeps the
stream's variance independent of depth (Radford et al. 2019, GPT-2, sec. 2.3). Token embeddings have
standard deviation init_scale / sqrt(D), so that a tied head starts with logits of order one. Biases
and shifts are zero, norm scales one.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from scaling.configs.errors import ConfigError
from scaling.configs.types import Fraction, PositiveFloat, PositiveInt
from scaling.models import dims
from scaling.models.block import (
    Activation,
    Block,
    BlockConfig,
    Remat,
    make_layer,
    make_norm,
    remat_policy,
)
from scaling.models.cost import Cost
from scaling.models.next_token import NextToken
from scaling.ops import constrain
from scaling.ops.attention import Implementation
from scaling.ops.matmul import lookup
from scaling.ops.rotary import Tables, rotary_tables


class Transformer(NextToken):
    """Decoder-only language model.

    Attributes:
      num_layers: L.
      num_heads: H.
      num_kv_heads: G, each serving H / G query heads (Ainslie et al. 2023, 2305.13245); None is H.
      head_dim: K; None is D / H.
      mlp_dim: F; None is 4 D, or 8/3 D rounded up to a multiple of 64 for gated forms.
      max_len: longest sequence accepted; also the rows of the learned position table.
      norm: before each half block, and before the head.
      norm_epsilon: added to the variance.
      position: rotary (2104.09864), a learned table added to the embeddings, or none.
      rope_theta: base of the rotary wavelengths.
      mlp: activation of the feed-forward block; `swiglu` and `geglu` are gated (2002.05202),
        `relu2` is the squared ReLU (2109.08668). GELU is the tanh form, as in GPT-2.
      qk_norm: RMS-normalise queries and keys of each head, with a learned scale (2302.05442).
      bias: biases in every dense layer but the head, and in LayerNorm.
      logit_softcap: c in c * tanh(logits / c) (2408.00118); None leaves logits alone.
      attention_softcap: the same for attention scores.
      dropout: rate after the embedding and after each half block, as in GPT-2, but not on attention
        weights, which flash kernels never hold.
      remat: what a block keeps for the backward pass: `none` keeps all, `full` only its input,
        `dots` results of dense layers, `dots_attention` also that of attention, `dots_except_mlp`
        those of attention's dense layers, `save_...` the named values.
      unroll: layers that run inside one turn of the loop; `auto` is one, on CPU without remat all.
      attention: kernel, see `scaling.ops.attention`.
      causal: whether a token attends only to itself and to earlier ones.
      attention_layer: the attention of a block, a flax module "package.module:Class" of your own;
        see `scaling.models.block`.
      feed_forward: the feed-forward of a block: "mlp", "moe" (`scaling.models.moe`), or likewise.
      feed_forward_options: further fields of the feed-forward, such as {"experts": 16, "top_k": 4}.
    """

    num_layers: PositiveInt = 4
    num_heads: PositiveInt = 4
    num_kv_heads: PositiveInt | None = None
    head_dim: PositiveInt | None = None
    mlp_dim: PositiveInt | None = None
    max_len: PositiveInt = 2048
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    norm_epsilon: PositiveFloat = 1e-6
    position: Literal["rope", "learned", "none"] = "rope"
    rope_theta: PositiveFloat = 10_000.0
    mlp: Activation = "swiglu"
    qk_norm: bool = False
    bias: bool = False
    logit_softcap: PositiveFloat | None = None
    attention_softcap: PositiveFloat | None = None
    dropout: Fraction = 0.0
    remat: Remat = "none"
    unroll: PositiveInt | Literal["auto"] = "auto"
    attention: Implementation = "auto"
    causal: bool = True
    attention_layer: str = "attention"
    feed_forward: str = "mlp"
    feed_forward_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    # With a mutable collection "cache" it is applied to the next tokens alone.
    caches: ClassVar[bool] = True

    def setup(self) -> None:  # noqa: D102
        self.embedding = self.make_table("embedding", self.vocab_size, "vocab")
        if self.position == "learned":
            self.positions = self.make_table("positions", self.max_len, "positions")
        self.input_dropout = nn.Dropout(self.dropout)
        self.layers = self.stack()(config=self.block_config())
        self.final_norm = make_norm(self.block_config())
        if not self.tie_embeddings:
            self.head = self.make_head()

    def hidden(
        self,
        inputs_BT: jax.Array,
        segments_BT: jax.Array | None = None,
        positions_BT: jax.Array | None = None,
        *,
        train: bool,
    ) -> jax.Array:
        """What `head_kernel` multiplies, [B, T, D] of the compute type.

        Args:
          inputs_BT: int32 tokens.
          segments_BT: int32 document of each token; attention stays inside a document. None: one.
          positions_BT: int32 position of each token; None counts from the start of the row.
          train: whether dropout is on; it draws from the `dropout` random stream.
        """
        x_BTD, tables = self.embed(inputs_BT, positions_BT, train=train)
        x_BTD, _ = self.layers(x_BTD, segments_BT, tables, train, None, None)
        return self.final_norm(x_BTD).astype(self.compute_dtype)

    def embed(
        self, inputs_BT: jax.Array, positions_BT: jax.Array | None, *, train: bool
    ) -> tuple[jax.Array, Tables | None]:
        """What the first block reads, and the rotary tables; arguments as of `hidden`."""
        length = inputs_BT.shape[1]
        if length > self.max_len:
            raise ConfigError(
                "model.max_len",
                f"a sequence of {length} tokens (data.text.seq_len) is longer than {self.max_len}",
                f"give --config.model.max_len={length}, or shorter sequences",
            )
        x_BTD = lookup(self.embedding, inputs_BT)
        tables = None
        if self.position == "learned":
            rows_xTD = self.positions[None, :length]
            if positions_BT is not None:
                rows_xTD = lookup(self.positions, positions_BT)
            x_BTD = x_BTD + rows_xTD
        elif self.position == "rope":
            positions_xT = jnp.arange(length) if positions_BT is None else positions_BT
            tables = rotary_tables(positions_xT, self.block_config().head_dim, self.rope_theta)
        x_BTD = self.input_dropout(x_BTD.astype(self.compute_dtype), deterministic=not train)
        return constrain(x_BTD, ("batch", "length", "embed")), tables

    def cost(self, seq_len: int) -> Cost | None:
        """What a token passes through at this sequence length; None if a layer of your own hides it."""
        feed_forward = make_layer(self.block_config(), "feed_forward", parent=None)
        if self.attention_layer != "attention" or not hasattr(feed_forward, "cost"):
            return None
        mlp = feed_forward.cost(self.model_dim)
        block, width, layers = self.block_config(), self.model_dim, self.num_layers
        q_width, kv_width = block.num_heads * block.head_dim, block.num_kv_heads * block.head_dim
        vocab = dims.known("vocab_size", self.vocab_size)
        matmul = width * (q_width + 2 * kv_width) + q_width * width  # query, key, value; out
        bias = q_width + 2 * kv_width + width if self.bias else 0
        norm = 2 * width if self.norm == "layernorm" and self.bias else width
        qk_norm = 2 * block.head_dim if self.qk_norm else 0
        positions = self.max_len * width if self.position == "learned" else 0
        pairs = 2 * layers * q_width  # a score and a weighted value for each pair, head and layer
        return Cost(
            body=layers * (matmul + bias + mlp.body + 2 * norm + qk_norm) + norm,
            matmul=layers * (matmul + mlp.matmul),
            embedding=vocab * width + positions,
            head=0 if self.tie_embeddings else vocab * width,
            head_matmul=vocab * width,
            idle=layers * mlp.idle,
            attention=pairs * seq_len,
            attention_causal=pairs * ((seq_len + 1) / 2 if self.causal else seq_len),
        )

    def block_config(self) -> "BlockConfig":
        """What a block must know, sizes that follow from others filled in."""
        follows: dict[str, Any] = {
            "num_kv_heads": dims.num_kv_heads(self.num_heads, self.num_kv_heads),
            "head_dim": dims.head_dim(self.model_dim, self.num_heads, self.head_dim),
            "mlp_dim": dims.mlp_dim(self.model_dim, self.mlp, self.mlp_dim),
            "dtype": self.compute_dtype,
            "residual_scale": self.init_scale / math.sqrt(2 * self.num_layers),
            "feed_forward_options": tuple(sorted(self.feed_forward_options.items())),
        }
        fields = {field.name for field in dataclasses.fields(BlockConfig)} - follows.keys()
        return BlockConfig(**{name: getattr(self, name) for name in fields}, **follows)

    def stack(self, layers: int | None = None) -> type[nn.Module]:
        """The block, rematerialised as asked, lifted over layers; `drop_rate` is one a layer.

        Args:
          layers: how many; None is L.
        """
        layers, unroll = layers or self.num_layers, self.unroll
        if unroll == "auto":
            # XLA on CPU merges a second computation with the first unless a loop is between them.
            straight = self.platform == "cpu" and self.remat == "none"
            unroll = layers if straight else 1
        unroll = min(unroll, layers)
        block: type[nn.Module] = Block
        if self.remat != "none":
            # In a loop nothing can be merged, and the barriers that prevent it would only cost.
            block = nn.remat(
                Block,
                policy=remat_policy(self.remat),
                prevent_cse=unroll == layers,
                static_argnums=(4,),
            )
        return nn.scan(
            block,
            variable_axes={True: 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(nn.broadcast, nn.broadcast, nn.broadcast, 0, nn.broadcast),
            length=layers,
            unroll=unroll,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
