"""Which parameters are matrices: which get weight decay, which get Muon.

Decided by logical axis names, and by the number of dimensions where there are none. Dimensions
that only stack separate parameters (layers of a scan, experts) do not count, so that a scanned and
an unrolled model are treated alike.
"""

import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers

from scaling.parallel.sharding import PyTree

AxisNames = tuple[str | None, ...] | None
DecayMask = Literal["matrices", "all", "none"]

STACKED = ("layers", "experts", "stage")
# Axes of embeddings and heads: their rows are looked up or scored one by one.
TABLES = ("vocab", "classes", "positions")


def own_dims(x: jax.Array, names: AxisNames) -> tuple[int, ...]:
    """Dimensions of the parameter itself, without those that stack."""
    return tuple(i for i in range(x.ndim) if names is None or names[i] not in STACKED)


def muon_dims(x: jax.Array, names: AxisNames) -> MuonDimensionNumbers | None:
    """How Muon sees a parameter as a (stack of) matrix (inputs, outputs); None if it does not.

    The last dimension is the output, all others (of a convolution: the window and its channels)
    are the input. Embeddings, heads, norms and biases give None.
    """
    dims = own_dims(x, names)
    if len(dims) < 2 or any(name in TABLES for name in names or ()):
        return None
    return MuonDimensionNumbers(reduction_axis=dims[:-1], output_axis=dims[-1:])


def decay_weights(
    weight_decay: jax.Array | float, mask: DecayMask, names: PyTree
) -> optax.GradientTransformation:
    """Adds `weight_decay * parameter` to the update of parameters that the mask selects.

    Matrices have at least two dimensions of their own, embeddings included.
    """

    def decayed(p: jax.Array, n: AxisNames) -> bool:
        return mask == "all" or (mask == "matrices" and len(own_dims(p, n)) >= 2)

    return optax.add_decayed_weights(weight_decay, lambda p: map_arrays(decayed, p, names))


def scale_by_shape(mode: Literal["width", "rms"], names: PyTree) -> optax.GradientTransformation:
    """Makes the size of orthogonal updates right for the matrix's shape (inputs, outputs).

    `width`: sqrt(max(1, outputs / inputs)) (Jordan et al. 2024); `rms`: 0.2 * sqrt(max(inputs,
    outputs)), the root mean square of a usual AdamW update (Liu et al. 2025, arXiv:2502.16982,
    eq. 4), so that AdamW's learning rate fits.
    """

    def scaled(u: jax.Array, n: AxisNames) -> jax.Array:
        dims = muon_dims(u, n)
        if dims is None:
            return u
        inputs = math.prod(u.shape[i] for i in dims.reduction_axis)
        outputs = math.prod(u.shape[i] for i in dims.output_axis)
        if mode == "rms":
            return u * (0.2 * math.sqrt(max(inputs, outputs)))
        return u * math.sqrt(max(1.0, outputs / inputs))

    return optax.stateless(lambda updates, _: map_arrays(scaled, updates, names))


def root_mean_square(x: jax.Array, names: AxisNames) -> jax.Array:
    """Root mean square of each stacked parameter, with its dimensions kept as 1."""
    return jnp.sqrt(jnp.mean(jnp.square(x), axis=own_dims(x, names), keepdims=True))


def map_arrays(f: Callable[[jax.Array, AxisNames], object], tree: PyTree, names: PyTree) -> PyTree:
    """f(array, its axis names) in a tree whose other places are masked, and stay so."""

    def masked(x: object) -> bool:
        return isinstance(x, optax.MaskedNode)

    return jax.tree.map(lambda x, n: x if masked(x) else f(x, n), tree, names, is_leaf=masked)
