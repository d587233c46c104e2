import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.models import dims
from scaling.models.layers import Dense
from scaling.ops.matmul import lookup, product
from scaling.ops.rotary import rotary_tables, rotate
from scaling.parallel import MeshConfig, make_mesh
from scaling.parallel.axes import rules
from scaling.parallel.logical import logical_rules


def test_lookup_clamps_and_has_the_gradient_of_indexing():
    rng = np.random.default_rng(0)
    table = jnp.asarray(rng.normal(size=(7, 3)), jnp.float32)
    tokens = jnp.asarray(rng.integers(0, 7, size=(5, 8)))  # with repetitions
    weight = jnp.asarray(rng.normal(size=(5, 8, 3)), jnp.float32)
    got = jax.grad(lambda t: jnp.sum(lookup(t, tokens) * weight))(table)
    want = np.einsum("btv,btd->vd", jax.nn.one_hot(tokens, 7), weight)
    np.testing.assert_allclose(got, want, atol=1e-5)
    np.testing.assert_array_equal(lookup(table, tokens), np.asarray(table)[tokens])
    np.testing.assert_array_equal(lookup(table, jnp.array([9])), table[6:])


def test_dense_is_a_product_over_the_last_dimension():
    x = jax.random.normal(jax.random.key(0), (2, 3, 4))
    dense = Dense(5, ("embed", "mlp"), use_bias=True)
    variables = dense.init(jax.random.key(1), x)
    params = variables["params"]
    assert params["kernel"].names == ("embed", "mlp")
    assert params["bias"].names == ("mlp",)
    bias = params["bias"].replace_boxed(jnp.arange(5.0))
    y = dense.apply({"params": params | {"bias": bias}}, x)
    want = np.einsum("abd,df->abf", x, params["kernel"].value) + np.arange(5.0)
    np.testing.assert_allclose(y, want, atol=1e-6)


def test_rotary_products_depend_on_distance_alone():
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 8))

    def product(t, s):
        at = [rotary_tables(jnp.array([p]), 8, 10_000.0) for p in (t, s)]
        return float(jnp.sum(rotate(q, at[0]) * rotate(k, at[1])))

    assert product(5, 2) == pytest.approx(product(105, 102), abs=1e-4)
    assert product(5, 2) != pytest.approx(product(5, 3), abs=1e-3)
    assert product(4, 4) == pytest.approx(float(jnp.sum(q * k)), abs=1e-5)


def test_rotary_angles_by_hand():
    cos, sin = rotary_tables(jnp.array([3]), 4, 100.0)
    np.testing.assert_allclose(cos[0], [np.cos(3.0), np.cos(0.3)], rtol=1e-6)
    np.testing.assert_allclose(sin[0], [np.sin(3.0), np.sin(0.3)], rtol=1e-6)
    x = jnp.array([1.0, 0.0, 0.0, 0.0]).reshape(1, 1, 1, 4)  # the first of pair (0, 2)
    want = [np.cos(3.0), 0.0, np.sin(3.0), 0.0]
    np.testing.assert_allclose(rotate(x, (cos, sin))[0, 0, 0], want, atol=1e-6)


def test_widths_that_follow():
    assert dims.head_dim(96, 4) == 24
    assert dims.head_dim(96, 5, explicit=32) == 32
    assert dims.mlp_dim(96, "gelu") == 384
    assert dims.mlp_dim(96, "swiglu") == 256
    assert dims.mlp_dim(128, "geglu") == 384  # 341.3 rounded up to a multiple of 64
    assert dims.mlp_dim(128, "geglu", explicit=7) == 7
    assert dims.num_kv_heads(4) == 4
    with pytest.raises(ValueError, match="5 does not divide"):
        dims.head_dim(96, 5)


def test_the_gradient_of_a_rotation_is_the_rotation_backwards():
    """Against the written formula differentiated by JAX, tables with and without a batch."""
    x, weight = jax.random.normal(jax.random.key(0), (2, 2, 3, 4, 8))
    for positions in (jnp.arange(3), jnp.array([[0, 1, 2], [5, 6, 7]])):
        cos, sin = rotary_tables(jnp.broadcast_to(positions, (2, 3)), 8, 100.0)

        def formula(x, cos=cos, sin=sin):
            first, second = x[..., :4], x[..., 4:]
            cos, sin = cos[..., None, :], sin[..., None, :]
            return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1)

        tables = rotary_tables(positions, 8, 100.0)
        ours = jax.grad(lambda x, t=tables: jnp.sum(weight * rotate(x, t)))(x)
        plain = jax.grad(lambda x, f=formula: jnp.sum(weight * f(x)))(x)
        np.testing.assert_allclose(ours, plain, atol=1e-6)


@pytest.mark.parametrize("axes", [("embed", "mlp"), ("mlp", "embed")])
def test_a_split_product_has_the_gradients_of_the_whole_one(axes):
    """Kernel over fsdp and tensor: gathered for use, its gradient split as it is; nothing else."""
    config = MeshConfig(fsdp=4, tensor=2)
    mesh, table = make_mesh(config), rules(config)
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (8, 16))
    kernel = jax.random.normal(keys[1], (16, 24))
    weight = jax.random.normal(keys[2], (8, 24))

    def loss(x, kernel):
        return jnp.sum(weight * jnp.sin(product(x, kernel, axes)))

    def split(x, kernel):
        with logical_rules(mesh, table):
            return jax.grad(loss, (0, 1))(x, kernel)

    whole = jax.grad(loss, (0, 1))(x, kernel)
    program = jax.jit(split).lower(x, kernel).as_text()
    assert program.count("optimization_barrier") == 1
    grads = jax.jit(split)(x, kernel)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), grads, whole)
    over = dict(zip(axes, grads[1].sharding.spec, strict=True))
    assert over == {"embed": "fsdp", "mlp": "tensor"}
    assert "optimization_barrier" not in jax.jit(jax.grad(loss)).lower(x, kernel).as_text()
