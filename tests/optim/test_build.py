"""From a config section to one update: run-time hyper-parameters, clipping, stacking."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.configs import Component
from scaling.experiment import OptimConfig
from scaling.optim import OPTIMIZERS, SCHEDULES
from scaling.optim.build import Optimizer, Rule, build_optimizer
from scaling.optim.optimizers import AdamW, Muon

NAMES = {"w": ("embed", "mlp"), "b": ("mlp",)}
PARAMS = {"w": np.full((4, 3), 0.5, np.float32), "b": np.zeros(3, np.float32)}


def section(
    name: str, schedule: str = "constant", schedule_keys: dict[str, Any] | None = None, **keys: Any
) -> OptimConfig:
    """A section `optim`; keys that are left out keep the defaults of the rule's class."""
    return OptimConfig(name=name, arguments=keys, schedule=Component(schedule, schedule_keys or {}))


def train(optimizer: Optimizer, hparams: Any, steps: int = 4) -> Any:
    def body(carry: Any, step: jax.Array) -> tuple[Any, jax.Array]:
        params, state = carry
        grads = jax.tree.map(lambda p: jnp.sin(3 * p + step) + p, params)
        norms = optimizer.norms(grads)
        updates, state = optimizer.update(grads, norms, state, params, step, hparams)
        rate = optimizer.metrics(norms, step, hparams)["learning_rate"]
        return (jax.tree.map(jnp.add, params, updates), state), rate

    params = jax.tree.map(jnp.asarray, PARAMS)
    (params, _), rates = jax.lax.scan(body, (params, optimizer.init(params)), jnp.arange(steps))
    return params, rates


@pytest.mark.parametrize("name", sorted({*OPTIMIZERS} - {"frozen"}))
def test_stacked_runs_equal_solo_runs(name: str) -> None:
    optimizer = build_optimizer(section(name, "cosine", clip_norm=0.7), 4, NAMES)
    values = {k: jnp.float32(v) for k, v in optimizer.hparams.items()}
    assert {"learning_rate", "clip_norm", "weight_decay"} <= set(values)
    factors = jnp.float32([0.5, 1.0, 2.0])
    # Every hyper-parameter is an argument; three of them differ between the runs.
    stacked = values | {
        k: values[k] * factors for k in ("learning_rate", "clip_norm", "weight_decay")
    }
    axes = {k: 0 if v.ndim else None for k, v in stacked.items()}
    together = jax.jit(jax.vmap(lambda h: train(optimizer, h), in_axes=(axes,)))(stacked)
    traced = []
    solo = jax.jit(lambda h: traced.append(1) or train(optimizer, h))
    for i in range(3):
        alone = solo({k: v[i] if v.ndim else v for k, v in stacked.items()})
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=2e-5, atol=1e-6),
            together,
            alone,
        )
    assert len(traced) == 1
    assert not np.allclose(together[0]["w"][0], together[0]["w"][2])


@pytest.mark.parametrize("key", ["b1", "b2", "eps", "weight_decay", "clip_norm", "learning_rate"])
def test_each_number_acts_without_recompiling(key: str) -> None:
    optimizer = build_optimizer(section("adamw", clip_norm=10.0, weight_decay=0.1), 4, NAMES)
    values = {k: jnp.float32(v) for k, v in optimizer.hparams.items()}
    traced = []
    run = jax.jit(lambda h: traced.append(1) or train(optimizer, h)[0]["w"])
    before = run(values)
    after = run(values | {key: jnp.float32(0.3)})
    assert len(traced) == 1
    assert not np.array_equal(before, after)


