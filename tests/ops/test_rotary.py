"""Rotary positions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.ops.rotary import rotary_tables, rotate


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
