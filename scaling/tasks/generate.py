"""Sampling from a language model, a token at a time, with cached keys and values.

Legend: B batch, P tokens of the prompt, N new tokens, V vocabulary.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

Variables = dict[str, Any]
Carry = tuple[Variables, jax.Array]  # the cache, and logits [B, V] of the next token
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

    def cached(
        variables: Variables, prompt_BP: jax.Array, rng: jax.Array, temperature: jax.Array
    ) -> jax.Array:
        def apply(cache: Variables, tokens_BT: jax.Array, start: jax.Array) -> Carry:
            positions_BT = start + jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
            logits_BTV, state = model.apply(
                {**variables, **cache},
                tokens_BT,
                None,
                positions_BT,
                train=False,
                mutable=["cache"],
            )
            return dict(state), logits_BTV[:, -1]

        carry = apply({}, prompt_BP, jnp.int32(0))

        def turn(carry: Carry, i: jax.Array) -> tuple[Carry, jax.Array]:
            cache, logits_BV = carry
            token_B = draw(logits_BV, jax.random.fold_in(rng, i), temperature)
            return apply(cache, token_B[:, None], prompt_BP.shape[1] + i), token_B

        _, tokens_NB = jax.lax.scan(turn, carry, jnp.arange(new))
        return tokens_NB.T

    def whole(
        variables: Variables, prompt_BP: jax.Array, rng: jax.Array, temperature: jax.Array
    ) -> jax.Array:
        length = prompt_BP.shape[1]
        tokens_BT = jnp.pad(prompt_BP, ((0, 0), (0, new)))
        positions_BT = jnp.broadcast_to(jnp.arange(length + new), tokens_BT.shape)

        def turn(i: jax.Array, tokens_BT: jax.Array) -> jax.Array:
            logits_BTV = model.apply(variables, tokens_BT, None, positions_BT, train=False)
            logits_BV = jax.lax.dynamic_index_in_dim(
                logits_BTV, length + i - 1, axis=1, keepdims=False
            )
            token_B = draw(logits_BV, jax.random.fold_in(rng, i), temperature)
            return jax.lax.dynamic_update_index_in_dim(tokens_BT, token_B, length + i, axis=1)

        return jax.lax.fori_loop(0, new, turn, tokens_BT)[:, length:]

    return cached if getattr(model, "caches", False) else whole
