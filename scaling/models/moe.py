"""A mixture of experts in place of the feed-forward of a Transformer: `model.feed_forward=moe`.

Legend: B batch, T time, D model width, E experts, K experts of a token, F hidden width of an expert.

Every token passes through the K experts that its router scores highest, and through the shared ones.
No token is dropped (`scaling.ops.grouped`), so the work of a token does not depend on the others.
With many narrow experts it is DeepSeekMoE's fine-grained form (Dai et al. 2024, 2401.06066).

What keeps the load even is one of

    balance    weight of Switch's loss, E sum_e f_e p_e with f_e the share of the choices that fell on
               expert e and p_e the mean of its share of the scores (Fedus et al. 2021, 2101.03961)
    bias_rate  step of a bias that is added to the scores when experts are chosen, and not when their
               outputs are weighed (Wang et al. 2024, 2408.15664): bias_e += rate (1 - E f_e). Theirs is
               the sign of it; being linear, the mean over microbatches is that of the whole batch.

The balance loss is of a microbatch, so accumulation changes it, as it changes batch norm. The load f
is reported as `train/load`, [layers, experts].
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from scaling.configs.errors import ConfigError
from scaling.configs.types import NonNegativeFloat, NonNegativeInt, PositiveInt
from scaling.models import dims
from scaling.models.block import BlockConfig, FeedForward, activated
from scaling.models.cost import Cost
from scaling.models.layers import Dense, fan_in
from scaling.ops.grouped import KERNEL_AXES, experts


class MoE(nn.Module):
    """Top-k routed experts, shaped like the dense feed-forward of the same config.

    Attributes:
      config: of the block; gives the activation, the compute type and scales. Experts have no biases.
      experts: E, routed.
      top_k: K.
      shared: experts that every token passes through beside its K.
      expert_dim: F; None is model.mlp_dim / (top_k + shared), with which a token passes through as
        many parameters as in the dense feed-forward (the router's D E aside).
      scores: of the router: softmax over the experts, or a sigmoid of each. Of several chosen experts
        the scores are divided by their sum; a single one keeps its score, which trains the router.
      balance: see the module; 0 is off.
      router_z_loss: weight of the mean square of the log normaliser, which keeps the router's logits
        small (Zoph et al. 2022, 2202.08906); 0 is off.
      bias_rate: see the module; 0 is off.
    """

    config: BlockConfig
    experts: PositiveInt = 8
    top_k: PositiveInt = 2
    shared: NonNegativeInt = 0
    expert_dim: PositiveInt | None = None
    scores: Literal["softmax", "sigmoid"] = "softmax"
    balance: NonNegativeFloat = 0.01
    router_z_loss: NonNegativeFloat = 0.0
    bias_rate: NonNegativeFloat = 0.0

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """[B, T, D] to [B, T, D]."""
        self._check()
        config, width, hidden = self.config, x_BTD.shape[-1], self._hidden()
        chosen_BTK, weights_BTK = self._route(x_BTD)
        up, down = (self.experts, width, hidden), (self.experts, hidden, width)
        names = ("up", "gate") if config.mlp in dims.GATED else ("up",)
        ups = [self._kernels(name, KERNEL_AXES[0], up, config.init_scale) for name in names]
        down_EFD = self._kernels("down", KERNEL_AXES[1], down, config.residual_scale)

        y_BTD = experts(
            x_BTD.astype(config.dtype),
            chosen_BTK,
            weights_BTK,
            ups,
            down_EFD,
            functools.partial(activated, config.mlp),
            config.platform,
        )
        if self.shared:
            y_BTD = y_BTD + FeedForward(self._shared_config(), name="shared")(x_BTD)
        return y_BTD

    def cost(self, width: int) -> Cost:
        """Of one layer: all experts are parameters, K of them and the shared ones are work."""
        self._check()
        matrices = 3 if self.config.mlp in dims.GATED else 2
        expert = matrices * width * self._hidden()
        router = width * self.experts
        shared = FeedForward(self._shared_config(), parent=None).cost(width)
        shared = shared if self.shared else Cost(body=0, matmul=0)
        return Cost(
            body=router + self.experts * expert + shared.body,
            matmul=router + self.top_k * expert + shared.matmul,
            idle=(self.experts - self.top_k) * expert,
        )

    def _route(self, x_BTD: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(chosen experts int32 [B, T, K], the weights of their outputs float32); sows losses."""
        router = Dense(self.experts, ("embed", None), fan_in(self.config.init_scale), name="router")
        logits_BTE = router(x_BTD.astype(jnp.float32))
        scores_BTE = jax.nn.softmax(logits_BTE)
        if self.scores == "sigmoid":
            scores_BTE = jax.nn.sigmoid(logits_BTE)
        ranked_BTE = scores_BTE
        if self.bias_rate:
            names = nn.with_partitioning(jnp.zeros, (None,))
            bias = self.variable("router", "bias", names, (self.experts,))
            ranked_BTE = scores_BTE + bias.value[None, None]
        _, chosen_BTK = jax.lax.top_k(jax.lax.stop_gradient(ranked_BTE), self.top_k)
        weights_BTK = jnp.take_along_axis(scores_BTE, chosen_BTK, axis=-1)
        if self.top_k > 1:
            weights_BTK = weights_BTK / jnp.sum(weights_BTK, axis=-1, keepdims=True)

        hits = chosen_BTK[..., None] == jnp.arange(self.experts)[None, None, None]
        load_E = jnp.mean(hits, axis=(0, 1, 2), dtype=jnp.float32)
        self.sow("metrics", "load", load_E)
        if self.balance:
            shares_BTE = scores_BTE / jnp.sum(scores_BTE, axis=-1, keepdims=True)
            even = self.experts * jnp.sum(load_E * jnp.mean(shares_BTE, axis=(0, 1)))
            self.sow("losses", "balance", self.balance * even)
        if self.router_z_loss:
            z_BT = jax.nn.logsumexp(logits_BTE, axis=-1)
            self.sow("losses", "router_z", self.router_z_loss * jnp.mean(z_BT**2))
        if self.bias_rate and self.is_mutable_collection("router") and not self.is_initializing():
            bias.value = bias.value + self.bias_rate * (1 - self.experts * load_E)
        return chosen_BTK, weights_BTK

    def _kernels(
        self, name: str, axes: Sequence[str], shape: tuple[int, int, int], scale: float
    ) -> jax.Array:
        init = nn.initializers.variance_scaling(
            scale**2, "fan_in", "truncated_normal", batch_axis=(0,)
        )
        boxed = nn.with_partitioning(init, tuple(axes))
        return self.param(name, boxed, shape, jnp.float32).astype(self.config.dtype)

    def _hidden(self) -> int:
        return self.expert_dim or self.config.mlp_dim // (self.top_k + self.shared)

    def _shared_config(self) -> BlockConfig:
        return dataclasses.replace(self.config, mlp_dim=self.shared * self._hidden())

    def _check(self) -> None:
        key = "model.feed_forward_options"
        if self.top_k > self.experts:
            raise ConfigError(
                f"{key}.top_k",
                f"{self.top_k} of {self.experts} experts",
                "give fewer, or more experts",
            )
        parts = self.top_k + self.shared
        if self.expert_dim is None and self.config.mlp_dim % parts:
            raise ConfigError(
                f"{key}.expert_dim",
                f"is None, and model.mlp_dim={self.config.mlp_dim} does not divide into the "
                f"{parts} experts of a token",
                f"give expert_dim, or mlp_dim={-(-self.config.mlp_dim // parts) * parts}",
            )
