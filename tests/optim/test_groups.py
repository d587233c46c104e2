"""Parameter groups: rules, schedules and clips of their own, and frozen parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from scaling import configs
from scaling.configs import ConfigError
from scaling.optim.build import build_optimizer

NAMES = {"body": {"w": ("embed", "mlp"), "norm": ("norm",)}, "head": {"w": ("embed", "vocab")}}
PARAMS = {
    "body": {"w": jnp.full((2, 3), 2.0), "norm": jnp.ones(2)},
    "head": {"w": jnp.full((2, 4), -1.0)},
}
GRADS = jax.tree.map(lambda p: 0.5 * jnp.ones_like(p), PARAMS)
SGD = {"name": "sgd", "momentum": None, "schedule": {"name": "constant"}}


def section(base=SGD, **optim):
    """A resolved section `optim`."""
    raw = {"task": {"name": "language_model"}, "model": {"name": "transformer"}}
    raw |= {"data": {"source": {"name": "stdlib"}}, "optim": base | optim}
    return configs.resolve(ConfigDict(raw)).optim


def updated(optim, step=0, **hparams):
    optimizer = build_optimizer(optim, 10, NAMES)
    params = optimizer.trained(PARAMS)
    values = {k: jnp.float32(v) for k, v in optimizer.hparams.items()} | hparams
    grads = optimizer.trained(GRADS)
    norms, state = optimizer.norms(grads), optimizer.init(params)
    updates, state = optimizer.update(grads, norms, state, params, jnp.int32(step), values)
    return optimizer, updates, state, optimizer.metrics(norms, jnp.int32(step), values)


def test_each_group_has_its_rate_schedule_norm_and_clip():
    schedule = {"name": "linear", "warmup_steps": 2}
    rule = {"name": "sgd", "momentum": None, "learning_rate": 0.4, "clip_norm": 0.1}
    head = {"match": "head/.*", "optimizer": rule, "schedule": schedule}
    optimizer, updates, _, info = updated(section(learning_rate=0.1, groups={"head": head}))
    np.testing.assert_allclose(updates["body"]["w"], -0.1 * 0.5)
    norm = 0.5 * np.sqrt(8)
    np.testing.assert_allclose(updates["head"]["w"], -0.2 * 0.5 * 0.1 / norm, rtol=1e-6)
    assert optimizer.hparams["head.learning_rate"] == 0.4
    assert info["learning_rate"] == pytest.approx(0.1)
    assert info["learning_rate/head"] == pytest.approx(0.2)
    assert info["grad_norm/head"] == pytest.approx(norm)
    assert info["grad_norm"] == pytest.approx(0.5 * np.sqrt(8 + 8))


def test_axes_choose_too_and_the_rest_is_the_sections():
    group = {
        "axes": ("norm",),
        "optimizer": {"name": "sgd", "momentum": None, "learning_rate": 9.0},
    }
    _, updates, _, _ = updated(section(learning_rate=0.1, groups={"norms": group}))
    np.testing.assert_allclose(updates["body"]["norm"], -9.0 * 0.5)
    np.testing.assert_allclose(updates["body"]["w"], -0.1 * 0.5)


def test_frozen_parameters_have_no_gradient_no_state_and_no_update():
    frozen = {"match": "body/.*", "optimizer": {"name": "frozen"}}
    adamw = {"name": "adamw", "schedule": {"name": "constant"}}
    optim = section(adamw, groups={"body": frozen})
    optimizer, updates, state, _ = updated(optim)
    assert updates["body"] == {"w": None, "norm": None}
    assert sum(x.size for x in jax.tree.leaves(state)) == 2 * 8 + 1  # two moments, one counter
    taken = jax.grad(lambda p: sum(jnp.sum(x**2) for x in jax.tree.leaves(p)))
    assert jax.tree.structure(taken(optimizer.trained(PARAMS))) == jax.tree.structure(updates)


def test_one_executable_serves_every_rate_of_every_group():
    head = {"match": "head/.*", "optimizer": {"name": "lion"}}
    optimizer = build_optimizer(section(groups={"head": head}), 10, NAMES)
    traced = []

    @jax.jit
    def update(h):
        traced.append(1)
        norms, state = optimizer.norms(GRADS), optimizer.init(PARAMS)
        return optimizer.update(GRADS, norms, state, PARAMS, jnp.int32(0), h)[0]

    values = {k: jnp.float32(v) for k, v in optimizer.hparams.items()}
    slow = update(values)
    fast = update(values | {"head.learning_rate": values["head.learning_rate"] * 2})
    assert len(traced) == 1
    np.testing.assert_allclose(fast["head"]["w"], 2 * slow["head"]["w"], rtol=1e-6)
    np.testing.assert_array_equal(fast["body"]["w"], slow["body"]["w"])


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ({"a": {"match": "haed/.*", "optimizer": SGD}}, "takes no parameter\n.*body/norm"),
        (
            {
                "a": {"match": "head/.*", "optimizer": SGD},
                "b": {"axes": ("vocab",), "optimizer": SGD},
            },
            "optim.groups.b: takes head/w, which optim.groups.a takes too",
        ),
        ({"a": {"match": "(", "optimizer": SGD}}, "is not a regular expression"),
        ({"a": {"optimizer": {"name": "frozen"}}}, "every parameter is frozen"),
    ],
)
def test_groups_that_cannot_be_meant_are_refused(groups, words):
    rules = {
        k: v | {"optimizer": {key: x for key, x in v["optimizer"].items() if key != "schedule"}}
        for k, v in groups.items()
    }
    with pytest.raises(ConfigError, match=words):
        build_optimizer(section(groups=rules), 10, NAMES)


def test_an_optax_transformation_as_it_is():
    adam = {"name": "optax:adam", "learning_rate": 0.25}
    optim = section(adam, schedule={"name": "linear", "warmup_steps": 2})
    optimizer, updates, _, info = updated(optim)
    assert {"learning_rate", "b1", "b2", "eps"} <= set(optimizer.hparams)
    assert info["learning_rate"] == pytest.approx(0.125)  # the schedule multiplies it
    np.testing.assert_allclose(updates["head"]["w"], -0.125, rtol=1e-5)  # Adam's first step
