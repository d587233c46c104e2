"""The train step: one pure function for every family, mesh, optimizer and sweep.

    gradients   of the summed loss, microbatch by microbatch; sums add, one division at the end
    update      clip, optimizer, weight decay, with hyper-parameters as run-time arrays
    guard       a non-finite or spiking step leaves everything but the counters as it was

Nothing here knows about devices: the mesh enters through the shardings given to `jax.jit` (see
`train.program`), a population of runs through `jax.vmap` over `state` and `hparams`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from scaling.optim import Optimizer
from scaling.tasks.base import Batch, Loss, Task
from scaling.train.state import Guard, TrainState

PyTree = Any
Metrics = dict[str, jax.Array]
TrainStep = Callable[[TrainState, Batch, dict[str, jax.Array]], tuple[TrainState, Metrics]]

# A running average over about this many steps decides what a usual gradient norm is.
SPIKE_MEMORY = 100


def make_train_step(
    task: Task,
    optimizer: Optimizer,
    *,
    accumulate: int = 1,
    ema_decay: float | None = None,
    spike_factor: float | None = None,
) -> TrainStep:
    """Builds the step.

    Args:
      task: gives the loss.
      optimizer: turns mean gradients into updates.
      accumulate: microbatches per step; must divide the batch.
      ema_decay: decay of the parameter average, or None for no average.
      spike_factor: multiple of the usual gradient norm that makes a step bad, or None.

    Returns:
      step(state, batch, hparams) -> (state, metrics): hparams are a value for each of the
      optimizer's and the task's `hparams`; metrics are float32 scalars, among them
      `loss`, `grad_norm`, `weight` and `ok` (1 if the update was applied).
    """

    def step(
        state: TrainState, batch: Batch, hparams: dict[str, jax.Array]
    ) -> tuple[TrainState, Metrics]:
        rng = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
        own = {name: hparams[name] for name in task.hparams}
        rest = {name: value for name, value in hparams.items() if name not in own}
        total, grads = sum_gradients(task, state.params, state.extra, batch, rng, accumulate, own)
        scale = jnp.where(total.weight > 0, 1.0 / jnp.maximum(total.weight, 1e-30), 0.0)
        grads = jax.tree.map(lambda g: g * scale, grads)
        updates, opt_state, info = optimizer.update(
            grads, state.opt_state, state.params, state.step, rest
        )
        params = optax.apply_updates(state.params, updates)
        objective, norm = total.sum * scale, info["grad_norm"]
        ok = (total.weight > 0) & _is_good(objective, norm, state.guard, spike_factor)
        ema = state.ema
        if ema_decay is not None:
            ema = jax.tree.map(lambda e, p: ema_decay * e + (1 - ema_decay) * p, ema, params)
        kept = _where(
            ok,
            (params, total.state, opt_state, ema),
            (state.params, state.extra, state.opt_state, state.ema),
        )
        new_state = TrainState(
            state.step + 1, state.rng, *kept, guard=_watch(state.guard, norm, ok, total.weight)
        )
        means = {k: s / jnp.maximum(w, 1e-30) for k, (s, w) in total.metrics.items()}
        return new_state, means | info | {
            "weight": total.weight,
            "param_norm": optax.global_norm(new_state.params),
            "ok": ok.astype(jnp.float32),
        }

    return step


def sum_gradients(
    task: Task,
    params: PyTree,
    extra: PyTree,
    batch: Batch,
    rng: jax.Array,
    accumulate: int,
    hparams: Mapping[str, jax.Array] | None = None,
) -> tuple[Loss, PyTree]:
    """The loss of a whole batch and the gradient of its sum; `hparams` are the task's.

    Microbatch i of k takes rows i::k. With the batch sharded in contiguous blocks of rows every
    device then cuts its own rows, and no row moves. Besides the gradient of the microbatch at
    hand there is one more gradient-sized buffer, the running sum.
    """

    def objective(params: PyTree, batch: Batch, rng: jax.Array) -> tuple[jax.Array, Loss]:
        loss = task.loss({"params": params, **extra}, batch, rng, True, hparams)
        return loss.sum, loss

    gradient = jax.grad(objective, has_aux=True)
    if accumulate == 1:
        grads, loss = gradient(params, batch, rng)
        return loss, grads

    def add(carry: tuple[Loss, PyTree], i: jax.Array) -> tuple[tuple[Loss, PyTree], None]:
        rows = jax.tree.map(lambda x: x[:, i], split)
        grads, loss = gradient(params, rows, jax.random.fold_in(rng, i))
        return jax.tree.map(jnp.add, carry, (loss, grads)), None

    split = jax.tree.map(lambda x: x.reshape(-1, accumulate, *x.shape[1:]), dict(batch))
    shapes = jax.eval_shape(gradient, params, jax.tree.map(lambda x: x[:, 0], split), rng)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), (shapes[1], shapes[0]))
    (loss, grads), _ = jax.lax.scan(add, zeros, jnp.arange(accumulate))
    # Every microbatch started from the same mutable state, so the mean of what they made of it is
    # what the whole batch would have made of it (an average of statistics is linear).
    state = jax.tree.map(lambda x: x / accumulate, loss.state)
    return loss._replace(state=state), grads


def make_eval_step(task: Task) -> Callable[[PyTree, PyTree, Batch], dict[str, Any]]:
    """Builds evaluate(params, extra, batch) -> {name: (sum, weight)} for one batch."""

    def evaluate(params: PyTree, extra: PyTree, batch: Batch) -> dict[str, Any]:
        return task.loss({"params": params, **extra}, batch, None, False).metrics

    return evaluate


def _is_good(
    objective: jax.Array, norm: jax.Array, guard: Guard, spike_factor: float | None
) -> jax.Array:
    good = jnp.isfinite(objective) & jnp.isfinite(norm)
    if spike_factor is not None:
        # The first steps set the scale: no norm can be called unusual before them.
        unsettled = guard.count < SPIKE_MEMORY // 10
        good &= unsettled | (norm <= spike_factor * guard.norm)
    return good


def _watch(guard: Guard, norm: jax.Array, ok: jax.Array, weight: jax.Array) -> Guard:
    """Averages the norm of good steps; a batch left out on purpose (weight 0) is not bad."""
    count = guard.count + ok
    rate = 1.0 / jnp.minimum(jnp.maximum(count, 1), SPIKE_MEMORY).astype(jnp.float32)
    average = guard.norm + rate * (jnp.where(ok, norm, guard.norm) - guard.norm)
    bad = guard.bad + ((~ok) & (weight > 0))
    return Guard(norm=average, count=count, bad=bad)


def _where(ok: jax.Array, new: PyTree, old: PyTree) -> PyTree:
    return jax.tree.map(lambda n, o: jnp.where(ok, n, o), new, old)
