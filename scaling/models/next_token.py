"""What language models share: tokens go in through a table, logits come out through a matrix.

Legend: B batch, T time, D model width, V vocabulary, N = B * T.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from scaling.configs.types import PositiveInt
from scaling.models.dims import known
from scaling.models.layers import Model, fan_in, table
from scaling.ops import constrain, cross_entropy


class NextToken(Model, kw_only=True):  # type: ignore[call-arg]
    """A model of the next token.

    A subclass makes `embedding` and, unless they are tied, `head` in its `setup`, and between them its
    `hidden`. It may have a field `logit_softcap`.

    Attributes:
      vocab_size: V; None takes the data's.
      model_dim: D.
      tie_embeddings: the head is the transposed embedding table.
    """

    vocab_size: PositiveInt | None = None
    model_dim: PositiveInt = 128
    tie_embeddings: bool = False

    def make_table(self, name: str, rows: int | None, axis: str) -> jax.Array:
        """A parameter [rows, D] of vectors that are looked up."""
        rows = known("vocab_size", rows)
        return table(self, name, rows, self.model_dim, self.init_scale, axis)

    def make_head(self) -> jax.Array:
        """The parameter `head` [D, V]."""
        init = nn.with_partitioning(fan_in(self.init_scale), ("embed", "vocab"))
        return self.param("head", init, (self.model_dim, self.vocab_size), jnp.float32)

    def __call__(self, *inputs: jax.Array | None, train: bool) -> jax.Array:
        """Logits of the next token, float32 [B, T, V]; arguments as of `hidden`."""
        return self.unembed(self.hidden(*inputs, train=train))

    def unembed(self, x_BTD: jax.Array) -> jax.Array:
        """Logits float32 [..., V] of hidden states [..., D]."""
        x_ND = x_BTD.reshape(-1, self.model_dim).astype(self.compute_dtype)
        logits_NV = cross_entropy.logits(x_ND, self.head_kernel())
        logits_NV = cross_entropy.softcap(logits_NV, getattr(self, "logit_softcap", None))
        logits_BTV = logits_NV.reshape(*x_BTD.shape[:-1], -1)
        return constrain(logits_BTV, ("batch", "length", "vocab"))

    def head_kernel(self) -> jax.Array:
        """The output matrix [D, V] of the compute type."""
        kernel_DV = self.embedding.T if self.tie_embeddings else self.head
        return kernel_DV.astype(self.compute_dtype)
