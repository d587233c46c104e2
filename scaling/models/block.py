"""One pre-norm Transformer block: attention and feed-forward, each added to the residual stream.

Legend: B batch, T time, D model width, H query heads, G key/value heads, K head width, F hidden
width of the feed-forward block, S tokens of a memory.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from scaling.configs.component import find_component
from scaling.configs.errors import ConfigError
from scaling.configs.values import options
from scaling.models import dims
from scaling.models.cost import Cost
from scaling.models.layers import DENSE_NAME, Dense, fan_in, stochastic_depth
from scaling.models.norm import LayerNorm, RMSNorm
from scaling.ops import constrain
from scaling.ops.attention import (
    SAVED_NAME,
    Implementation,
    attention,
    attention_to_cache,
    cross_attention,
)
from scaling.ops.grouped import SAVED_NAME as EXPERTS_HIDDEN
from scaling.ops.rotary import Tables, rotate

Activation = Literal["gelu", "relu2", "swiglu", "geglu"]
Remat = Literal[
    "none",
    "full",
    "dots",
    "dots_attention",
    "dots_except_mlp",
    "save_attention",
    "save_mlp",
    "save_attention_mlp",
]

# Values that a policy keeps by name; everything else in a block is computed again.
SAVED: dict[str, tuple[str, ...]] = {
    "dots": (DENSE_NAME, EXPERTS_HIDDEN),
    "dots_attention": (DENSE_NAME, EXPERTS_HIDDEN, SAVED_NAME),
    "dots_except_mlp": ("attention_heads", "attention_projection"),
    "save_attention": (SAVED_NAME,),
    "save_mlp": ("mlp_hidden", EXPERTS_HIDDEN),
    "save_attention_mlp": (SAVED_NAME, "mlp_hidden", EXPERTS_HIDDEN),
}


# The layers of a block by name. One of your own is a flax module with the field `config`, a
# `BlockConfig`: attention is called as layer(x_BTD, segments_BT, tables), a feed-forward as
# layer(x_BTD). It may sow losses (`self.sow("losses", name, value)`) and metrics (`"metrics"`), and
# a feed-forward may state its `cost(model_dim)`.
LAYERS: dict[str, str] = {
    "attention": "scaling.models.block:Attention",
    "mlp": "scaling.models.block:FeedForward",
    "moe": "scaling.models.moe:MoE",
}


@dataclasses.dataclass(frozen=True)
class BlockConfig:
    """Sizes and choices of a block, all resolved; fields mean what they mean in `Transformer`.

    Attributes:
      residual_scale: the init scale of the two matrices that write to the residual stream.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_dim: int
    norm: Literal["rmsnorm", "layernorm"]
    norm_epsilon: float
    mlp: Activation
    qk_norm: bool
    bias: bool
    attention_softcap: float | None
    dropout: float
    dtype: str
    init_scale: float
    residual_scale: float
    attention: Implementation
    causal: bool
    max_len: int
    attention_layer: str
    feed_forward: str
    feed_forward_options: tuple[tuple[str, Any], ...]
    platform: str

    def dense(
        self, name: str, features: int, axes: tuple[str, str], residual: bool = False
    ) -> Dense:
        """A dense layer of the block; `residual` if its output is added to the residual stream."""
        init = fan_in(self.residual_scale if residual else self.init_scale)
        return Dense(features, axes, init, self.bias, self.dtype, name=name)


def remat_policy(remat: Remat) -> Callable[..., bool]:
    """What `jax.checkpoint` may keep under a policy's name.

    `dots` keeps the results of the dense layers but not of attention's batched products, which are
    quadratic in the length; `dots_attention` also attention's result (and splash's normalisers), so
    that no product of matrices is done twice.
    """
    policies = jax.checkpoint_policies
    if remat == "full":
        return policies.nothing_saveable
    return policies.save_only_these_names(*SAVED[remat])


def make_norm(config: BlockConfig, name: str | None = None) -> nn.Module:
    """The norm that a block config asks for."""
    if config.norm == "rmsnorm":
        return RMSNorm(config.norm_epsilon, config.dtype, name=name)
    return LayerNorm(config.norm_epsilon, config.bias, config.dtype, name=name)


def make_layer(
    config: BlockConfig,
    key: Literal["attention_layer", "feed_forward"],
    **module: str | None,
) -> nn.Module:
    """The attention or the feed-forward that a block config asks for.

    Args:
      config: names it, and holds its options.
      key: which of the two.
      module: flax's own fields: `name`, or `parent=None` for a layer outside of a model.

    Raises:
      ConfigError: there is none of that name, it has no such option, or a value does not fit.
    """
    layer = find_component(getattr(config, key), LAYERS, f"model.{key}")
    stated = dict(config.feed_forward_options) if key == "feed_forward" else {}
    return layer(config, **module, **options(layer, stated, f"model.{key}_options"))


