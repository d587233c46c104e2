"""The image families: MLP and CNN."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.models.cnn import CNN, max_pool
from scaling.models.mlp import MLP
from scaling.parallel.axes import DEFAULT_RULES

MODELS = {
    "mlp": MLP(num_classes=10, hidden_dims=(16, 8), dropout=0.5),
    "cnn": CNN(num_classes=10, channels=(4, 8), batch_norm_group=4, dropout=0.5),
}


def images(batch=8):
    return jax.random.uniform(jax.random.key(3), (batch, 9, 9, 1))


def init(model):
    return jax.jit(lambda x: model.init(jax.random.key(0), x, train=False))(images())


@pytest.mark.parametrize("name", MODELS)
def test_logits_names_and_dropout(name):
    model = MODELS[name]
    boxed = init(model)
    for box in jax.tree.leaves(boxed["params"], is_leaf=lambda x: isinstance(x, nn.Partitioned)):
        assert isinstance(box, nn.Partitioned)
        assert all(axis is None or axis in DEFAULT_RULES for axis in box.names)
    variables = nn.unbox(boxed)

    def run(key):
        rngs = {"dropout": jax.random.key(key)}
        return model.apply(variables, images(), train=True, rngs=rngs, mutable=["batch_stats"])[0]

    assert run(0).shape == (8, 10)
    assert run(0).dtype == jnp.float32
    np.testing.assert_array_equal(run(0), run(0))
    assert not np.allclose(run(0), run(1))


def test_bfloat16_answers_in_float32():
    for cls in (MLP, CNN):
        model = cls(num_classes=10, dtype="bfloat16")
        logits = model.apply(init(model), images(), train=False)
        assert logits.dtype == jnp.float32


def test_only_batch_statistics_are_mutable_and_only_in_training():
    variables = nn.unbox(init(MODELS["cnn"]))
    model = CNN(num_classes=10, channels=(4, 8), batch_norm_group=4)
    assert set(variables) == {"params", "batch_stats"}
    _, state = model.apply(variables, images(), train=True, mutable=["batch_stats"])
    moved = jax.tree.map(
        lambda a, b: bool(jnp.any(a != b)), variables["batch_stats"], state["batch_stats"]
    )
    assert all(jax.tree.leaves(moved))
    model.apply(variables, images(), train=False)  # would raise if it wrote


def test_evaluation_of_a_row_does_not_depend_on_the_others():
    variables, model = nn.unbox(init(MODELS["cnn"])), MODELS["cnn"]
    whole = model.apply(variables, images(), train=False)
    alone = model.apply(variables, images()[2:3], train=False)
    np.testing.assert_allclose(whole[2:3], alone, atol=1e-6)


@pytest.mark.parametrize("cls", [MLP, CNN])
def test_classes_must_be_known(cls):
    with pytest.raises(ValueError, match=r"model\.num_classes"):
        cls().init(jax.random.key(0), images(), train=False)


def test_halving_is_max_pooling():
    x = jax.random.normal(jax.random.key(0), (2, 5, 4, 3))
    weight = jax.random.normal(jax.random.key(1), (2, 3, 2, 3))

    def pool(x):
        return nn.max_pool(x, (2, 2), strides=(2, 2), padding="SAME")

    np.testing.assert_array_equal(max_pool(x), pool(x))
    ours, theirs = (jax.grad(lambda x, f=f: jnp.sum(f(x) * weight))(x) for f in (max_pool, pool))
    np.testing.assert_array_equal(ours, theirs)
