"""Products of matrices on a mesh, and rows of tables."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.ops.matmul import lookup, matmul
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
        return jnp.sum(weight * jnp.sin(matmul(x, kernel, axes)))

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
