import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.models import dims
from scaling.models.layers import Dense, lookup, rotary_tables, rotate, wide_product


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
    with pytest.raises(ValueError, match="num_heads=5"):
        dims.head_dim(96, 5)


def test_the_head_has_float32_results_and_gradients_of_the_compute_type():
    keys = jax.random.split(jax.random.key(0))
    x_ND, kernel_DV = jax.random.normal(keys[0], (6, 4)), jax.random.normal(keys[1], (4, 5))

    def loss(product, dtype):
        return lambda x, w: jnp.sum(jnp.sin(product(x.astype(dtype), w.astype(dtype))))

    ours = jax.jit(jax.grad(loss(wide_product, "float32"), (0, 1)))(x_ND, kernel_DV)
    plain = jax.jit(jax.grad(loss(jnp.dot, "float32"), (0, 1)))(x_ND, kernel_DV)
    jax.tree.map(np.testing.assert_array_equal, ours, plain)
    assert wide_product(x_ND.astype("bfloat16"), kernel_DV.astype("bfloat16")).dtype == "float32"
    jaxpr = str(jax.make_jaxpr(jax.grad(loss(wide_product, "bfloat16")))(x_ND, kernel_DV))
    assert "bf16[6,5] = convert_element_type" in jaxpr  # the gradient of the logits, once rounded
    stacked = jax.vmap(jax.grad(loss(wide_product, "float32"), (0, 1)))(
        jnp.stack([x_ND, x_ND]), jnp.stack([kernel_DV, kernel_DV])
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b, rtol=1e-6), stacked, ours)
