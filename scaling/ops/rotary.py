"""Rotary positions.

Legend: B batch, T time, H heads, K head width, R half of the head width.
"""

import jax
import jax.numpy as jnp

from scaling.configs.errors import ConfigError

Tables = tuple[jax.Array, jax.Array]  # cosines and sines


def rotary_tables(positions_xT: jax.Array, head_dim: int, theta: float) -> Tables:
    """Cosines and sines of rotary embedding (Su et al. 2021, 2104.09864), float32 [..., T, R].

    Args:
      positions_xT: int32 positions, [T] or [B, T].
      head_dim: even width of a head.
      theta: base of the wavelengths, which run from 2 pi to 2 pi theta.
    """
    if head_dim % 2:
        raise ConfigError(
            "model.head_dim",
            f"is {head_dim}, and rotary positions turn pairs of features",
            "make it even, or set --config.model.position=learned",
        )
    powers_R = jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim
    angles_xTR = (
        positions_xT.astype(jnp.float32)[..., None]
        * (theta**-powers_R)[(None,) * positions_xT.ndim]
    )
    return jnp.cos(angles_xTR), jnp.sin(angles_xTR)


@jax.custom_vjp
def rotate(x_BTHK: jax.Array, tables: Tables) -> jax.Array:
    """Rotates queries or keys by their positions; pairs are (i, i + K/2), as in GPT-NeoX.

    The gradient is the rotation backwards, by a rule of its own: halves change places in the type of
    x, which is exact, and float32 lives inside one fused product. Differentiated as written, the
    float32 halves are arrays, which on TPU are padded to twice their bytes.
    """
    return _plain_rotate(x_BTHK, tables)


def _plain_rotate(x_BTHK: jax.Array, tables: Tables) -> jax.Array:
    cos_xTR, sin_xTR = tables
    if cos_xTR.ndim == 2:
        cos_xTR, sin_xTR = cos_xTR[None], sin_xTR[None]
    # One product with each table of full width: concatenating small tables and swapping halves of x
    # vectorises on CPU, where concatenating rotated halves does not.
    cos_BT1K = jnp.concatenate([cos_xTR, cos_xTR], axis=-1)[:, :, None]
    sin_BT1K = jnp.concatenate([-sin_xTR, sin_xTR], axis=-1)[:, :, None]
    half = x_BTHK.shape[-1] // 2
    swapped_BTHK = jnp.concatenate([x_BTHK[..., half:], x_BTHK[..., :half]], axis=-1)
    return (x_BTHK * cos_BT1K + swapped_BTHK * sin_BT1K).astype(x_BTHK.dtype)


def _rotate_forward(x_BTHK: jax.Array, tables: Tables) -> tuple[jax.Array, Tables]:
    return _plain_rotate(x_BTHK, tables), tables


def _rotate_backward(tables: Tables, grad_BTHK: jax.Array) -> tuple[jax.Array, None]:
    cos_xTR, sin_xTR = tables
    return _plain_rotate(grad_BTHK, (cos_xTR, -sin_xTR)), None


rotate.defvjp(_rotate_forward, _rotate_backward)
