import jax
import jax.numpy as jnp
import numpy as np

from scaling.models.layers import Dense


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
