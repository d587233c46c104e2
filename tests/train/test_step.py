"""The step: accumulation, guard, averages."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import (
    IMAGE_INFO,
    TEXT_INFO,
    context,
    image_batch,
    quick,
    text_batch,
    tiny_images,
    tiny_language_model,
)
from ml_collections import ConfigDict

from scaling import parallel
from scaling.configs import ConfigError
from scaling.models.transformer import Transformer
from scaling.optim.build import build_optimizer
from scaling.tasks.base import Loss, Task
from scaling.tasks.keys import pin_generator
from scaling.train.program import Program, build_program
from scaling.train.state import TrainState, fresh_guard
from scaling.train.step import SPIKE_MEMORY, make_train_step, sum_gradients, warm_decay


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


def test_a_program_is_built_with_one_trace_of_init(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, hidden = [], Transformer.hidden
    monkeypatch.setattr(Transformer, "hidden", lambda *a, **k: calls.append(1) or hidden(*a, **k))
    text_program()
    assert len(calls) == 1


def toy_task(row_losses) -> Task:
    """Parameters {"p": ...} and a loss that is written down: row_losses(p, batch, rng) -> [B]."""

    def loss(variables, batch, context, hparams) -> Loss:
        weights_B = batch["weights"]
        total = jnp.sum(weights_B * row_losses(variables["params"]["p"], batch, context.rng))
        return Loss(total, weights_B.sum(), {"loss": (total, weights_B.sum())}, {})

    return Task(lambda rng: {}, loss)


def plain_optimizer():
    return build_optimizer(tiny_language_model().optim, 500, {"p": ()})


def bare_state(params) -> TrainState:
    key = jax.random.key_data(jax.random.key(0))
    return TrainState(jnp.int32(0), key, params, {}, {}, None, fresh_guard())


def line_step(conditional=False):
    """(step, state, hparams) of the row loss slope * p + offset: its gradient is the slope."""
    task = toy_task(lambda p, batch, rng: batch["slope"] * p + batch["offset"])
    optimizer = plain_optimizer()
    state = bare_state({"p": jnp.float32(0.5)})
    state = state.replace(opt_state=optimizer.init(state.params))
    step = make_train_step(task, optimizer, conditional=conditional)
    return step, state, optimizer.hparams


def largest_difference(a, b) -> float:
    return max(
        jax.tree.leaves(jax.tree.map(lambda x, y: float(np.max(np.abs(x - y))), a, b)), default=0.0
    )


@pytest.mark.parametrize("k", quick([2, 4], 4))
def test_accumulation_equals_the_large_batch_with_masked_tokens(k):
    # Rows differ in how many targets count: a mean of means would be off by far more than this.
    whole, losses = run(text_program(), text_batch)
    parts, losses_k = run(text_program(**{"train.accumulate": k}), text_batch)
    np.testing.assert_allclose(losses_k, losses, rtol=2e-6)
    assert largest_difference(whole.params, parts.params) < 2e-4  # Adam amplifies rounding
    assert float(whole.guard.norm) == pytest.approx(float(parts.guard.norm), rel=1e-5)


@pytest.mark.parametrize("k", quick([2, 4], 2))
def test_accumulation_equals_the_large_batch_with_batch_statistics(k):
    whole, losses = run(image_program(), image_batch)
    parts, losses_k = run(image_program(**{"train.accumulate": k}), image_batch)
    np.testing.assert_allclose(losses_k, losses, rtol=1e-5)
    assert jax.tree.leaves(whole.model_state), "the CNN must have batch statistics"
    assert largest_difference(whole.model_state, parts.model_state) < 1e-5


def test_loss_is_the_mean_over_tokens_not_over_rows():
    program = text_program()
    state = program.fresh_state()
    batch = text_batch(0)
    variables = {"params": jax.tree.map(jnp.array, state.params)}
    loss = program.task.loss(variables, jax.tree.map(jnp.asarray, batch), context(True), {})
    _, metrics = program.step(state, jax.device_put(batch), program.hparams())
    assert float(metrics["loss"]) == pytest.approx(float(loss.sum / loss.weight), rel=1e-6)
    assert float(loss.weight) == batch["weights"].sum()


def test_gradients_are_divided_by_the_weight_of_the_batch_not_by_its_size():
    program = text_program()
    state, batch = program.fresh_state(), text_batch(0)
    assert 0 < batch["weights"].sum() < batch["weights"].size

    def mean_loss(params):
        loss = program.task.loss({"params": params}, batch, context(True), {})
        return loss.sum / loss.weight

    # Before the step, which takes the state away.
    expected = float(optax.global_norm(jax.jit(jax.grad(mean_loss))(state.params)))
    _, metrics = program.step(state, jax.device_put(batch), program.hparams())
    assert float(metrics["grad_norm"]) == pytest.approx(expected, rel=1e-5)
    assert float(metrics["weight"]) == batch["weights"].sum()


def test_every_microbatch_drops_out_numbers_of_its_own():
    # The gradient of a row is the mask of what dropout kept: two equal masks add to 0 or 2 alone.
    task = toy_task(
        lambda p, batch, rng: jnp.sum(p * jax.random.bernoulli(rng, 0.5, p.shape))[None]
    )
    params = {"p": jnp.ones(64)}

    def values(accumulate: int) -> set[float]:
        batch = {"weights": jnp.ones(accumulate)}
        state = bare_state(params)
        _, grads = sum_gradients(task, plain_optimizer(), state, batch, {}, accumulate)
        return set(np.unique(grads["p"]).tolist())

    assert values(1) == {0.0, 1.0}
    assert values(2) == {0.0, 1.0, 2.0}


def test_every_step_drops_out_numbers_of_its_own():
    model = ConfigDict({"name": "mlp", "hidden_dims": (32,), "dropout": 0.5})
    program = image_program(model=model)

    def loss_at(step: int) -> float:
        state = dataclasses.replace(program.fresh_state(), step=jnp.int32(step))
        _, metrics = program.step(state, jax.device_put(image_batch(0)), program.hparams())
        return float(metrics["loss"])

    assert loss_at(0) == loss_at(0)
    assert abs(loss_at(0) - loss_at(1)) > 1e-3


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


def test_a_step_on_cpu_updates_the_optimizers_state_in_place():
    text = text_program().lower_step().compile().as_text()
    assert "%args_0__opt_state_0__mu" in text
    # A selection after the update copies the counter here, and in larger models the moments too.
    assert "copy(%args_0__opt_state" not in text


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


def test_the_usual_norm_forgets_all_but_the_last_steps():
    step, state, hparams = line_step()
    norms = np.repeat([1.0, 2.0], [300, 100])

    def one(state, slope):
        batch = {"slope": slope[None], "offset": jnp.zeros(1), "weights": jnp.ones(1)}
        state, metrics = step(state, batch, hparams)
        return state, metrics["grad_norm"]

    state, seen = jax.jit(lambda s: jax.lax.scan(one, s, jnp.float32(norms)))(state)
    np.testing.assert_allclose(seen, norms, rtol=1e-6)
    expected = 0.0
    for i, norm in enumerate(norms):
        expected += (norm - expected) / min(i + 1, SPIKE_MEMORY)
    assert float(state.guard.norm) == pytest.approx(expected, rel=1e-4)
    assert abs(expected - norms.mean()) > 0.3  # what an average without forgetting would be
    assert (int(state.guard.count), int(state.guard.bad)) == (400, 0)


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("offset", [np.inf, np.nan])
def test_an_objective_that_is_not_finite_is_bad_where_its_gradient_is_finite(offset, conditional):
    step, state, hparams = line_step(conditional)
    batch = {"slope": jnp.ones(1), "offset": jnp.full(1, offset), "weights": jnp.ones(1)}
    after, metrics = jax.jit(step)(state, batch, hparams)
    assert float(metrics["grad_norm"]) == 1.0
    assert float(metrics["ok"]) == 0.0
    assert (int(after.guard.count), int(after.guard.bad)) == (0, 1)
    assert float(after.params["p"]) == 0.5
    jax.tree.map(np.testing.assert_array_equal, after.opt_state, state.opt_state)


def test_ema_follows_the_parameters():
    program = text_program(**{"train.ema_decay": 0.5})
    state = program.fresh_state()
    expected = jax.device_get(state.params)
    for i in range(3):
        state, _ = program.step(state, jax.device_put(text_batch(i)), program.hparams())
        new = jax.device_get(state.params)
        decay = min(0.5, (1 + i) / (10 + i))
        expected = jax.tree.map(lambda e, p, d=decay: d * e + (1 - d) * p, expected, new)
    assert largest_difference(jax.device_get(state.ema), expected) < 1e-6


def test_an_average_that_is_longer_than_the_run_forgets_its_start():
    steps = np.array([0, 10, 99, 89_980, 89_981, 10**6], np.int32)
    decays = [float(warm_decay(0.9999, jnp.int32(step))) for step in steps]
    assert decays == pytest.approx([0.1, 11 / 20, 100 / 109, 0.9999, 0.9999, 0.9999], abs=1e-6)
    weights = [float(1 - warm_decay(0.9999, jnp.int32(step))) for step in range(100)]
    assert np.prod(1 - np.array(weights)) < 1e-9, "what is left of the initial parameters"


@pytest.mark.parametrize(
    ("name", "value"),
    [("jax_default_prng_impl", "rbg"), ("jax_threefry_partitionable", False)],
)
def test_draws_are_of_one_generator_whatever_the_environment_says(name, value):
    expected = jax.device_get(text_program().fresh_state())
    try:
        jax.config.update(name, value)
        found = jax.device_get(text_program().fresh_state())
    finally:
        pin_generator()
    jax.tree.map(np.testing.assert_array_equal, found, expected)


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


# --- state collections, metrics and names of a task -------------------------------------------


def stateful_task(state, merge=None, returned=None, metrics=None) -> Task:
    """One parameter, and state that a microbatch changes: state(old, batch) -> new."""

    def loss(variables, batch, context, hparams) -> Loss:
        weights_B = batch["weights"]
        total = jnp.sum(weights_B * batch["slope"]) * variables["params"]["p"]
        found = {"loss": (total, weights_B.sum())} | (metrics or (lambda b: {}))(batch)
        new = {"kept": state(variables["kept"], batch)} if returned is None else returned
        return Loss(total, weights_B.sum(), found, new)

    return Task(lambda rng: {}, loss, merge=merge or {})


def stepped(task: Task, kept, accumulate: int, rows: int = 4):
    """(state after, metrics) of one step on slopes 0, 1, 2, ..."""
    state = bare_state({"p": jnp.float32(0.5)}).replace(model_state={"kept": kept})
    optimizer = plain_optimizer()
    state = state.replace(opt_state=optimizer.init(state.params))
    step = make_train_step(task, optimizer, accumulate=accumulate)
    batch = {"slope": jnp.arange(rows, dtype=jnp.float32), "weights": jnp.ones(rows)}
    return jax.jit(step)(state, batch, {k: jnp.float32(v) for k, v in optimizer.hparams.items()})


@pytest.mark.parametrize("accumulate", quick([1, 2, 4], 1, 4))
def test_rows_of_state_go_with_their_rows_of_the_batch(accumulate):
    task = stateful_task(lambda old, batch: 10 * old + batch["slope"], {"kept": "rows"})
    after, _ = stepped(task, jnp.array([1.0, 2.0, 3.0, 4.0]), accumulate)
    assert after.model_state["kept"].tolist() == [10.0, 21.0, 32.0, 43.0]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_last_microbatch_may_decide_and_integers_stay_integers(accumulate):
    task = stateful_task(lambda old, batch: old + 1, {"kept": "last"})
    after, _ = stepped(task, jnp.int32(7), accumulate)
    assert after.model_state["kept"] == 8
    assert after.model_state["kept"].dtype == jnp.int32


def test_integers_are_not_averaged_over_microbatches():
    with pytest.raises(ConfigError, match=r"'kept' holds int32.*\n.*merge=\{'kept': 'last'\}"):
        stepped(stateful_task(lambda old, batch: old + 1), jnp.int32(7), 2)


def test_a_task_that_forgets_its_state_is_told_which():
    with pytest.raises(ConfigError, match=r"collections \[\], and the state has \['kept'\]"):
        stepped(stateful_task(lambda old, batch: old, returned={}), jnp.zeros(4), 1)


def test_a_carry_that_no_merge_names_is_refused_with_the_remedy():
    returned = {"kept": jnp.zeros(4), "carry": jnp.zeros(4)}
    with pytest.raises(ConfigError, match=r"\['carry', 'kept'\](?s:.*)merge.*\"carry\": \"rows\""):
        stepped(stateful_task(lambda old, batch: old, returned=returned), jnp.zeros(4), 1)


def test_metrics_may_be_vectors_and_may_not_take_the_names_of_the_step():
    def load(batch):
        return {"load": (jnp.stack([batch["slope"].sum(), batch["weights"].sum()]), jnp.float32(2))}

    _, metrics = stepped(stateful_task(lambda old, batch: old, metrics=load), jnp.zeros(4), 2)
    assert metrics["load"].tolist() == [1.5, 1.0]
    taken = stateful_task(
        lambda old, batch: old, metrics=lambda b: {"grad_norm": (b["weights"].sum(), 1.0)}
    )
    with pytest.raises(
        ConfigError, match=r"reports \['grad_norm'\], which the step reports itself"
    ):
        stepped(taken, jnp.zeros(4), 1)
