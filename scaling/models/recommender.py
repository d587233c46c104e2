"""Recommenders: matrix factorisation with biases, and two towers over items and histories.

A sequential recommender like SASRec (Kang and McAuley 2018, 1808.09781) is the `transformer` itself,
with items for tokens.

Legend: B batch, T time, D width of the factors, V items (and the separator), U users.
"""

from typing import Annotated

import flax.linen as nn
import jax
import jax.numpy as jnp

from scaling.configs.types import Fraction, PerMember, PositiveFloat, PositiveInt
from scaling.models.cost import Cost
from scaling.models.dims import known
from scaling.models.layers import Dense, fan_in, table
from scaling.ops.matmul import lookup


class MatrixFactorisation(nn.Module):
    """b_u + b_i + p_u . q_i (Koren, Bell and Volinsky 2009), what stands above the mean rating.

    Attributes:
      num_users: U; None takes the data's. More than the data need pads the table, so that a mesh
        axis divides it.
      num_items: likewise.
      dim: D, the length of p_u and q_i.
      init_scale: standard deviation of the factors at the start; biases start at zero.
    """

    num_users: PositiveInt | None = None
    num_items: PositiveInt | None = None
    dim: PositiveInt = 32
    init_scale: Annotated[PositiveFloat, PerMember()] = 0.1

    def setup(self) -> None:  # noqa: D102
        users, items = self._sizes()
        factors = nn.with_partitioning(nn.initializers.normal(self.init_scale), ("vocab", "embed"))
        zeros = nn.with_partitioning(nn.initializers.zeros, ("vocab",))
        self.user_factors = self.param("user_factors", factors, (users, self.dim))
        self.item_factors = self.param("item_factors", factors, (items, self.dim))
        self.user_bias = self.param("user_bias", zeros, (users,))
        self.item_bias = self.param("item_bias", zeros, (items,))

    def __call__(self, user_B: jax.Array, item_B: jax.Array, *, train: bool) -> jax.Array:
        """float32 [B] for int32 users and items.

        Sows `squared_norm`, the mean of b_u^2 + b_i^2 + |p_u|^2 + |q_i|^2, which the task penalises.
        """
        p_BD, q_BD = lookup(self.user_factors, user_B), lookup(self.item_factors, item_B)
        b_B, c_B = lookup(self.user_bias, user_B), lookup(self.item_bias, item_B)
        if train:
            squares_B = jnp.sum(p_BD**2 + q_BD**2, axis=-1) + b_B**2 + c_B**2
            self.sow("metrics", "squared_norm", jnp.mean(squares_B))
        return b_B + c_B + jnp.sum(p_BD * q_BD, axis=-1)

    def scores(self, user_B: jax.Array, *, train: bool) -> jax.Array:
        """What `__call__` gives for every item: float32 [B, V]."""
        del train
        scores_BV = lookup(self.user_factors, user_B) @ self.item_factors.T
        return scores_BV + lookup(self.user_bias, user_B)[:, None] + self.item_bias[None]

    def cost(self) -> Cost:
        """What a rating passes through."""
        return Cost(body=0, matmul=self.dim, embedding=sum(self._sizes()) * (self.dim + 1))

    def _sizes(self) -> tuple[int, int]:
        return known("num_users", self.num_users), known("num_items", self.num_items)


class TwoTower(nn.Module):
    """A tower for the history and one for the items; scores are inner products.

    The history is the mean of its items' embeddings, as in Covington et al. 2016, read again at
    every position; each tower is a perceptron on top.

    Attributes:
      vocab_size: V; None takes the data's.
      model_dim: D, of the embeddings and of what the towers give.
      hidden_dim: of the one hidden layer of each tower.
      dropout: rate before the towers.
      init_scale: multiplies the standard deviation of every initial matrix.
    """

    vocab_size: PositiveInt | None = None
    model_dim: PositiveInt = 64
    hidden_dim: PositiveInt = 128
    dropout: Fraction = 0.0
    init_scale: Annotated[PositiveFloat, PerMember()] = 1.0

    def setup(self) -> None:  # noqa: D102
        rows = known("vocab_size", self.vocab_size)
        self.embedding = table(self, "embedding", rows, self.model_dim, self.init_scale)
        self.user_tower = Tower(self.hidden_dim, self.model_dim, self.init_scale)
        self.item_tower = Tower(self.hidden_dim, self.model_dim, self.init_scale)
        self.drop = nn.Dropout(self.dropout)

    def __call__(self, *inputs: jax.Array, train: bool) -> jax.Array:
        """Scores float32 [B, T, V] of what comes next; arguments as of `hidden`."""
        return self.hidden(*inputs, train=train) @ self.head_kernel()

    def hidden(
        self,
        inputs_BT: jax.Array,
        segments_BT: jax.Array,
        positions_BT: jax.Array | None = None,
        *,
        train: bool,
    ) -> jax.Array:
        """What `head_kernel` multiplies, [B, T, D].

        Args:
          inputs_BT: int32 items.
          segments_BT: int32 history of each item; the mean stays inside of it.
          positions_BT: not used: the mean has no order.
          train: whether dropout is on.
        """
        x_BTD = self.drop(lookup(self.embedding, inputs_BT), deterministic=not train)
        same_BTT = segments_BT[:, :, None] == segments_BT[:, None, :]
        past_BTT = jnp.tril(same_BTT.astype(x_BTD.dtype))
        mean_BTD = past_BTT @ x_BTD / jnp.sum(past_BTT, axis=-1, keepdims=True)
        return self.user_tower(mean_BTD)

    def head_kernel(self) -> jax.Array:
        """Every item as its tower sees it, [D, V]."""
        return self.item_tower(self.embedding).T


class Tower(nn.Module):
    """x + a perceptron with one hidden layer: at the start close to the embedding itself."""

    hidden_dim: int
    features: int
    init_scale: float

    @nn.compact
    def __call__(self, x_xD: jax.Array) -> jax.Array:
        """[..., D] to [..., D]."""
        wide, narrow = fan_in(self.init_scale * 2**0.5), fan_in(self.init_scale)
        hidden = nn.relu(Dense(self.hidden_dim, ("embed", "mlp"), wide, True, name="up")(x_xD))
        return x_xD + Dense(self.features, ("mlp", "embed"), narrow, True, name="down")(hidden)
