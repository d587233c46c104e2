"""Parameters and FLOPs of a model under the conventions in use, from its config alone.

Scaling laws fitted under different conventions disagree by more than their error bars (counting the
head or not moved one published exponent from 0.84 to 0.71), so every count here has a name.

A multiply-add is two FLOPs. Only products of matrices are counted (dense layers, convolutions,
attention): norms, activations, softmax, rotations and the embedding lookup are not, as in all
published counts. The backward pass costs twice the forward pass, except that the first layer on
raw pixels has no input to differentiate. Recomputation (remat) is not model work and never counted.

A model may state its cost (`scaling.models.cost.Cost`), which separates attention from the rest and
is checked against its parameters. Of one that does not, the products in the traced loss and in its
gradient are counted.
"""

import dataclasses
import math
from typing import cast

import jax
import jax.extend

from scaling.models.cost import Cost
from scaling.parallel.sharding import PyTree, unbox


@dataclasses.dataclass(frozen=True)
class ParamCounts:
    """Parameters under several conventions.

    Attributes:
      total: every trained number (Hoffmann et al. 2022, 2203.15556).
      non_embedding: without token and position tables and without the output matrix (Kaplan et al.
        2020, 2001.08361).
      with_head: non_embedding plus one output matrix, tied or not: what does work on each token.
      active: total less the experts that a token does not pass through.
      embedding: token and position tables.
    """

    total: int = 0
    non_embedding: int = 0
    with_head: int = 0
    active: int = 0
    embedding: int = 0


@dataclasses.dataclass(frozen=True)
class FlopCounts:
    """FLOPs of one unit (token or image), forward and backward unless the name says otherwise.

    Attributes:
      six_nd: 6 N, N = total parameters (times D tokens it is Chinchilla's rule of thumb).
      six_nd_non_embedding: 6 N, N = non-embedding parameters.
      kaplan: six_nd_non_embedding plus causal attention, 6 L T H K (2001.08361, table 1).
      deepseek: products of the body plus whole attention, no head (2401.02954, eq. 2, M).
      exact: all products: body, head, and attention over all T^2 pairs.
      exact_causal: the same with attention over the T (T + 1) / 2 pairs that the mask leaves.
      forward: the forward part of `exact`.
      forward_causal: the forward part of `exact_causal`.
    """

    six_nd: float = 0.0
    six_nd_non_embedding: float = 0.0
    kaplan: float = 0.0
    deepseek: float = 0.0
    exact: float = 0.0
    exact_causal: float = 0.0
    forward: float = 0.0
    forward_causal: float = 0.0


def params(cost: Cost) -> ParamCounts:
    """Parameter counts of a model of this cost."""
    total = cost.body + cost.embedding + cost.head
    return ParamCounts(
        total=total,
        non_embedding=cost.body,
        with_head=cost.body + cost.head_matmul,
        active=total - cost.idle,
        embedding=cost.embedding,
    )


def flops(cost: Cost) -> FlopCounts:
    """FLOPs of one unit (a token, an image) of a model of this cost."""
    n = params(cost)
    weights = cost.matmul + cost.head_matmul
    return FlopCounts(
        six_nd=6.0 * n.active,
        six_nd_non_embedding=6.0 * (n.non_embedding - cost.idle),
        kaplan=6.0 * (n.non_embedding - cost.idle) + 3.0 * cost.attention,
        deepseek=6.0 * (cost.matmul + cost.attention),
        exact=6.0 * (weights + cost.attention) - 2.0 * cost.first,
        exact_causal=6.0 * (weights + cost.attention_causal) - 2.0 * cost.first,
        forward=2.0 * (weights + cost.attention),
        forward_causal=2.0 * (weights + cost.attention_causal),
    )


def counted_params(boxed: PyTree) -> ParamCounts:
    """Parameter counts of a model that states no cost, from its parameters with their axis names.

    A parameter whose first axis is `vocab` or `positions` is a table, one whose last axis is
    `vocab` an output matrix; all else is the body.
    """
    total = tables = heads = 0
    for leaf in jax.tree.leaves(boxed, is_leaf=lambda x: hasattr(x, "names")):
        names: tuple[str | None, ...] = getattr(leaf, "names", ())
        size = unbox(leaf).size
        total += size
        tables += size if names and names[0] in ("vocab", "positions") else 0
        heads += size if len(names) > 1 and names[-1] == "vocab" else 0
    body = total - tables - heads
    return ParamCounts(total, body, body + heads, total, tables)


def counted_flops(n: ParamCounts, forward: float, forward_and_backward: float) -> FlopCounts:
    """FLOPs of one unit by the products in the traced loss and its gradient.

    Conventions that count attention apart equal `exact` here: nothing says which products are
    attention's.
    """
    both = forward_and_backward
    return FlopCounts(
        six_nd=6.0 * n.active,
        six_nd_non_embedding=6.0 * n.non_embedding,
        kaplan=both,
        deepseek=both,
        exact=both,
        exact_causal=both,
        forward=forward,
        forward_causal=forward,
    )


def products(jaxpr: jax.extend.core.Jaxpr) -> float:
    """FLOPs of all matrix products and convolutions of a traced program.

    Loops of known length count as often as they run, `while` loops once, and of a condition the
    dearest branch. Recomputation that the trace holds (remat) is counted.
    """
    total = 0.0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = _shape(equation.invars[0])
            work = math.prod(_shape(equation.outvars[0]))
            total += 2.0 * work * math.prod(shape[d] for d in contracted)
        elif name == "conv_general_dilated":
            kernel = _shape(equation.invars[1])
            features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
            work = math.prod(_shape(equation.outvars[0])) * math.prod(kernel) / features
            # The zeros between the inputs of a transposed convolution are not work.
            total += 2.0 * work / math.prod(equation.params["lhs_dilation"])
        elif name.startswith("ragged_dot"):
            rows, kernel = _shape(equation.invars[0]), _shape(equation.invars[1])
            total += 2.0 * math.prod(rows) * kernel[-1]
        else:
            leaves = jax.tree.leaves(equation.params)
            inner = [
                products(x.jaxpr) for x in leaves if isinstance(x, jax.extend.core.ClosedJaxpr)
            ]
            inner += [products(x) for x in leaves if isinstance(x, jax.extend.core.Jaxpr)]
            if name == "cond":
                total += max(inner, default=0.0)
            else:
                total += sum(inner) * equation.params.get("length", 1)
    return total


def _shape(variable: jax.extend.core.Var | jax.extend.core.Literal) -> tuple[int, ...]:
    return tuple(cast(jax.core.ShapedArray, variable.aval).shape)
