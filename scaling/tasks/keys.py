"""Random keys of one generator, whatever JAX's own variables say of its default."""

import jax
import jax.numpy as jnp

GENERATOR = "threefry2x32"
KEY_DATA = jax.ShapeDtypeStruct((2,), jnp.uint32)


def wrap_key(data: jax.Array) -> jax.Array:
    """The key with this data: uint32[2] -> key[]."""
    return jax.random.wrap_key_data(data, impl=GENERATOR)


def abstract_key() -> jax.ShapeDtypeStruct:
    """A random key without a value, for `jax.eval_shape`; starts no backend."""
    return jax.eval_shape(wrap_key, KEY_DATA)


def pin_generator() -> None:
    """Makes draws a function of the key alone, in code of a user's own too; starts no backend.

    JAX_DEFAULT_PRNG_IMPL and JAX_THREEFRY_PARTITIONABLE would change every draw, and neither is part
    of a run's config. Partitionable draws are also those that are equal on every mesh.
    """
    jax.config.update("jax_default_prng_impl", GENERATOR)
    jax.config.update("jax_threefry_partitionable", True)
