"""A mixture of experts as the feed-forward of the package's own Transformer."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from scaling.models.layers import fan_in


class Experts(nn.Module):
    config: Any  # models.block.BlockConfig
    experts: int = 4
    balance: float = 0.01

    @nn.compact
    def __call__(self, x_BTD):
        width, count, hidden = x_BTD.shape[-1], self.experts, self.config.mlp_dim

        def matrix(name, axes, *shape):
            init = nn.initializers.lecun_normal(batch_axis=0) if len(shape) == 3 else fan_in()
            return self.param(name, nn.with_partitioning(init, axes), shape, jnp.float32)

        router = matrix("router", ("embed", None), width, count)
        up = matrix("up", ("experts", "embed", "mlp"), count, width, hidden)
        down = matrix("down", ("experts", "mlp", "embed"), count, hidden, width)
        share_BTE = jax.nn.softmax(x_BTD @ router)
        chosen_BTE = jax.nn.one_hot(jnp.argmax(share_BTE, -1), count)
        hidden_BTEF = nn.gelu(jnp.einsum("btd,edf->btef", x_BTD, up))
        y_BTED = jnp.einsum("btef,efd->bted", hidden_BTEF, down)
        load_E, importance_E = chosen_BTE.mean((0, 1)), share_BTE.mean((0, 1))
        self.sow("losses", "balance", self.balance * count * jnp.sum(load_E * importance_E))
        self.sow("metrics", "load", load_E)
        return jnp.einsum("bted,bte->btd", y_BTED, chosen_BTE * share_BTE)