def test_info_gives_the_rate_and_the_norm_before_clipping() -> None:
    optimizer = build_optimizer(
        section("adamw", "linear", {"warmup_steps": 2, "final_fraction": 0.5}, clip_norm=0.25),
        10,
        NAMES,
    )
    grads = {"w": np.full((4, 3), 2.0, np.float32), "b": np.full(3, 1.0, np.float32)}
    values = {k: jnp.float32(v) for k, v in optimizer.hparams.items()}
    info = jax.jit(optimizer.metrics)(optimizer.norms(grads), jnp.int32(0), values)
    assert float(info["grad_norm"]) == pytest.approx(np.sqrt(12 * 4 + 3))
    assert float(info["learning_rate"]) == pytest.approx(5e-4)


def test_missing_and_unknown_hyper_parameters_are_refused() -> None:
    optimizer = build_optimizer(section("sgd"), 4, NAMES)
    values = {k: jnp.float32(v) for k, v in optimizer.hparams.items()}
    args = PARAMS, optimizer.norms(PARAMS), optimizer.init(PARAMS), PARAMS, jnp.int32(0)
    with pytest.raises(KeyError, match="learning_rat"):
        optimizer.update(*args, values | {"learning_rat": values["learning_rate"]})
    with pytest.raises(KeyError, match="momentum"):
        optimizer.update(*args, {k: v for k, v in values.items() if k != "momentum"})


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_builds(name: str) -> None:
    optimizer = build_optimizer(section("lion", name), 50, NAMES)
    assert 0 < float(optimizer.rules[""].schedule(jnp.int32(10), 1.0)) <= 1


def test_norms_biases_and_tables_are_left_to_adam() -> None:
    names = {
        "table": ("vocab", "embed"),
        "positions": ("positions", "embed"),
        "head": ("mlp", "classes"),
        "norm": ("layers", "norm"),
        "matrix": ("layers", "embed", "mlp"),
        "window": (None, None, "conv_in", "conv_out"),
    }
    params = {k: jnp.ones([2] * len(v)) for k, v in names.items()}
    state = Optimizer({"": Rule(Muon(), lambda step, peak: peak)}, names).init(params)
    held = {
        k for k, m in state.inner_states["muon"].inner_state[0].mu.items() if hasattr(m, "shape")
    }
    assert held == {"matrix", "window"}


def test_moments_are_float32_for_any_parameter_type_and_stay_so() -> None:
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), PARAMS)
    for kind in ("float32", "bfloat16"):
        optimizer = Optimizer({"": Rule(AdamW(moment_dtype=kind), lambda step, peak: peak)}, NAMES)
        values = {k: jnp.float32(v) for k, v in optimizer.hparams.items()}
        state = optimizer.init(params)
        norms = optimizer.norms(params)
        updates, after = optimizer.update(params, norms, state, params, jnp.int32(0), values)
        assert jax.tree.map(lambda x: x.dtype, after) == jax.tree.map(lambda x: x.dtype, state)
        assert state[0].mu["w"].dtype == kind
        assert state[0].nu["w"].dtype == jnp.float32
        assert updates["w"].dtype == jnp.float32


@pytest.mark.parametrize("name", ["muon", "adafactor"])
def test_a_stack_of_layers_is_updated_like_its_layers(name: str) -> None:
    rng = np.random.default_rng(0)
    stack = {"k": rng.normal(size=(3, 5, 4)).astype(np.float32), "b": np.ones((3, 4), np.float32)}
    grads = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), stack)
    names = {"k": ("embed", "mlp"), "b": ("mlp",)}
    config = section(name, weight_decay=0.1, clip_norm=None)

    def update(names: Any, params: Any, grads: Any) -> Any:
        optimizer = build_optimizer(config, 4, names)
        values = {k: jnp.float32(v) for k, v in optimizer.hparams.items()}
        state = optimizer.init(params)
        norms = optimizer.norms(grads)
        return jax.jit(optimizer.update)(grads, norms, state, params, jnp.int32(0), values)[0]

    scanned = update({k: ("layers", *v) for k, v in names.items()}, stack, grads)
    for i in range(3):
        alone = update(names, *jax.tree.map(lambda x, i=i: x[i], (stack, grads)))
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-6),
            scanned,
            alone,
        )
