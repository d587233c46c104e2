"""Tokens of training texts replaced at random, as a wrapper of a task.

    task = {"name": "drop_tokens", "rate": 0.1, "over": {"name": "classification"}}

Legend: B batch, T time.
"""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp

from scaling.configs import ConfigError
from scaling.configs.types import NonNegativeInt, Range
from scaling.tasks.base import Batch, Context, Hparams, Loss, Task, TaskContext, Variables

KINDS = ("labelled_text", "tagged_text")


def drop_tokens(
    context: TaskContext,
    base: Task,
    *,
    rate: Annotated[float, Range(0.0, below=1.0)] = 0.1,
    token: NonNegativeInt | None = None,
) -> Task:
    """Wraps a task on labelled or tagged texts: in training a share of the tokens is another one.

    Which ones is a function of (seed, step, microbatch). Labels, tags and padding stay.

    Args:
      context: config and data; these give kind and vocabulary.
      base: the task inside, which reads `inputs` and `segments`, int32[B, T].
      rate: share of the tokens.
      token: what stands in their place, such as that of unknown words; None for any token of the
        vocabulary, each as likely (Wang et al. 2018, 1808.07512).

    Raises:
      ConfigError: data of another kind, or a token outside the vocabulary.
    """
    if context.info.kind not in KINDS:
        context.need(" or ".join(KINDS))
    vocab_size = context.info.vocab_size
    assert vocab_size is not None
    if token is not None and token >= vocab_size:
        what = f"{token} is outside the vocabulary of {vocab_size}"
        raise ConfigError("task.token", what, f"give at most {vocab_size - 1}, or None")

    def loss(variables: Variables, batch: Batch, context: Context, hparams: Hparams) -> Loss:
        if context.train:
            # A key of its own: the task inside draws its dropout from context.rng.
            where, which = jax.random.split(jax.random.fold_in(context.rng, 3))
            inputs_BT = batch["inputs"]
            dropped_BT = jax.random.bernoulli(where, rate, inputs_BT.shape) & (
                batch["segments"] > 0
            )
            other_BT = jax.random.randint(which, inputs_BT.shape, 0, vocab_size)
            other_BT = other_BT if token is None else jnp.full_like(inputs_BT, token)
            batch = {**batch, "inputs": jnp.where(dropped_BT, other_BT, inputs_BT)}
        return base.loss(variables, batch, context, hparams)

    return dataclasses.replace(base, loss=loss)
