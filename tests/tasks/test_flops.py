"""Counts by hand, against the real parameter trees, published sizes, and XLA's own count."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from helpers import ROOT, TEXT_INFO, tiny_language_model

from scaling.configs import ConfigError, build, load_resolved
from scaling.models import MODELS
from scaling.models.cnn import CNN
from scaling.models.cost import Cost
from scaling.models.mlp import MLP
from scaling.models.transformer import Transformer
from scaling.tasks.base import build_task
from scaling.tasks.flops import flops, params, products

# Width 8, 2 layers, 2 heads of 4, vocabulary 10: small enough to count on paper.
TINY = {"vocab_size": 10, "num_layers": 2, "model_dim": 8, "num_heads": 2, "max_len": 16}


def cost(name="transformer", seq_len=1, image_shape=None, **fields):
    """What a model of these fields says it costs."""
    model = {"transformer": Transformer, "mlp": MLP, "cnn": CNN}[name](**fields)
    return model.cost(seq_len if image_shape is None else image_shape)


def tree_size(model, *inputs):
    shapes = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), *inputs)
    return sum(x.size for x in jax.tree.leaves(nn.unbox(shapes)["params"]))


# Fields -> parameters of one layer, of everything outside layers and tables, of tables and head.
BY_HAND = {
    "swiglu": (
        {},
        # query, key, value, out: 4 * 8 * 8; up, gate, down: 3 * 8 * 64; two norms of 8
        4 * 64 + 3 * 8 * 64 + 2 * 8,
        8,
        {"embedding": 80, "head": 80},
    ),
    "gelu": ({"mlp": "gelu"}, 4 * 64 + 2 * 8 * 32 + 2 * 8, 8, {"embedding": 80, "head": 80}),
    "given mlp_dim": (
        {"mlp": "relu2", "mlp_dim": 5},
        4 * 64 + 2 * 8 * 5 + 2 * 8,
        8,
        {"embedding": 80, "head": 80},
    ),
    "grouped heads": (
        {"num_kv_heads": 1},  # key and value are 8 x 4
        2 * 64 + 2 * 32 + 3 * 8 * 64 + 2 * 8,
        8,
        {"embedding": 80, "head": 80},
    ),
    "wide heads": (
        {"head_dim": 6},  # four matrices of 8 x 12
        4 * 96 + 3 * 8 * 64 + 2 * 8,
        8,
        {"embedding": 80, "head": 80},
    ),
    "qk_norm": (
        {"qk_norm": True},
        4 * 64 + 3 * 8 * 64 + 2 * 8 + 2 * 4,
        8,
        {"embedding": 80, "head": 80},
    ),
    "tied": ({"tie_embeddings": True}, 4 * 64 + 3 * 8 * 64 + 16, 8, {"embedding": 80, "head": 0}),
    "layernorm": ({"norm": "layernorm"}, 4 * 64 + 3 * 512 + 16, 8, {"embedding": 80, "head": 80}),
    "biases": (
        {"bias": True, "norm": "layernorm", "mlp": "gelu"},
        # biases: query, key, value, out 8 each, up 32, down 8; norms have scale and shift
        4 * 64 + 2 * 8 * 32 + (4 * 8 + 32 + 8) + 2 * 16,
        16,
        {"embedding": 80, "head": 80},
    ),
    "gated biases": (
        {"bias": True, "num_kv_heads": 1},
        2 * 64 + 2 * 32 + 3 * 512 + (8 + 4 + 4 + 8) + (64 + 64 + 8) + 16,
        8,
        {"embedding": 80, "head": 80},
    ),
    "learned positions": (
        {"position": "learned"},
        4 * 64 + 3 * 512 + 16,
        8,
        {"embedding": 80 + 16 * 8, "head": 80},
    ),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_parameters_by_hand_and_in_the_tree(case):
    fields, layer, rest, tables = BY_HAND[case]
    counts = params(cost(**TINY | fields))
    body = 2 * layer + rest
    assert counts.non_embedding == body
    assert counts.embedding == tables["embedding"]
    assert counts.total == counts.active == body + tables["embedding"] + tables["head"]
    assert counts.with_head == body + 80
    tokens = jnp.zeros((1, 4), jnp.int32)
    assert counts.total == tree_size(Transformer(**TINY | fields), tokens)


# Fields -> multiply-adds with weights in one layer, and width of all query heads.
PRODUCTS = {
    "swiglu": ({}, 4 * 64 + 3 * 512, 8),
    "gelu": ({"mlp": "gelu", "bias": True, "norm": "layernorm"}, 4 * 64 + 2 * 256, 8),
    "grouped heads": ({"num_kv_heads": 1}, 2 * 64 + 2 * 32 + 3 * 512, 8),
    "wide heads": ({"head_dim": 6, "qk_norm": True}, 4 * 96 + 3 * 512, 12),
    "tied": ({"tie_embeddings": True, "position": "learned"}, 4 * 64 + 3 * 512, 8),
}


@pytest.mark.parametrize("case", PRODUCTS)
def test_flops_by_hand(case):
    fields, layer, heads = PRODUCTS[case]
    counts, n = flops(cost(seq_len=12, **TINY | fields)), params(cost(**TINY | fields))
    head = 8 * 10
    whole, masked = 2 * 2 * heads * 12, 2 * 2 * heads * 6.5  # mean of 1..12 keys is 6.5
    assert counts.forward == 2 * (2 * layer + head + whole)
    assert counts.exact == 3 * counts.forward
    assert counts.forward_causal == 2 * (2 * layer + head + masked)
    assert counts.exact_causal == 3 * counts.forward_causal
    assert counts.six_nd == 6 * n.total
    assert counts.six_nd_non_embedding == 6 * n.non_embedding
    assert counts.kaplan == 6 * n.non_embedding + 6 * 2 * 12 * heads  # 6 N + 6 L T d_attn
    assert counts.deepseek == 6 * 2 * layer + 12 * 2 * 12 * heads  # 72 L d^2 + 12 L T d, generally


def test_deepseek_formula_on_its_own_architecture():
    """2401.02954, eq. 2: M = 72 L d^2 + 12 L d T, for four square matrices and an MLP of 8 d^2."""
    width, length = 96, 50
    counts = flops(
        cost(seq_len=length, **TINY | {"model_dim": width, "num_heads": 4, "mlp": "gelu"})
    )
    assert counts.deepseek == 72 * 2 * width**2 + 12 * 2 * width * length


def test_mlp_by_hand():
    s = cost("mlp", image_shape=(2, 3, 2), num_classes=10, hidden_dims=(7, 5))
    weights = 12 * 7 + 7 * 5 + 5 * 10
    counts = params(s)
    assert counts.total == counts.non_embedding == counts.with_head == weights + 7 + 5 + 10
    work = flops(s)
    assert work.forward == 2 * weights
    assert work.exact == 6 * weights - 2 * 12 * 7  # nothing differentiates the pixels
    assert work.six_nd == 6 * counts.total
    assert counts.total == tree_size(
        MLP(num_classes=10, hidden_dims=(7, 5)), jnp.zeros((1, 2, 3, 2))
    )


def test_cnn_by_hand():
    s = cost("cnn", image_shape=(7, 5, 2), num_classes=10, channels=(4, 6), kernel_size=3)
    counts = params(s)
    kernels = [9 * 2 * 4, 9 * 4 * 6]
    head = 2 * 2 * 6 * 10  # 7 x 5 halves to 4 x 3, then to 2 x 2
    assert counts.total == sum(kernels) + 2 * (4 + 6) + head + 10
    work = flops(s)
    products = [kernels[0] * 7 * 5, kernels[1] * 4 * 3]
    assert work.forward == 2 * (sum(products) + head)
    assert work.exact == 3 * work.forward - 2 * products[0]
    model = CNN(num_classes=10, channels=(4, 6))
    assert counts.total == tree_size(model, jnp.zeros((1, 7, 5, 2)))


def xla_flops(function, *arguments):
    analysis = jax.jit(function).lower(*arguments).compile().cost_analysis()
    return (analysis[0] if isinstance(analysis, list) else analysis)["flops"]


@pytest.mark.parametrize(
    "fields",
    [{}, {"mlp": "gelu", "norm": "layernorm", "bias": True, "num_kv_heads": 2}],
    ids=["swiglu", "gelu grouped"],
)
def test_transformer_against_xla(fields):
    """XLA counts elementwise work too (norms, softmax, activations, the mask), so it is above ours,
    by a share that falls as one over the width: 8 % allowed at width 128."""
    shape = {"vocab_size": 64, "num_layers": 2, "model_dim": 128, "num_heads": 4} | fields
    model = Transformer(**shape, attention="xla")
    tokens = jax.ShapeDtypeStruct((2, 32), jnp.int32)
    variables = jax.eval_shape(
        functools.partial(model.init, train=False), jax.random.key(0), tokens
    )
    forward = xla_flops(functools.partial(model.apply, train=False), nn.unbox(variables), tokens)
    ours = 64 * flops(cost(seq_len=32, **shape)).forward
    assert 1.0 <= forward / ours < 1.08


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_images_against_xla(name):
    """The forward count; XLA leaves out the products of a convolution with its zero padding and adds
    pooling and norms: within 12 %."""
    model = {
        "mlp": MLP(num_classes=10),
        "cnn": CNN(num_classes=10, channels=(16, 32)),
    }[name]
    x = jax.ShapeDtypeStruct((4, 28, 28, 1), jnp.float32)
    variables = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), x)
    forward = xla_flops(functools.partial(model.apply, train=False), nn.unbox(variables), x)
    ours = 4 * flops(model.cost((28, 28, 1))).forward
    assert forward / ours == pytest.approx(1.0, abs=0.12)


def test_idle_experts_count_in_total_but_not_in_active():
    experts = Cost(body=100, matmul=20, embedding=8, head=8, head_matmul=8, idle=60)
    assert (params(experts).total, params(experts).active) == (116, 56)
    assert flops(experts).six_nd == 6 * 56


def traced(function, *shapes):
    return products(jax.make_jaxpr(function)(*(jnp.zeros(shape) for shape in shapes)).jaxpr)


def test_products_are_counted_in_loops_branches_and_convolutions():
    assert traced(lambda a, b: a @ b, (3, 4), (4, 5)) == 2 * 3 * 4 * 5

    def repeated(a, b):
        return jax.lax.scan(lambda c, _: (jnp.tanh(c @ b), None), a, length=7)[0]

    assert traced(repeated, (3, 4), (4, 4)) == 7 * 2 * 3 * 4 * 4
    assert traced(jax.jit(jax.checkpoint(repeated)), (3, 4), (4, 4)) == 7 * 2 * 3 * 4 * 4

    def either(a, b):
        return jax.lax.cond(a[0, 0] > 0, lambda: a @ b, lambda: a)

    assert traced(either, (3, 4), (4, 4)) == 2 * 3 * 4 * 4
    conv = functools.partial(
        jax.lax.conv_general_dilated, window_strides=(1, 1), padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip
    assert traced(conv, (2, 6, 6, 3), (3, 3, 3, 5)) == 2 * (2 * 6 * 6) * 5 * (3 * 3 * 3)
    # With a stride, both gradients cost what the product did: zeros put between rows are not work.
    strided = functools.partial(
        jax.lax.conv_general_dilated, window_strides=(2, 2), padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip
    forward = 2 * (2 * 3 * 3) * 5 * (4 * 4 * 3)
    assert traced(strided, (2, 6, 6, 3), (4, 4, 3, 5)) == forward
    both = jax.grad(lambda x, k: jnp.sum(strided(x, k) ** 2), argnums=(0, 1))
    assert traced(both, (2, 6, 6, 3), (4, 4, 3, 5)) == 3 * forward


@pytest.mark.parametrize(("tied", "norm"), [(True, "rmsnorm"), (False, "layernorm")])
def test_a_model_without_a_cost_is_counted_as_one_that_states_it(monkeypatch, tied, norm):
    """The closed form against the traced loss and its gradient, of a language model."""
    config = tiny_language_model(**{"model.tie_embeddings": tied, "model.norm": norm})
    stated = build_task(config, TEXT_INFO, "cpu")
    monkeypatch.setattr(Transformer, "cost", lambda *_: None)
    counted = build_task(config, TEXT_INFO, "cpu")
    assert counted.params.total == stated.params.total
    assert counted.flops.forward == stated.flops.forward
    assert counted.flops.exact == stated.flops.exact
    if not tied:
        assert counted.params == stated.params


def test_a_wrong_cost_is_refused(monkeypatch):
    monkeypatch.setattr(Transformer, "cost", lambda *_: Cost(body=7, matmul=7))
    with pytest.raises(ConfigError, match="states 7 parameters, and init makes"):
        build_task(tiny_language_model(), TEXT_INFO, "cpu")


# Published sizes; 16b is no published model, its size is counted by hand:
# 40 (6144 (2 * 6144 + 2 * 1024) + 3 * 6144 * 16384 + 2 * 6144) + 6144 + 2 * 32000 * 6144.
SHIPPED = {
    "gpt2.py:124m": 124_439_808,
    "gpt2.py:350m": 354_823_168,
    "gpt2.py:774m": 774_030_080,
    "gpt2.py:1.5b": 1_557_611_200,
    "llama.py:1b": 1_100_048_384,
    "llama.py:7b": 6_738_415_616,
    "llama.py:16b": 15_996_524_544,
    "llama.py:70b": 68_976_648_192,
}


@pytest.mark.parametrize("spec", SHIPPED)
def test_shipped_sizes(spec):
    config = load_resolved(f"{ROOT}/experiments/{spec}", [])
    model = build(config.model, MODELS, platform="tpu")
    assert params(model.cost(1)).total == SHIPPED[spec]
    assert tree_size(model, jnp.zeros((1, 128), jnp.int32)) == SHIPPED[spec]
