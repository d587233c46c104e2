"""The Vision Transformer: published sizes, counted work, positions, what each patch reads."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import quick

from scaling.configs import ConfigError
from scaling.models.vit import ViT, sincos
from scaling.parallel.axes import DEFAULT_RULES
from scaling.tasks.flops import products

TINY = {"num_classes": 5, "num_layers": 2, "model_dim": 16, "num_heads": 2, "patch_size": 4}

# Of the class-token models with 16 x 16 patches, 224 x 224 pixels and 1,000 classes (timm).
PUBLISHED = {"Ti": 5_717_416, "S": 22_050_664, "B": 86_567_656, "L": 304_326_632}


@pytest.mark.parametrize("size", PUBLISHED)
def test_published_sizes(size):
    cost = ViT(num_classes=1000, size=size).cost((224, 224, 3))
    assert cost.body + cost.embedding == PUBLISHED[size]


@pytest.mark.parametrize(("pool", "position"), [("class", "learned"), ("mean", "sincos")])
def test_the_cost_is_that_of_the_parameters_and_of_the_traced_work(pool, position):
    model, shape = ViT(**TINY, pool=pool, position=position), (8, 12, 3)
    images = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    boxed = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)
    cost = model.cost(shape)
    count = sum(x.size for x in jax.tree.leaves(nn.unbox(boxed["params"])))
    assert cost.body + cost.embedding == count
    forward = jax.make_jaxpr(lambda v, x: model.apply(v, x, train=False))(nn.unbox(boxed), images)
    assert products(forward.jaxpr) == 2 * 2 * (cost.matmul + cost.attention)
    assert cost.first == 6 * 48 * 16
    boxes = jax.tree.leaves(boxed["params"], is_leaf=lambda x: isinstance(x, nn.Partitioned))
    for box in boxes:
        assert isinstance(box, nn.Partitioned)
        assert all(axis is None or axis in DEFAULT_RULES for axis in box.names)


def built(**fields):
    model = ViT(**TINY | fields)
    images = jax.random.uniform(jax.random.key(3), (6, 8, 8, 1))
    init = jax.jit(lambda x: model.init(jax.random.key(0), x, train=False))
    return model, nn.unbox(init(images)), images


@pytest.mark.parametrize("pool", quick(["class", "mean"], "class"))
def test_every_patch_is_read_and_its_place_matters(pool):
    model, variables, images = built(pool=pool)
    run = jax.jit(lambda v, x: model.apply(v, x, train=False))
    slope = jax.jit(jax.grad(lambda x: jnp.sum(run(variables, x)[:, 0])))(images)
    assert (jnp.abs(slope).reshape(6, 2, 4, 2, 4).sum((2, 4)) > 0).all()
    swapped = jnp.concatenate([images[:, 4:], images[:, :4]], axis=1)
    assert not np.allclose(run(variables, images), run(variables, swapped), atol=1e-5)
    # Without positions, patches are a set.
    variables["params"]["positions"] = jnp.zeros_like(variables["params"]["positions"])
    placeless = [run(variables, x) for x in (images, swapped)]
    np.testing.assert_allclose(*placeless, atol=1e-5)


def test_patches_are_squares_of_the_image_row_by_row():
    image = np.arange(8 * 12).reshape(1, 8, 12, 1)
    patches = ViT(**TINY)._patches(jnp.asarray(image))
    assert patches.shape == (1, 6, 16)
    np.testing.assert_array_equal(patches[0, 4].reshape(4, 4), image[0, 4:, 4:8, 0])


def test_fixed_positions_tell_rows_and_columns_apart():
    table = sincos(3, 5, 8).reshape(3, 5, 8)
    assert len(np.unique(table.reshape(15, 8).round(5), axis=0)) == 15
    np.testing.assert_array_equal(table[0, :, :4], table[2, :, :4])  # of the column
    np.testing.assert_array_equal(table[:, 0, 4:], table[:, 4, 4:])  # of the row
    np.testing.assert_allclose(table[0, 2, :4], np.sin([2, 2e-4, 2 + np.pi / 2, np.pi / 2 - 2e-4]))


def test_dropping_branches_is_of_training_and_grows_with_depth():
    model, variables, images = built(stochastic_depth=0.5)
    whole = jax.jit(lambda m: m.apply(variables, images, train=False), static_argnums=0)
    np.testing.assert_array_equal(whole(model), whole(ViT(**TINY)))
    trained = jax.jit(lambda v, key: model.apply(v, images, train=True, rngs={"dropout": key}))

    def run(key):
        return trained(variables, jax.random.key(key))

    assert not np.allclose(run(0), run(1))
    # The first block is never left out: with the last one doing nothing all draws are equal.
    for name, layer in (("attention", "out"), ("mlp", "down")):
        for leaf, value in variables["params"]["layers"][name][layer].items():
            variables["params"]["layers"][name][layer][leaf] = value.at[1].set(0.0)
    np.testing.assert_array_equal(run(0), run(1))


def test_rematerialised_it_is_the_same():
    model, variables, images = built(stochastic_depth=0.3, dropout=0.1)
    again = ViT(**TINY, stochastic_depth=0.3, dropout=0.1, remat="full")

    def gradient(model):
        def loss(params):
            rngs = {"dropout": jax.random.key(0)}
            return jnp.sum(model.apply({"params": params}, images, train=True, rngs=rngs) ** 2)

        return jax.jit(jax.grad(loss))(variables["params"])

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        gradient(model),
        gradient(again),
    )


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"patch_size": 3}, "patch_size"),
        ({"num_heads": 3}, "num_heads"),
        ({"model_dim": 18, "position": "sincos"}, "model_dim"),
    ],
)
def test_what_does_not_fit_is_named(fields, key):
    with pytest.raises(ConfigError, match=rf"model\.{key}"):
        built(**fields)
