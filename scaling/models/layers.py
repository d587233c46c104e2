"""Small layers that the families share: dense, embedding, rotary positions.

Legend: B batch, T time, N flattened leading dimensions, D model width, F features out, H heads,
K head width, R half of the head width, V vocabulary.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from scaling.parallel import logical

Initializer = Callable[..., Any]


def compute_dtype(dtype: str, platform: str) -> str:
    """Resolves `auto`: bfloat16 where the matrix units have it, float32 on CPU."""
    if dtype != "auto":
        return dtype
    return "float32" if platform == "cpu" else "bfloat16"


def fan_in(scale: float = 1.0) -> Initializer:
    """Truncated normal with standard deviation scale / sqrt(fan in) (LeCun et al. 1998)."""
    return nn.initializers.variance_scaling(scale**2, "fan_in", "truncated_normal")


class Dense(nn.Module):
    """y_xF = x_xD @ kernel_DF (+ bias_F), computed on the flattened leading dimensions.

    XLA on CPU runs one (N, D) matmul faster than a batch of (T, D) ones; TPU and GPU do not mind.

    Attributes:
      features: F.
      axes: logical names of (D, F).
      kernel_init: initialiser of the kernel; zeros for the bias.
      use_bias: whether to add a bias.
      dtype: type of the computation; parameters are float32.
    """

    features: int
    axes: tuple[str | None, str | None]
    kernel_init: Initializer = fan_in()
    use_bias: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x_xD: jax.Array) -> jax.Array:
        """Maps [..., D] to [..., F] of `dtype`."""
        shape = (x_xD.shape[-1], self.features)
        kernel_DF = self.param(
            "kernel", nn.with_partitioning(self.kernel_init, self.axes), shape, jnp.float32
        )
        x_ND = x_xD.reshape(-1, shape[0]).astype(self.dtype)
        y_NF = x_ND @ kernel_DF.astype(self.dtype)
        if self.use_bias:
            bias_F = self.param(
                "bias",
                nn.with_partitioning(nn.initializers.zeros, self.axes[1:]),
                shape[1:],
                jnp.float32,
            )
            y_NF = y_NF + bias_F.astype(self.dtype)[None]
        return y_NF.reshape(*x_xD.shape[:-1], self.features)


@jax.custom_vjp
def wide_product(x_ND: jax.Array, kernel_DV: jax.Array) -> jax.Array:
    """The head, x @ kernel in float32 from operands of the compute type; gradients in that type.

    Without this rule the gradient of float32 logits would enter the backward products as float32:
    several passes of the matrix unit, and a sum over devices of twice the bytes.
    """
    return jnp.dot(x_ND, kernel_DV, preferred_element_type=jnp.float32)


def _wide_forward(x_ND: jax.Array, kernel_DV: jax.Array) -> tuple[jax.Array, Any]:
    return wide_product(x_ND, kernel_DV), (x_ND, kernel_DV)


def _wide_backward(kept: Any, grad_NV: jax.Array) -> tuple[jax.Array, jax.Array]:
    x_ND, kernel_DV = kept
    grad_NV = grad_NV.astype(x_ND.dtype)
    # One product after the other, so that the gathered kernel is gone before its gradient is there,
    # and the gradient's sum over devices before the layers' backward pass begins: left to itself the
    # compiler does the sum at the very end, and the whole matrix lives until then.
    grad_ND, x_ND = jax.lax.optimization_barrier((grad_NV @ kernel_DV.T, x_ND))
    grad_DV = _placed_as_parameter(x_ND.T @ grad_NV, ("embed", "vocab"))
    return jax.lax.optimization_barrier((grad_ND, grad_DV))


def _placed_as_parameter(grad: jax.Array, names: tuple[str, ...]) -> jax.Array:
    """The gradient split as its parameter is; as it comes where the parameter is whole by waiver."""
    active = logical.active_rules()
    if active is None:
        return grad
    mesh, rules = active
    if logical.indivisible(grad.shape, logical.spec(names, rules), mesh):
        return grad
    return logical.constrain(grad, names)


wide_product.defvjp(_wide_forward, _wide_backward)


def lookup(table_VD: jax.Array, tokens_x: jax.Array) -> jax.Array:
    """Rows of a table, [..., D]; tokens out of range clamp.

    A gather, whose gradient is a scatter-add: at 4,096 tokens on CPU that took 0.2 to 1.5 CPU-ms for
    256 to 16,384 rows, where a product with one-hot rows took 8 to 800.
    """
    return table_VD.at[tokens_x].get(mode="clip")


def rotary_tables(
    positions_xT: jax.Array, head_dim: int, theta: float
) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines of rotary embedding (Su et al. 2021, 2104.09864), float32 [..., T, R].

    Args:
      positions_xT: int32 positions, [T] or [B, T].
      head_dim: even width of a head.
      theta: base of the wavelengths, which run from 2 pi to 2 pi theta.
    """
    if head_dim % 2:
        raise ValueError(f"rotary positions rotate pairs: the head width {head_dim} must be even")
    powers_R = jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim
    angles_xTR = (
        positions_xT.astype(jnp.float32)[..., None]
        * (theta**-powers_R)[(None,) * positions_xT.ndim]
    )
    return jnp.cos(angles_xTR), jnp.sin(angles_xTR)


def rotate(x_BTHK: jax.Array, tables: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotates queries or keys by their positions; pairs are (i, i + K/2), as in GPT-NeoX."""
    cos_xTR, sin_xTR = tables
    if cos_xTR.ndim == 2:
        cos_xTR, sin_xTR = cos_xTR[None], sin_xTR[None]
    # One product with each table of full width: concatenating small tables and swapping halves of x
    # vectorises on CPU, where concatenating rotated halves does not.
    cos_BT1K = jnp.concatenate([cos_xTR, cos_xTR], axis=-1)[:, :, None]
    sin_BT1K = jnp.concatenate([-sin_xTR, sin_xTR], axis=-1)[:, :, None]
    wide_BTHK = x_BTHK.astype(jnp.float32)
    half = wide_BTHK.shape[-1] // 2
    swapped_BTHK = jnp.concatenate([wide_BTHK[..., half:], wide_BTHK[..., :half]], axis=-1)
    return (wide_BTHK * cos_BT1K + swapped_BTHK * sin_BT1K).astype(x_BTHK.dtype)
