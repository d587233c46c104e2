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

from scaling.configs import ConfigError
from scaling.optim.build import Optimizer
from scaling.parallel.sharding import PyTree
from scaling.tasks.base import Batch, Context, Loss, Task
from scaling.tasks.keys import wrap_key
from scaling.train.state import Guard, TrainState, as_variables, combined

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
    conditional: bool = False,
) -> TrainStep:
    """Builds the step.

    Args:
      task: gives the loss.
      optimizer: turns mean gradients into updates.
      accumulate: microbatches per step; must divide the batch.
      ema_decay: decay of the parameter average, warmed up (see `warm_decay`); None for no average.
      spike_factor: multiple of the usual gradient norm that makes a step bad, or None.
      conditional: how a bad step's update is left out, see `_update_if`.

    Returns:
      step(state, batch, hparams) -> (state, metrics): hparams are a value for each of the
      optimizer's and the task's `hparams`; metrics are the means of the task's, and `objective`,
      `grad_norm`, `param_norm`, `learning_rate`, `weight` and `ok` (1 if the update was applied).
    """

    def step(
        state: TrainState, batch: Batch, hparams: dict[str, jax.Array]
    ) -> tuple[TrainState, Metrics]:
        total, grads = sum_gradients(task, optimizer, state, batch, hparams, accumulate)
        scale = jnp.where(total.weight > 0, 1.0 / jnp.maximum(total.weight, 1e-30), 0.0)
        grads = jax.tree.map(lambda g: g * scale, grads)
        trained = optimizer.trained(state.params)
        own = optimizer.own(hparams)
        norms = optimizer.norms(grads)
        measured = optimizer.metrics(norms, state.step, own)
        objective, norm = total.sum * scale, measured["grad_norm"]
        ok = (total.weight > 0) & _is_good(objective, norm, state.guard, spike_factor)

        def update(trained: PyTree, opt_state: PyTree, ema: PyTree) -> tuple[PyTree, ...]:
            updates, opt_state = optimizer.update(grads, norms, opt_state, trained, state.step, own)
            new = optax.apply_updates(trained, updates)
            if ema_decay is not None:
                decay = warm_decay(ema_decay, state.step)
                ema = jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, ema, new)
            return new, opt_state, ema

        old = (trained, state.opt_state, state.ema)
        kept, opt_state, ema = _update_if(ok, update, old, conditional)
        model_state = _where(ok, total.state, state.model_state)
        params = combined(kept, state.params)
        new_state = state.replace(
            step=state.step + 1,
            params=params,
            model_state=model_state,
            opt_state=opt_state,
            ema=ema,
            guard=_watch(state.guard, norm, ok, total.weight),
        )
        means = {k: s / jnp.maximum(w, 1e-30) for k, (s, w) in total.metrics.items()}
        ours = measured | {
            "objective": objective,
            "weight": total.weight,
            "param_norm": optax.global_norm(params),
            "ok": ok.astype(jnp.float32),
        }
        _refuse_names(set(means) & set(ours))
        return new_state, means | ours

    return step


def warm_decay(decay: float, step: jax.Array) -> jax.Array:
    """min(decay, (1 + step) / (10 + step)): float32[].

    The average then reaches back over about a tenth of the run until 1 / (1 - decay) steps are less
    than that, as `num_updates` of TensorFlow's ExponentialMovingAverage has it. Without it an
    average that is longer than the run is mostly the initial parameters.
    """
    done = step.astype(jnp.float32)
    return jnp.minimum(jnp.float32(decay), (1.0 + done) / (10.0 + done))


