"""Sampling from a language model, a token at a time, with cached keys and values.

Legend: B batch, P tokens of the prompt, N new tokens, V vocabulary.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from scaling.parallel.sharding import PyTree

Variables = dict[str, Any]
Carry = tuple[PyTree, jax.Array]  # the cache or all tokens, and logits [B, V] of the next token
# (variables, prompt_BP, rng, temperature) -> new tokens int32 [B, N]
Generate = Callable[[Variables, jax.Array, jax.Array, jax.Array], jax.Array]


def make_generate(
    model: nn.Module, vocab_size: int, new: int, top_k: int | None = None
) -> Generate:
    """A pure function that continues prompts.

    A model with the attribute `caches = True` is applied with the mutable collection "cache" to the
    prompt and then to one token after another, with positions; another is applied to everything so
    far, each time.

    Args:
      model: called as model(inputs_BT, None, positions_BT, train=False) -> logits_BTV.
      vocab_size: tokens that the data have; later ones (padding of the model) are never drawn.
      new: N.
      top_k: draw from the k most likely tokens; None from all.
    """

    def draw(logits_BV: jax.Array, rng: jax.Array, temperature: jax.Array) -> jax.Array:
        logits_BV = jnp.where(
            jnp.arange(logits_BV.shape[-1])[None] < vocab_size, logits_BV, -jnp.inf
        )
        if top_k is not None and top_k < vocab_size:
            least_B1 = jax.lax.top_k(logits_BV, top_k)[0][:, -1:]
            logits_BV = jnp.where(logits_BV >= least_B1, logits_BV, -jnp.inf)
        best_B = jnp.argmax(logits_BV, axis=-1)
        drawn_B = jax.random.categorical(rng, logits_BV / jnp.maximum(temperature, 1e-6))
        return jnp.where(temperature > 0, drawn_B, best_B).astype(jnp.int32)

    def generate(
        variables: Variables, prompt_BP: jax.Array, rng: jax.Array, temperature: jax.Array
    ) -> jax.Array:
        batch, length = prompt_BP.shape

        def continued(cache: PyTree, tokens_BT: jax.Array, start: jax.Array) -> Carry:
            positions_BT = start + jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
            inputs, given = (tokens_BT, None, positions_BT), {**variables, **cache}
            logits_BTV, state = model.apply(given, *inputs, train=False, mutable=["cache"])
            return dict(state), logits_BTV[:, -1]

        def read_again(before_BT: PyTree, tokens_BT: jax.Array, start: jax.Array) -> Carry:
            all_BT = jax.lax.dynamic_update_slice_in_dim(before_BT, tokens_BT, start, axis=1)
            positions_BT = jnp.broadcast_to(jnp.arange(all_BT.shape[1]), all_BT.shape)
            logits_BTV = model.apply(variables, all_BT, None, positions_BT, train=False)
            last = start + tokens_BT.shape[1] - 1
            return all_BT, jax.lax.dynamic_index_in_dim(logits_BTV, last, axis=1, keepdims=False)

        caches = getattr(model, "caches", False)
        read = continued if caches else read_again
        nothing: PyTree = {} if caches else jnp.zeros((batch, length + new), prompt_BP.dtype)

        def turn(carry: Carry, i: jax.Array) -> tuple[Carry, jax.Array]:
            state, logits_BV = carry
            token_B = draw(logits_BV, jax.random.fold_in(rng, i), temperature)
            return read(state, token_B[:, None], length + i), token_B

        _, tokens_NB = jax.lax.scan(turn, read(nothing, prompt_BP, jnp.int32(0)), jnp.arange(new))
        return tokens_NB.T

    return generate
