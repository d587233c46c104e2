"""Residual networks: published sizes, counted work, what their norms and their dropping do."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.configs import ConfigError
from scaling.models.layers import stochastic_depth
from scaling.models.resnet import ResNet
from scaling.parallel.axes import DEFAULT_RULES
from scaling.tasks.flops import products

CIFAR, IMAGENET = (32, 32, 3), (224, 224, 3)


def abstract(model, shape):
    """(boxed variables, jaxpr of two images' forward pass), without computing anything."""
    images = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    boxed = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)
    return boxed, jax.make_jaxpr(
        lambda v, x: model.apply(v, x, train=False),
    )(nn.unbox(boxed), images).jaxpr


def size(boxed):
    return sum(x.size for x in jax.tree.leaves(nn.unbox(boxed["params"])))


# Parameters of torchvision's networks of 1,000 classes. Of the CIFAR nets the paper's table 6 says
# 0.27 and 0.85 million, with shortcuts that have no parameters: ours have two.
SIZES = {
    "resnet20": ({"depth": 20, "num_classes": 10}, CIFAR, 269_722 + 16 * 32 + 32 * 64 + 192),
    "resnet56": ({"depth": 56, "num_classes": 10}, CIFAR, 853_018 + 16 * 32 + 32 * 64 + 192),
    "resnet18": ({"depth": 18, "stem": "imagenet", "num_classes": 1000}, IMAGENET, 11_689_512),
    "resnet50": ({"depth": 50, "stem": "imagenet", "num_classes": 1000}, IMAGENET, 25_557_032),
}


@pytest.mark.parametrize("name", SIZES)
def test_published_sizes(name):
    fields, shape, parameters = SIZES[name]
    assert ResNet(**fields).cost(shape).body == parameters


@pytest.mark.parametrize("stem", ["cifar", "imagenet", "imagenet_3x3"])
@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_the_cost_is_that_of_the_parameters_and_of_the_traced_work(stem, norm):
    depths = {"cifar": 14, "imagenet": 50, "imagenet_3x3": 18}
    model = ResNet(num_classes=7, depth=depths[stem], stem=stem, width=16, norm=norm)
    shape = (37, 30, 2)  # odd sides are rounded up at each stride
    boxed, jaxpr = abstract(model, shape)
    cost = model.cost(shape)
    assert cost.body == size(boxed)
    assert products(jaxpr) == 2 * 2 * cost.matmul
    kernel = 49 if stem == "imagenet" else 9
    places = 19 * 15 if stem == "imagenet" else 37 * 30
    assert cost.first == kernel * 2 * 16 * places
    for box in jax.tree.leaves(boxed["params"], is_leaf=lambda x: isinstance(x, nn.Partitioned)):
        assert isinstance(box, nn.Partitioned)
        assert all(axis is None or axis in DEFAULT_RULES for axis in box.names)


def small(**fields):
    model = ResNet(num_classes=3, depth=8, width=8, group_channels=4, **fields)
    images = jax.random.uniform(jax.random.key(3), (8, 8, 8, 1))
    variables = jax.jit(lambda x: model.init(jax.random.key(0), x, train=False))(images)
    return model, nn.unbox(variables), images


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_evaluation_of_a_row_does_not_depend_on_the_others(norm):
    model, variables, images = small(norm=norm)
    assert set(variables) == ({"params", "batch_stats"} if norm == "batch" else {"params"})
    run = jax.jit(lambda x: model.apply(variables, x, train=False))
    whole = run(images)
    assert whole.dtype == jnp.float32
    assert np.std(whole) > 1e-3
    alone = run(images[2:3])
    np.testing.assert_allclose(whole[2:3], alone, atol=1e-5)


def test_without_norm_a_branch_starts_at_nothing_and_learns():
    model, variables, images = small(norm="none")
    kernel = variables["params"]["stage_0_block_0_conv_1"]["kernel"]
    changed = jax.tree.map(lambda x: x, variables)
    changed["params"]["stage_0_block_0_conv_1"]["kernel"] = kernel + 1.0
    run = jax.jit(lambda v: model.apply(v, images, train=False))
    np.testing.assert_array_equal(run(variables), run(changed))
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(run({"params": p})[:, 0])))
    assert float(jnp.abs(gradient(variables["params"])["stage_0_block_0_scale"])) > 1e-6


def test_a_branch_is_left_out_for_some_rows_and_only_in_training():
    model, variables, images = small(norm="group", stochastic_depth=0.5)
    whole = jax.jit(lambda m: m.apply(variables, images, train=False), static_argnums=0)
    np.testing.assert_array_equal(whole(model), whole(model.clone(stochastic_depth=0.0)))
    trained = jax.jit(lambda key: model.apply(variables, images, train=True, rngs={"dropout": key}))

    def run(key):
        return trained(jax.random.key(key))

    np.testing.assert_array_equal(run(0), run(0))
    assert not np.allclose(run(0), run(1))


def test_dropped_rows_are_zero_and_the_mean_stays():
    y = stochastic_depth(jnp.ones((10_000, 2, 3)), 0.25, jax.random.key(0))
    rows = np.asarray(y).reshape(10_000, -1)
    assert (rows == rows[:, :1]).all()
    assert set(np.unique(rows)) == {0.0, np.float32(1 / 0.75)}
    assert rows.mean() == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"depth": 21}, "depth"),
        ({"depth": 20, "stem": "imagenet"}, "depth"),
        ({"norm": "group", "width": 24}, "group_channels"),
    ],
)
def test_what_does_not_fit_is_named(fields, key):
    with pytest.raises(ConfigError, match=rf"model\.{key}"):
        abstract(ResNet(num_classes=2, **fields), CIFAR)
