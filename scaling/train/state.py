"""Everything that a run carries from one step to the next: one plain pytree.

It holds no configuration and no functions, so it can be checkpointed, resharded, read as numpy and
stacked into a population of runs along a new leading axis.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

PyTree = Any


class Guard(flax.struct.PyTreeNode):
    """What the step remembers to tell a bad gradient from a good one.

    Attributes:
      norm: running average of the gradient norm, float32[].
      count: good steps in that average, int32[].
      bad: bad steps so far, int32[].
    """

    norm: jax.Array
    count: jax.Array
    bad: jax.Array


class TrainState(flax.struct.PyTreeNode):
    """The state of one run.

    Attributes:
      step: batches consumed so far, int32[].
      rng: the run's random key data, uint32[2]; a step folds its number in, nothing advances it.
      params: parameters, float32.
      extra: mutable collections beside the parameters, such as {"batch_stats": ...}.
      opt_state: the optimizer's state.
      ema: moving average of the parameters, or None.
      guard: see `Guard`.
    """

    step: jax.Array
    rng: jax.Array
    params: PyTree
    extra: PyTree
    opt_state: PyTree
    ema: PyTree
    guard: Guard


def fresh_guard() -> Guard:
    """A guard that has seen nothing."""
    return Guard(
        norm=jnp.zeros((), jnp.float32),
        count=jnp.zeros((), jnp.int32),
        bad=jnp.zeros((), jnp.int32),
    )
