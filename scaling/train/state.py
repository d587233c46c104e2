"""Everything that a run carries from one step to the next: one plain pytree.

It holds no configuration and no functions, so it can be checkpointed, resharded, read as numpy and
stacked into a population of runs along a new leading axis.
"""

import flax.struct
import jax
import jax.numpy as jnp

from scaling.parallel.sharding import PyTree


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
      model_state: collections that the model changes, such as {"batch_stats": ...}.
      opt_state: the optimizer's state.
      ema: moving average of the trained parameters (None in place of others), or None.
      frozen: the task's collection "frozen": never differentiated, never changed.
    """

    step: jax.Array
    rng: jax.Array
    params: PyTree
    model_state: PyTree
    opt_state: PyTree
    ema: PyTree
    guard: Guard
    frozen: PyTree = flax.struct.field(default_factory=dict)

    def variables(self) -> dict[str, PyTree]:
        """What the task's functions take: all collections, with the current parameters."""
        return as_variables(self.params, self.frozen, self.model_state)

    def evaluated(self) -> dict[str, PyTree]:
        """The variables that an evaluation looks at: averaged parameters where there are any."""
        averaged = self.params if self.ema is None else combined(self.ema, self.params)
        return as_variables(averaged, self.frozen, self.model_state)


def as_variables(params: PyTree, frozen: PyTree, model_state: PyTree) -> dict[str, PyTree]:
    """The collections of a task by name; "frozen" only where there is something in it."""
    held = {"frozen": frozen} if jax.tree.leaves(frozen) else {}
    return {"params": params, **held, **model_state}


def combined(part: PyTree, whole: PyTree) -> PyTree:
    """`whole`, with the leaves of `part` where it has some; None in `part` leaves them."""
    return jax.tree.map(
        lambda p, w: w if p is None else p, part, whole, is_leaf=lambda x: x is None
    )


def fresh_guard() -> Guard:
    """A guard that has seen nothing."""
    return Guard(
        norm=jnp.zeros((), jnp.float32),
        count=jnp.zeros((), jnp.int32),
        bad=jnp.zeros((), jnp.int32),
    )
