"""The step: accumulation, guard, averages."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    IMAGE_INFO,
    TEXT_INFO,
    image_batch,
    text_batch,
    tiny_images,
    tiny_language_model,
)

from scaling import parallel
from scaling.train.program import Program, build_program


def one_device() -> jax.sharding.Mesh:
    return parallel.make_mesh(tiny_language_model(**{"mesh.data": 1}).mesh, jax.devices()[:1])


def text_program(**overrides: object) -> Program:
    config = tiny_language_model(**{"mesh.data": 1} | overrides)
    return build_program(config, TEXT_INFO, one_device())


def image_program(**overrides: object) -> Program:
    config = tiny_images(**{"mesh.data": 1} | overrides)
    return build_program(config, IMAGE_INFO, one_device())


def run(program: Program, make_batch, steps: int = 3):
    state, losses = program.fresh_state(), []
    for i in range(steps):
        batch = jax.device_put(make_batch(i), parallel.batch_sharding(program.mesh))
        state, metrics = program.step(state, batch, program.hparams())
        losses.append(float(metrics["loss"]))
    return state, losses


def largest_difference(a, b) -> float:
    return max(
        jax.tree.leaves(jax.tree.map(lambda x, y: float(np.max(np.abs(x - y))), a, b)), default=0.0
    )


@pytest.mark.parametrize("k", [2, 4])
def test_accumulation_equals_the_large_batch_with_masked_tokens(k):
    # Rows differ in how many targets count: a mean of means would be off by far more than this.
    whole, losses = run(text_program(), text_batch)
    parts, losses_k = run(text_program(**{"train.accumulate": k}), text_batch)
    np.testing.assert_allclose(losses_k, losses, rtol=2e-6)
    assert largest_difference(whole.params, parts.params) < 2e-4  # Adam amplifies rounding
    assert float(whole.guard.norm) == pytest.approx(float(parts.guard.norm), rel=1e-5)


@pytest.mark.parametrize("k", [2, 4])
def test_accumulation_equals_the_large_batch_with_batch_statistics(k):
    whole, losses = run(image_program(), image_batch)
    parts, losses_k = run(image_program(**{"train.accumulate": k}), image_batch)
    np.testing.assert_allclose(losses_k, losses, rtol=1e-5)
    assert jax.tree.leaves(whole.extra), "the CNN must have batch statistics"
    assert largest_difference(whole.extra, parts.extra) < 1e-5


def test_loss_is_the_mean_over_tokens_not_over_rows():
    program = text_program()
    state = program.fresh_state()
    batch = text_batch(0)
    variables = {"params": jax.tree.map(jnp.array, state.params)}
    loss = program.task.loss(variables, jax.tree.map(jnp.asarray, batch), jax.random.key(0), True)
    _, metrics = program.step(state, jax.device_put(batch), program.hparams())
    assert float(metrics["loss"]) == pytest.approx(float(loss.sum / loss.weight), rel=1e-6)
    assert float(loss.weight) == batch["weights"].sum()


def test_bad_step_touches_nothing_but_counters():
    program = text_program(**{"train.ema_decay": 0.9})
    state, _ = run(program, text_batch, 2)
    before = jax.device_get(state)
    broken = dataclasses.replace(
        state, params=jax.tree.map(lambda p: p.at[0].set(jnp.nan), state.params)
    )
    kept = jax.device_get(broken.params)
    after, metrics = program.step(broken, jax.device_put(text_batch(2)), program.hparams())
    assert float(metrics["ok"]) == 0.0
    assert int(after.step) == 3
    assert int(after.guard.bad) == 1
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(after.params), kept)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(after.opt_state), before.opt_state)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(after.ema), before.ema)


def test_a_batch_left_out_is_not_bad():
    program = text_program()
    state = program.fresh_state()
    before = jax.device_get(state.params)
    batch = text_batch(0)
    batch["weights"] = np.zeros_like(batch["weights"])
    after, metrics = program.step(state, jax.device_put(batch), program.hparams())
    assert float(metrics["ok"]) == 0.0
    assert np.isfinite(float(metrics["loss"]))
    assert int(after.guard.bad) == 0
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(after.params), before)


def test_spike_is_bad_once_the_scale_is_known():
    program = text_program(**{"train.spike_factor": 3.0, "optim.learning_rate": 1e-6})
    state, _ = run(program, text_batch, 12)
    assert int(state.guard.bad) == 0
    # A hundredfold output scale makes a gradient far above the usual one.
    params = state.params | {"head": state.params["head"] * 100.0}
    state = dataclasses.replace(state, params=params)
    state, metrics = program.step(state, jax.device_put(text_batch(20)), program.hparams())
    assert float(metrics["grad_norm"]) > 3 * float(state.guard.norm)
    assert float(metrics["ok"]) == 0.0
    assert int(state.guard.bad) == 1


def test_ema_follows_the_parameters():
    program = text_program(**{"train.ema_decay": 0.5})
    state = program.fresh_state()
    expected = jax.device_get(state.params)
    for i in range(3):
        state, _ = program.step(state, jax.device_put(text_batch(i)), program.hparams())
        new = jax.device_get(state.params)
        expected = jax.tree.map(lambda e, p: 0.5 * e + 0.5 * p, expected, new)
    assert largest_difference(jax.device_get(state.ema), expected) < 1e-6


def test_one_executable_serves_every_learning_rate_and_the_rate_matters():
    program = text_program()
    ends = []
    for rate in (1e-3, 1e-2):
        state = program.fresh_state()
        batch = jax.device_put(text_batch(0), parallel.batch_sharding(program.mesh))
        state, _ = program.step(state, batch, program.hparams(learning_rate=rate))
        ends.append(jax.device_get(state.params))
    assert largest_difference(*ends) > 1e-4
    assert program.step._cache_size() == 1
    with pytest.raises(KeyError, match="learningrate"):
        program.hparams(learningrate=1.0)