class Memory(NamedTuple):
    """What the blocks of a decoder read beside their own tokens.

    Attributes:
      x_BSD: the output of an encoder.
      segments_BS: int32, 0 for padding.
    """

    x_BSD: jax.Array
    segments_BS: jax.Array


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); shaped as `nn.scan` wants its body.

    With a memory x + cross_attention(norm(x), memory) stands between the two.
    """

    config: BlockConfig

    @nn.compact
    def __call__(
        self,
        x_BTD: jax.Array,
        segments_BT: jax.Array | None,
        tables: Tables | None,
        train: bool,
        drop_rate: jax.Array | None = None,
        memory: Memory | None = None,
    ) -> tuple[jax.Array, None]:
        """Returns (new x_BTD, None).

        Args:
          x_BTD: the residual stream.
          segments_BT: documents that attention stays inside of, or None.
          tables: rotary cosines and sines, or None.
          train: whether dropout is on.
          drop_rate: rate at which training leaves a branch out for a row, float32[]; None for never.
          memory: what a decoder reads, or None.
        """
        config = self.config
        dropout = nn.Dropout(config.dropout, deterministic=not train)

        def added(x_BTD: jax.Array, norm: str, layer: nn.Module, *beside: object) -> jax.Array:
            y_BTD = dropout(layer(make_norm(config, norm)(x_BTD), *beside))
            if drop_rate is not None and train:
                y_BTD = stochastic_depth(y_BTD, drop_rate, self.make_rng("dropout"))
            return constrain(x_BTD + y_BTD, ("batch", "length", "embed"))

        attend = make_layer(config, "attention_layer", name="attention")
        x_BTD = added(x_BTD, "attention_norm", attend, segments_BT, tables)
        if memory is not None:
            read = CrossAttention(config, name="cross_attention")
            x_BTD = added(x_BTD, "cross_norm", read, memory)
        x_BTD = added(x_BTD, "mlp_norm", make_layer(config, "feed_forward", name="mlp"))
        return x_BTD, None


class Attention(nn.Module):
    """Self-attention with grouped key/value heads."""

    config: BlockConfig

    @nn.compact
    def __call__(
        self, x_BTD: jax.Array, segments_BT: jax.Array | None, tables: Tables | None
    ) -> jax.Array:
        """[B, T, D] to [B, T, D]; see `Block`."""
        config = self.config
        q_BTHK = self._heads("query", x_BTD, config.num_heads, "heads")
        k_BTGK = self._heads("key", x_BTD, config.num_kv_heads, "kv_heads")
        v_BTGK = self._heads("value", x_BTD, config.num_kv_heads, "kv_heads")
        if config.qk_norm:
            q_BTHK = RMSNorm(config.norm_epsilon, config.dtype, name="query_norm")(q_BTHK)
            k_BTGK = RMSNorm(config.norm_epsilon, config.dtype, name="key_norm")(k_BTGK)
        if tables is not None:
            q_BTHK, k_BTGK = rotate(q_BTHK, tables), rotate(k_BTGK, tables)
        if self.is_mutable_collection("cache") and not self.is_initializing():
            out_BTHK = self._decode(q_BTHK, k_BTGK, v_BTGK)
        else:
            out_BTHK = self._attend(q_BTHK, k_BTGK, v_BTGK, segments_BT)
        out_BTJ = out_BTHK.reshape(*x_BTD.shape[:2], -1)
        y_BTD = config.dense("out", x_BTD.shape[-1], ("heads", "embed"), residual=True)(out_BTJ)
        return checkpoint_name(y_BTD, "attention_projection")

    def _attend(
        self,
        q_BTHK: jax.Array,
        k_BTGK: jax.Array,
        v_BTGK: jax.Array,
        segments_BT: jax.Array | None,
    ) -> jax.Array:
        config = self.config
        return attention(
            q_BTHK,
            k_BTGK,
            v_BTGK,
            causal=config.causal,
            segments_BT=segments_BT,
            softcap=config.attention_softcap,
            implementation=config.attention,
            platform=config.platform,
        )

    def _decode(self, q_BTHK: jax.Array, k_BTGK: jax.Array, v_BTGK: jax.Array) -> jax.Array:
        """Attention to the tokens in the collection "cache", after the new ones are put there."""
        config, batch = self.config, q_BTHK.shape[0]
        if not config.causal:
            raise ConfigError("model.causal", "is False", "only a causal model can decode")
        shape = (batch, config.max_len, *k_BTGK.shape[2:])
        keys = self.variable("cache", "cached_key", jnp.zeros, shape, k_BTGK.dtype)
        values = self.variable("cache", "cached_value", jnp.zeros, shape, v_BTGK.dtype)
        length = self.variable("cache", "cached_length", jnp.zeros, (), jnp.int32)
        start = length.value
        keys.value = jax.lax.dynamic_update_slice_in_dim(keys.value, k_BTGK, start, axis=1)
        values.value = jax.lax.dynamic_update_slice_in_dim(values.value, v_BTGK, start, axis=1)
        length.value = start + q_BTHK.shape[1]
        softcap = config.attention_softcap
        return attention_to_cache(q_BTHK, keys.value, values.value, start, softcap)

    def _heads(self, name: str, x_BTD: jax.Array, heads: int, axis: str) -> jax.Array:
        config = self.config
        y_BTJ = config.dense(name, heads * config.head_dim, ("embed", axis))(x_BTD)
        y_BTJ = checkpoint_name(y_BTJ, "attention_heads")
        y_BTHK = y_BTJ.reshape(*x_BTD.shape[:2], heads, config.head_dim)
        return constrain(y_BTHK, ("batch", "length", axis, None))


class CrossAttention(Attention):
    """Attention of a decoder's tokens to all of a memory, without positions."""

    @nn.compact
    def __call__(self, x_BTD: jax.Array, memory: Memory) -> jax.Array:
        """[B, T, D] to [B, T, D]; keys and values are computed once where there is a cache."""
        config = self.config
        q_BTHK = self._heads("query", x_BTD, config.num_heads, "heads")
        if config.qk_norm:
            q_BTHK = RMSNorm(config.norm_epsilon, config.dtype, name="query_norm")(q_BTHK)
        if self.is_mutable_collection("cache") and not self.is_initializing():
            keys = self.variable("cache", "memory_key", self._memory_heads, "key", memory)
            values = self.variable("cache", "memory_value", self._memory_heads, "value", memory)
            k_BSGK, v_BSGK = keys.value, values.value
        else:
            k_BSGK, v_BSGK = (self._memory_heads(name, memory) for name in ("key", "value"))
        softcap = config.attention_softcap
        out_BTHK = cross_attention(q_BTHK, k_BSGK, v_BSGK, memory.segments_BS > 0, softcap)
        out_BTJ = out_BTHK.reshape(*x_BTD.shape[:2], -1)
        y_BTD = config.dense("out", x_BTD.shape[-1], ("heads", "embed"), residual=True)(out_BTJ)
        return checkpoint_name(y_BTD, "attention_projection")

    def _memory_heads(self, name: str, memory: Memory) -> jax.Array:
        config = self.config
        y_BSGK = self._heads(name, memory.x_BSD, config.num_kv_heads, "kv_heads")
        if config.qk_norm and name == "key":
            y_BSGK = RMSNorm(config.norm_epsilon, config.dtype, name="key_norm")(y_BSGK)
        return y_BSGK