def sum_gradients(
    task: Task,
    optimizer: Optimizer,
    state: TrainState,
    batch: Batch,
    hparams: Mapping[str, jax.Array],
    accumulate: int,
) -> tuple[Loss, PyTree]:
    """The loss of a whole batch and the gradient of its sum, for the parameters that are trained.

    Microbatch i of k takes rows i::k. With the batch sharded in contiguous blocks of rows every
    device then cuts its own rows, and no row moves. Besides the gradient of the microbatch at
    hand there is one more gradient-sized buffer, the running sum.
    """
    rng = jax.random.fold_in(wrap_key(state.rng), state.step)
    numbers = {name: hparams[name] for name in task.hparams}

    def objective(trained: PyTree, model_state: PyTree, batch: Batch, rng: jax.Array) -> Any:
        params = combined(trained, state.params)
        variables = as_variables(params, state.frozen, model_state)
        loss = task.loss(variables, batch, Context(rng, state.step, True), numbers)
        _check_state(loss.state, model_state)
        return loss.sum, loss

    gradient = jax.grad(objective, has_aux=True)
    trained = optimizer.trained(state.params)
    if accumulate == 1:
        grads, loss = gradient(trained, state.model_state, batch, rng)
        return loss, grads

    merge = {name: task.merge.get(name, "mean") for name in state.model_state}
    by_rows = [name for name, kind in merge.items() if kind == "rows"]
    split = jax.tree.map(lambda x: _microbatches(x, accumulate), dict(batch))
    rows = jax.tree.map(
        lambda x: _microbatches(x, accumulate), {name: state.model_state[name] for name in by_rows}
    )

    def of(i: jax.Array | int) -> tuple[PyTree, Loss]:
        model_state = state.model_state | jax.tree.map(lambda x: x[:, i], rows)
        microbatch = jax.tree.map(lambda x: x[:, i], split)
        return gradient(trained, model_state, microbatch, jax.random.fold_in(rng, i))

    def add(carry: tuple[Loss, PyTree], i: jax.Array) -> tuple[tuple[Loss, PyTree], PyTree]:
        grads, loss = of(i)
        ours, others = _apart(loss.state, by_rows)
        sums = jax.tree.map(jnp.add, carry, (loss._replace(state=others), grads))
        newest = {name: others[name] for name, kind in merge.items() if kind == "last"}
        return (sums[0]._replace(state=sums[0].state | newest), sums[1]), ours

    shapes = jax.eval_shape(of, 0)
    _refuse_averaged_integers(shapes[1].state, merge)
    _, others = _apart(shapes[1].state, by_rows)
    zeros = jax.tree.map(
        lambda s: jnp.zeros(s.shape, s.dtype), (shapes[1]._replace(state=others), shapes[0])
    )
    (loss, grads), stacked = jax.lax.scan(add, zeros, jnp.arange(accumulate))
    # Every microbatch started from the same state, so the mean of what they made of it is what the
    # whole batch would have made of it (an average of statistics is linear).
    merged = {
        name: value if merge[name] == "last" else jax.tree.map(lambda x: x / accumulate, value)
        for name, value in loss.state.items()
    }
    whole = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:]), stacked)
    return loss._replace(state=merged | whole), grads


def _microbatches(x: jax.Array, count: int) -> jax.Array:
    """[B, ...] as [B / count, count, ...]: microbatch i is [:, i]."""
    return x.reshape(-1, count, *x.shape[1:])


def _apart(state: dict[str, Any], names: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    return (
        {name: value for name, value in state.items() if name in names},
        {name: value for name, value in state.items() if name not in names},
    )


def _check_state(returned: PyTree, given: PyTree) -> None:
    if set(returned) != set(given):
        raise ConfigError(
            "task.name",
            f"the loss returned the state collections {sorted(returned)}, and the state has "
            f"{sorted(given)}",
            "return every collection that init makes in Loss.state; to keep a `carry`, say in "
            'Task.merge how it joins: {"carry": "rows"}',
        )


def _refuse_averaged_integers(state: PyTree, merge: Mapping[str, str]) -> None:
    for name, value in state.items():
        integers = [x for x in jax.tree.leaves(value) if not jnp.issubdtype(x.dtype, jnp.floating)]
        if integers and merge[name] == "mean":
            raise ConfigError(
                "train.accumulate",
                f"the state collection {name!r} holds {integers[0].dtype}, which cannot be "
                "averaged over microbatches",
                f"give the task merge={{{name!r}: 'last'}} (or 'rows')",
            )


def _refuse_names(taken: set[str]) -> None:
    if taken:
        raise ConfigError(
            "task.name",
            f"the task reports {sorted(taken)}, which the step reports itself",
            "give the task's metrics other names",
        )


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


def _update_if(
    ok: jax.Array,
    update: Callable[..., tuple[PyTree, ...]],
    old: tuple[PyTree, ...],
    conditional: bool,
) -> tuple[PyTree, ...]:
    """update(*old) after a good step, `old` bit for bit after a bad one.

    To choose between old and new, XLA on CPU copies the optimizer's state; inside a conditional it
    updates it in place. On TPU a conditional took 13 % more memory (gpt2 1.5b, v5e-4, JAX 0.10.2).
    """
    if conditional:
        return jax.lax.cond(ok, update, lambda *old: old, *old)
    return _where(ok, update(*old), old)


def _where(ok: jax.Array, new: PyTree, old: PyTree) -> PyTree:
    return jax.tree.map(lambda n, o: jnp.where(ok, n, o), new, old)
