"""Parameters and FLOPs of a model under the conventions in use, from its config alone.

Scaling laws fitted under different conventions disagree by more than their error bars (counting the
head or not moved one published exponent from 0.84 to 0.71), so every count here has a name.

A multiply-add is two FLOPs. Only products of matrices are counted (dense layers, convolutions,
attention): norms, activations, softmax, rotations and the embedding lookup are not, as in all
published counts. The backward pass costs twice the forward pass, except that the first layer on
raw pixels has no input to differentiate. Recomputation (remat) is not model work and never counted.

`params(section, ...)` and `flops(section, ...)` take the resolved `model` section. A model of your
own (`name="package.module:Class"`) defines `cost(section, *, seq_len, image_shape) -> Cost` as a
static method.
"""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

from scaling.models import dims


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one unit (a token, an image) passes through; multiply-adds in the forward pass.

    Attributes:
      body: parameters that are neither embedding tables nor the output matrix.
      embedding: parameters of token and position tables.
      head: parameters of an output matrix of its own; 0 where it is the embedding table.
      matmul: multiply-adds with weights, the head's left out.
      head_matmul: multiply-adds of the head over a vocabulary; 0 where it belongs to the body.
      attention: multiply-adds of scores and of weighted values, over all pairs.
      attention_causal: the same, only over the pairs that a causal mask leaves.
      first: the part of `matmul` whose input needs no gradient.
      idle: parameters of the body that a unit does not pass through (experts not chosen).
    """

    body: int
    matmul: int
    embedding: int = 0
    head: int = 0
    head_matmul: int = 0
    attention: float = 0
    attention_causal: float = 0
    first: int = 0
    idle: int = 0


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

    total: int
    non_embedding: int
    with_head: int
    active: int
    embedding: int


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

    six_nd: float
    six_nd_non_embedding: float
    kaplan: float
    deepseek: float
    exact: float
    exact_causal: float
    forward: float
    forward_causal: float


def params(section: Any, *, image_shape: tuple[int, ...] | None = None) -> ParamCounts:
    """Parameter counts of a resolved `model` section; images need (H, W, C)."""
    c = cost(section, seq_len=1, image_shape=image_shape)
    total = c.body + c.embedding + c.head
    return ParamCounts(
        total=total,
        non_embedding=c.body,
        with_head=c.body + c.head_matmul,
        active=total - c.idle,
        embedding=c.embedding,
    )


def flops(
    section: Any, *, seq_len: int = 1, image_shape: tuple[int, ...] | None = None
) -> FlopCounts:
    """FLOPs of one token (at sequence length `seq_len`) or of one image (H, W, C)."""
    c = cost(section, seq_len=seq_len, image_shape=image_shape)
    n = params(section, image_shape=image_shape)
    weights = c.matmul + c.head_matmul
    return FlopCounts(
        six_nd=6.0 * n.active,
        six_nd_non_embedding=6.0 * (n.non_embedding - c.idle),
        kaplan=6.0 * (n.non_embedding - c.idle) + 3.0 * c.attention,
        deepseek=6.0 * (c.matmul + c.attention),
        exact=6.0 * (weights + c.attention) - 2.0 * c.first,
        exact_causal=6.0 * (weights + c.attention_causal) - 2.0 * c.first,
        forward=2.0 * (weights + c.attention),
        forward_causal=2.0 * (weights + c.attention_causal),
    )


def cost(section: Any, *, seq_len: int, image_shape: tuple[int, ...] | None) -> Cost:
    """The cost of a resolved `model` section.

    Raises:
      ValueError: a model from outside this package that has no `cost`.
    """
    if section.name in COSTS:
        return COSTS[section.name](section, seq_len=seq_len, image_shape=image_shape)
    from scaling.configs import component
    from scaling.models import MODELS

    own = getattr(component(section, MODELS), "cost", None)
    if own is None:
        raise ValueError(
            f"model.name={section.name!r} does not say what it costs: define a static method "
            "cost(section, *, seq_len, image_shape) -> scaling.tasks.flops.Cost on it"
        )
    return own(section, seq_len=seq_len, image_shape=image_shape)


def transformer_cost(
    section: Any, *, seq_len: int, image_shape: tuple[int, ...] | None = None
) -> Cost:
    """The decoder of `scaling.models.transformer`."""
    del image_shape
    width, layers = section.model_dim, section.num_layers
    head_dim = dims.head_dim(width, section.num_heads, section.head_dim)
    q_width = section.num_heads * head_dim
    kv_width = dims.num_kv_heads(section.num_heads, section.num_kv_heads) * head_dim
    hidden = dims.mlp_dim(width, section.mlp, section.mlp_dim)
    ups = 2 if section.mlp in dims.GATED else 1

    matmul = width * (q_width + 2 * kv_width) + q_width * width  # query, key, value; out
    matmul += (ups + 1) * width * hidden  # up (and gate); down
    bias = (q_width + 2 * kv_width + width) + (ups * hidden + width) if section.bias else 0
    norm = 2 * width if section.norm == "layernorm" and section.bias else width
    qk_norm = 2 * head_dim if section.qk_norm else 0
    positions = section.max_len * width if section.position == "learned" else 0
    pairs = 2 * layers * q_width  # a score and a weighted value for each pair, head and layer
    return Cost(
        body=layers * (matmul + bias + 2 * norm + qk_norm) + norm,
        matmul=layers * matmul,
        embedding=section.vocab_size * width + positions,
        head=0 if section.tie_embeddings else section.vocab_size * width,
        head_matmul=section.vocab_size * width,
        attention=pairs * seq_len,
        attention_causal=pairs * (seq_len + 1) / 2,
    )


def mlp_cost(section: Any, *, seq_len: int = 1, image_shape: tuple[int, ...] | None) -> Cost:
    """The perceptron of `scaling.models.mlp`."""
    del seq_len
    height, width, channels = _image(section, image_shape)
    widths = (height * width * channels, *section.hidden_dims, section.num_classes)
    products = [a * b for a, b in itertools.pairwise(widths)]
    return Cost(body=sum(products) + sum(widths[1:]), matmul=sum(products), first=products[0])


def cnn_cost(section: Any, *, seq_len: int = 1, image_shape: tuple[int, ...] | None) -> Cost:
    """The convolutional network of `scaling.models.cnn`; padding counts as work."""
    del seq_len
    height, width, channels = _image(section, image_shape)
    body, products = 0, []
    for features in section.channels:
        kernel = section.kernel_size**2 * channels * features
        body += kernel + 2 * features  # batch norm: scale and shift
        products.append(kernel * height * width)
        height, width, channels = -(-height // 2), -(-width // 2), features
    head = height * width * channels * section.num_classes
    return Cost(
        body=body + head + section.num_classes,
        matmul=sum(products) + head,
        first=products[0] if products else head,
    )


COSTS: dict[str, Callable[..., Cost]] = {
    "transformer": transformer_cost,
    "mlp": mlp_cost,
    "cnn": cnn_cost,
}


def _image(section: Any, image_shape: tuple[int, ...] | None) -> tuple[int, int, int]:
    if image_shape is None or len(image_shape) != 3:
        raise ValueError(
            f"counting model.name={section.name!r} needs image_shape=(height, width, channels), "
            f"got {image_shape}"
        )
    height, width, channels = image_shape
    return height, width, channels