def activated(mlp: Activation, up_xF: jax.Array, gate_xF: jax.Array | None = None) -> jax.Array:
    """The hidden units of a feed-forward; `gate_xF` for the gated forms."""
    if gate_xF is not None:
        return (nn.silu if mlp == "swiglu" else nn.gelu)(gate_xF) * up_xF
    return jnp.square(nn.relu(up_xF)) if mlp == "relu2" else nn.gelu(up_xF)


class FeedForward(nn.Module):
    """Two matrices around an activation, or three for the gated forms."""

    config: BlockConfig

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """[B, T, D] to [B, T, D]."""
        config = self.config
        names = ("up", "gate") if config.mlp in dims.GATED else ("up",)
        hidden_BTF = activated(config.mlp, *(self._up(name, x_BTD) for name in names))
        hidden_BTF = constrain(hidden_BTF, ("batch", "length", "mlp"))
        return config.dense("down", x_BTD.shape[-1], ("mlp", "embed"), residual=True)(hidden_BTF)

    def cost(self, width: int) -> Cost:
        """Of one layer of this model width."""
        hidden, ups = self.config.mlp_dim, 2 if self.config.mlp in dims.GATED else 1
        matmul = (ups + 1) * width * hidden
        bias = ups * hidden + width if self.config.bias else 0
        return Cost(body=matmul + bias, matmul=matmul)

    def _up(self, name: str, x_BTD: jax.Array) -> jax.Array:
        y_BTF = self.config.dense(name, self.config.mlp_dim, ("embed", "mlp"))(x_BTD)
        return checkpoint_name(y_BTF, "mlp_hidden")
