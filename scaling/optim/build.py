"""From section `optim` to one pure update whose hyper-parameters are arguments."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from scaling.configs import build, component
from scaling.optim import OPTIMIZERS, SCHEDULES

PyTree = Any
Schedule = Callable[[jax.Array, Any], jax.Array]  # (step, peak) -> value


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """An optimizer and its schedule, ready for `jit` and `vmap`.

    Attributes:
      rule: one of `scaling.optim.optimizers`, or another dataclass with `transform`.
      schedule: (step, peak) -> learning rate.
      axis_names: logical axis names of every parameter (a tuple or None), shaped like the
        parameters.
    """

    rule: Any
    schedule: Schedule
    axis_names: PyTree

    @property
    def hparams(self) -> dict[str, float]:
        """Every float of the section by key: defaults of what `update` takes as arrays."""
        values = ((f.name, getattr(self.rule, f.name)) for f in dataclasses.fields(self.rule))
        return {name: value for name, value in values if isinstance(value, float)}

    def init(self, params: PyTree) -> PyTree:
        """Fresh optimizer state for these parameters (arrays, also traced ones)."""
        transform = self.rule.transform(self.hparams, lambda peak: peak, self.axis_names)
        return transform.init(_float32(params))

    def update(
        self,
        grads: PyTree,
        opt_state: PyTree,
        params: PyTree,
        step: jax.Array,
        hparams: Mapping[str, jax.Array],
    ) -> tuple[PyTree, PyTree, dict[str, jax.Array]]:
        """One update.

        Args:
          grads: mean gradients, shaped like `params`.
          opt_state: from `init` or the last update.
          params: the parameters.
          step: int32[], drives the schedule.
          hparams: a value (float32[], may be traced or batched by vmap) for each of `hparams`.

        Returns:
          (updates to add to the parameters (float32), new state, {"learning_rate": of this step,
          "grad_norm": global norm before clipping}).

        Raises:
          KeyError: a hyper-parameter is missing or unknown.
        """
        if set(hparams) != set(self.hparams):
            differing = sorted(set(hparams) ^ set(self.hparams))
            raise KeyError(f"hyper-parameters must be {sorted(self.hparams)}; check {differing}")
        grads, params = _float32(grads), _float32(params)
        norm = optax.global_norm(grads)
        if "clip_norm" in hparams:
            factor = hparams["clip_norm"] / jnp.maximum(norm, hparams["clip_norm"])
            grads = jax.tree.map(lambda g: g * factor, grads)
        rate = functools.partial(self.schedule, step)
        transform = self.rule.transform(hparams, rate, self.axis_names)
        updates, opt_state = transform.update(grads, opt_state, params)
        learning_rate = jnp.asarray(rate(hparams["learning_rate"]), jnp.float32)
        return updates, opt_state, {"learning_rate": learning_rate, "grad_norm": norm}


def build_optimizer(config: Any, total_steps: int, axis_names: PyTree) -> Optimizer:
    """The optimizer of a resolved section `optim`.

    Args:
      config: the section, with `schedule` inside.
      total_steps: `train.steps`.
      axis_names: logical axis names, a tuple or None for every parameter.

    Raises:
      ValueError: the schedule does not fit into the run.
    """
    keys = {key: value for key, value in config.schedule.items() if key != "name"}
    schedule = functools.partial(
        component(config.schedule, SCHEDULES), total_steps=total_steps, **keys
    )
    # A schedule checks its lengths when it is traced; find out now.
    jax.eval_shape(schedule, jax.ShapeDtypeStruct((), jnp.int32), 1.0)
    return Optimizer(build(config, OPTIMIZERS), schedule, axis_names)


def _float32(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)
