"""Matrix products whose backward pass communicates in a fixed order, and rows of tables.

Legend: N flattened leading dimensions, D features in, F features out, V rows of a table.
"""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from scaling.parallel import logical

Operands = tuple[jax.Array, jax.Array]


def matmul(
    x_ND: jax.Array,
    kernel_DF: jax.Array,
    axes: tuple[str | None, ...],
    dtype: DTypeLike | None = None,
) -> jax.Array:
    """x @ kernel, whose gradients come in a fixed order, in the type of the operands.

    Where a mesh splits the kernel, the backward pass computes the kernel's gradient first, sums it
    over devices and cuts it to this device's part, and only then reads the kernel for the gradient
    of x. Left to itself the compiler keeps the summed gradients of several products, whole, until
    the end of a layer, and gathers some kernels twice: for the 16B model of
    `scripts/bench/plan_table.py` a peak of 8.67 instead of 8.42 GiB, and 71 instead of 63 GB gathered.

    Args:
      x_ND: of the compute type.
      kernel_DF: of the compute type; what is kept for the backward pass is this device's part.
      axes: logical names of (D, F).
      dtype: of the result. Gradients that arrive in it are first cast to the operands' type, or the
        backward products would take several passes of the matrix unit and their sum over devices
        twice the bytes.
    """
    if dtype is None and not logical.is_split(kernel_DF.shape, axes):
        return x_ND @ kernel_DF
    return _matmul(x_ND, kernel_DF, axes, dtype)


def _plain_matmul(
    x_ND: jax.Array, kernel_DF: jax.Array, axes: tuple[str | None, ...], dtype: DTypeLike | None
) -> jax.Array:
    return jnp.dot(x_ND, logical.gathered(kernel_DF, axes), preferred_element_type=dtype)


def _matmul_forward(
    x_ND: jax.Array, kernel_DF: jax.Array, axes: tuple[str | None, ...], dtype: DTypeLike | None
) -> tuple[jax.Array, Operands]:
    # Plain operations here and in every backward rule: jvp(grad(f)), a Hessian's product with a
    # vector, differentiates the rules forwards, and a rule within a rule would refuse that.
    return _plain_matmul(x_ND, kernel_DF, axes, dtype), (x_ND, kernel_DF)


def _matmul_backward(
    axes: tuple[str | None, ...], dtype: DTypeLike | None, kept: Operands, grad_NF: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x_ND, kernel_DF = kept
    grad_NF = grad_NF.astype(x_ND.dtype)
    grad_DF = x_ND.T @ grad_NF
    if logical.is_split(kernel_DF.shape, axes):
        kernel_DF, grad_DF = after_reduce_scatter(logical.gathered(kernel_DF, axes), grad_DF, axes)
    return grad_NF @ kernel_DF.T, grad_DF


_matmul = jax.custom_vjp(_plain_matmul, nondiff_argnums=(2, 3))
_matmul.defvjp(_matmul_forward, _matmul_backward)


def after_reduce_scatter(
    later: jax.Array, grad_DF: jax.Array, axes: tuple[str | None, ...]
) -> tuple[jax.Array, jax.Array]:
    """Returns both arrays unchanged, with a barrier between them.

    Any use of `later` waits for the reduce-scatter of the gradient.
    """
    grad_DF = logical.constrain(grad_DF, axes)
    return jax.lax.optimization_barrier((later, grad_DF))


def lookup(table_VD: jax.Array, tokens_x: jax.Array) -> jax.Array:
    """Rows of a table, [..., D]; tokens out of range clamp.

    A gather, whose gradient is a scatter-add: at 4,096 tokens on CPU that took 0.2 to 1.5 CPU-ms for
    256 to 16,384 rows, where a product with one-hot rows took 8 to 800.
    """
    return table_VD.at[tokens_x].get(mode="clip")
