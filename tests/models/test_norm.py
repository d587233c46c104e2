import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from scaling.models.norm import GroupedBatchNorm, LayerNorm, RMSNorm


def images(batch=8):
    return 3.0 + 2.0 * jax.random.normal(jax.random.key(0), (batch, 5, 4, 3))


def train(norm, variables, x):
    y, state = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    return y, state["batch_stats"]


def start(norm, x):
    variables = nn.unbox(norm.init(jax.random.key(1), x, train=False))
    params = {"scale": jnp.array([1.0, 2.0, 3.0]), "bias": jnp.array([0.5, 0.0, -1.0])}
    return variables | {"params": params}


def test_rms_and_layer_norm_by_hand():
    x = jnp.array([[1.0, 2.0, 3.0, 6.0]])
    rms = RMSNorm(epsilon=1e-12)
    y = rms.apply(rms.init(jax.random.key(0), x), x)
    np.testing.assert_allclose(y, x / np.sqrt(12.5), rtol=1e-6)
    layer = LayerNorm(epsilon=1e-12)
    y = layer.apply(layer.init(jax.random.key(0), x), x)
    np.testing.assert_allclose(y, (np.asarray(x) - 3) / np.sqrt(3.5), rtol=1e-6)


def test_norms_compute_in_float32():
    x = jnp.full((1, 4096), 300.0, jnp.bfloat16)  # a sum of squares would swallow its addends
    norm = RMSNorm(dtype="bfloat16")
    y = norm.apply(norm.init(jax.random.key(0), x), x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(y, np.float32), 1.0, atol=1e-2)


def test_one_group_is_ordinary_batch_norm():
    x = images()
    ours, theirs = GroupedBatchNorm(momentum=0.8), nn.BatchNorm(momentum=0.8, epsilon=1e-5)
    variables = start(ours, x)
    y, stats = train(ours, variables, x)
    want, state = theirs.apply(variables, x, use_running_average=False, mutable=["batch_stats"])
    np.testing.assert_allclose(y, want, atol=1e-5)
    for name in ("mean", "var"):
        np.testing.assert_allclose(stats[name], state["batch_stats"][name], rtol=1e-5)
    after = variables | {"batch_stats": stats}
    y = ours.apply(after, x, train=False)
    np.testing.assert_allclose(y, theirs.apply(after, x, use_running_average=True), atol=1e-5)


def test_groups_are_strided_rows():
    x = images()
    y, _ = train(GroupedBatchNorm(group_size=4), start(GroupedBatchNorm(), x), x)
    for g in range(2):
        alone, _ = train(GroupedBatchNorm(), start(GroupedBatchNorm(), x), x[g::2])
        np.testing.assert_allclose(y[g::2], alone, atol=1e-6)


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulation_does_not_change_result_gradient_or_statistics(parts):
    x = images(batch=16)
    norm = GroupedBatchNorm(group_size=4)
    variables = start(norm, x)
    weight = jax.random.normal(jax.random.key(2), x.shape)

    def loss(params, x, weight):
        y, stats = train(norm, variables | {"params": params}, x)
        return jnp.sum(jnp.tanh(y) * weight), stats

    grad = jax.grad(loss, has_aux=True)
    whole, whole_stats = grad(variables["params"], x, weight)
    pieces = [grad(variables["params"], x[i::parts], weight[i::parts]) for i in range(parts)]
    summed = jax.tree.map(lambda *g: sum(g), *[g for g, _ in pieces])
    averaged = jax.tree.map(lambda *s: sum(s) / parts, *[s for _, s in pieces])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), whole, summed)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), whole_stats, averaged)


def test_devices_do_not_change_the_result():
    x = images()
    norm = GroupedBatchNorm(group_size=4)
    variables = start(norm, x)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    a, b = train(norm, variables, x), jax.jit(lambda x: train(norm, variables, x))(spread)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), a, b)


def test_a_batch_that_does_not_divide_is_refused():
    x = images(6)
    with pytest.raises(ValueError, match="6 rows does not divide into groups of 4"):
        train(GroupedBatchNorm(group_size=4), start(GroupedBatchNorm(), x), x)


def test_initialisation_leaves_the_statistics_at_their_start():
    x = images()
    for training in (False, True):
        variables = GroupedBatchNorm().init(jax.random.key(0), x, train=training)
        np.testing.assert_array_equal(variables["batch_stats"]["mean"], 0.0)
        np.testing.assert_array_equal(variables["batch_stats"]["var"], 1.0)
