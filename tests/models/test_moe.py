"""A mixture of experts against a dense loop over experts in float64, its losses and its counts."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.configs import ConfigError
from scaling.models.moe import MoE
from scaling.models.transformer import Transformer
from scaling.tasks.flops import flops, params, products

FIELDS = {"vocab_size": 11, "num_layers": 2, "model_dim": 16, "num_heads": 2, "mlp_dim": 12}


def transformer(fields=(), **options):
    given = {**FIELDS, **dict(fields), "feed_forward": "moe", "feed_forward_options": options}
    return Transformer(**given)


def layer(fields=(), **options):
    return MoE(transformer(fields).block_config(), **options)


def x_BTD():
    return jax.random.normal(jax.random.key(2), (4, 6, 16))


def tokens():
    return jax.random.randint(jax.random.key(5), (4, 6), 0, 11)


def initial(module, inputs, **more):
    made = jax.jit(functools.partial(module.init, **more))(jax.random.key(0), inputs)
    return {k: v for k, v in nn.unbox(made).items() if k in ("params", "router")}


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def dense(variables, options, x):
    """Every expert for every token in float64, then the sum over the chosen: (y, loss terms)."""
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), variables["params"])
    x = np.asarray(x, np.float64).reshape(-1, 16)
    logits = x @ p["router"]["kernel"]
    scores = softmax(logits) if options.get("scores") != "sigmoid" else 1 / (1 + np.exp(-logits))
    ranked = scores + np.asarray(variables.get("router", {}).get("bias", 0.0))
    chosen = np.argsort(-ranked, axis=-1)[:, : options.get("top_k", 2)]
    weights = np.take_along_axis(scores, chosen, -1)
    if chosen.shape[1] > 1:
        weights /= weights.sum(-1, keepdims=True)

    def feed(gate, up, down):
        g = x @ gate
        return (g / (1 + np.exp(-g)) * (x @ up)) @ down

    outputs = np.stack([feed(*e) for e in zip(p["gate"], p["up"], p["down"], strict=True)], 1)
    y = (np.take_along_axis(outputs, chosen[..., None], 1) * weights[..., None]).sum(1)
    if "shared" in p:
        y += feed(*(p["shared"][name]["kernel"] for name in ("gate", "up", "down")))
    count = scores.shape[-1]
    load = np.bincount(chosen.ravel(), minlength=count) / chosen.size
    importance = (scores / scores.sum(-1, keepdims=True)).mean(0)
    z = np.log(np.exp(logits).sum(-1))
    return y, load, count * (load * importance).sum(), (z**2).mean()


OPTIONS = {
    "two of eight": {},
    "one": {"top_k": 1, "experts": 4},
    "fine-grained, shared": {"experts": 16, "top_k": 3, "shared": 1},
    "sigmoid and bias": {"scores": "sigmoid", "bias_rate": 0.1, "balance": 0.0},
    "wide, all chosen": {"experts": 3, "top_k": 3, "expert_dim": 20, "router_z_loss": 0.1},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_dense_loop_over_experts_gives_the_same(options):
    module = layer(**options)
    variables = initial(module, x_BTD())
    if "bias_rate" in options:
        assert not np.any(variables["router"]["bias"])
        variables["router"]["bias"] = jnp.linspace(0.2, -0.2, 8)
    run = jax.jit(functools.partial(module.apply, mutable=["losses", "metrics", "router"]))
    y, state = run(variables, x_BTD())
    wanted, load, balance, z = dense(variables, options, x_BTD())
    np.testing.assert_allclose(y.reshape(-1, 16), wanted, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(state["metrics"]["load"][0], load, atol=1e-6)
    losses = {k: v[0] for k, v in state.get("losses", {}).items()}
    expected = {"balance": 0.01 * balance} if options.get("balance", 0.01) else {}
    expected |= {"router_z": 0.1 * z} if "router_z_loss" in options else {}
    assert losses == pytest.approx(expected, rel=1e-4)
    if "bias_rate" in options:
        moved = variables["router"]["bias"] + 0.1 * (1 - 8 * load)
        np.testing.assert_allclose(state["router"]["bias"], moved, rtol=1e-5)


def test_gradients_are_those_of_a_dense_mixture():
    module = layer(balance=0.0)
    variables = initial(module, x_BTD())

    def mixture(params):
        router = params["router"]["kernel"]
        scores = jax.nn.softmax(x_BTD() @ router)
        kept = scores >= jnp.sort(scores, -1)[..., -2:-1]
        weights = jnp.where(kept, scores, 0)
        weights = weights / weights.sum(-1, keepdims=True)
        up, gate = (jnp.einsum("btd,edf->btef", x_BTD(), params[n]) for n in ("up", "gate"))
        y = jnp.einsum("btef,efd->bted", nn.silu(gate) * up, params["down"])
        return jnp.einsum("bted,bte->btd", y, weights)

    def gradient(run):
        return jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(run(p)))))(variables["params"])

    got = gradient(lambda p: module.apply({"params": p}, x_BTD()))
    compare = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)  # noqa: E731
    jax.tree.map(compare, got, gradient(mixture))


def test_the_bias_evens_the_load_and_only_training_moves_it():
    module = layer(bias_rate=0.004, balance=0.0)
    variables = initial(module, x_BTD())
    # A router that sends everything to two experts.
    skew = jnp.zeros((16, 8)).at[0, :2].set(5.0)
    variables["params"]["router"]["kernel"] += skew
    x = x_BTD().at[..., 0].set(1.0)

    @jax.jit
    def turn(bias):
        given = {**variables, "router": {"bias": bias}}
        _, state = module.apply(given, x, mutable=["router", "metrics"])
        return state["router"]["bias"], state["metrics"]["load"][0]

    bias = variables["router"]["bias"]
    _, first = turn(bias)
    for _ in range(500):
        bias, last = turn(bias)
    assert first.max() > 0.4
    assert last.max() < 0.3
    y = module.apply(variables, x)
    assert isinstance(y, jax.Array), "evaluation changes no state"


def test_no_array_holds_all_tokens_for_all_experts():
    """64 experts, two for each token: the work is that of two, and memory does not hold the rest."""
    module = layer({"model_dim": 16, "mlp_dim": 128}, experts=64)
    x = jnp.zeros((16, 128, 16))
    variables = jax.eval_shape(lambda: initial(module, x))
    compiled = jax.jit(module.apply).lower(variables, x).compile()
    ideal = 2 * x.size // 16 * 2 * 3 * 16 * 64
    assert compiled.cost_analysis()["flops"] < 4 * ideal
    everything = x.size // 16 * 64 * 64 * 4  # tokens x experts x hidden, in bytes
    assert compiled.memory_analysis().temp_size_in_bytes < everything / 3


def test_scan_unrolled_and_remat_agree():
    variables = initial(transformer(bias_rate=0.1), tokens(), train=False)

    def run(fields):
        model = transformer(fields, bias_rate=0.1)
        names = ["router", "losses", "metrics"]

        def loss(params):
            given = {"params": params, "router": variables["router"]}
            out, state = model.apply(given, tokens(), train=True, mutable=names)
            return jnp.sum(jnp.sin(out)), state

        return jax.jit(jax.grad(loss, has_aux=True))(variables["params"])

    compare = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)  # noqa: E731
    (grads, state), (other_grads, other_state) = run({}), run({"remat": "save_mlp"})
    jax.tree.map(compare, grads, other_grads)
    jax.tree.map(compare, state, other_state)
    assert state["router"]["layers"]["mlp"]["bias"].shape == (2, 8)
    assert state["metrics"]["layers"]["mlp"]["load"][0].shape == (2, 8)


def test_bfloat16_computes_experts_in_bfloat16_and_routes_in_float32():
    module = layer({"dtype": "bfloat16"})
    variables = initial(module, x_BTD())
    y, state = module.apply(variables, x_BTD(), mutable=["metrics"])
    assert y.dtype == jnp.bfloat16
    wanted, load, _, _ = dense(variables, {}, x_BTD())
    np.testing.assert_allclose(state["metrics"]["load"][0], load, atol=1e-6)
    np.testing.assert_allclose(np.float32(y).reshape(-1, 16), wanted, atol=0.1)


# Width 16, hidden 4 for each of 3 parts: an expert has 3 * 16 * 4 = 192 parameters.
ATTENTION = 4 * 16 * 16


def test_cost_by_hand():
    model = transformer(experts=5, top_k=2, shared=1)
    cost = model.cost(6)
    router = 16 * 5
    assert cost.body == 2 * (ATTENTION + router + (5 + 1) * 192 + 2 * 16) + 16
    assert cost.idle == 2 * 3 * 192
    assert cost.matmul == 2 * (ATTENTION + router + 3 * 192)
    counts = params(cost)
    assert counts.total - counts.active == 2 * 3 * 192
    size = sum(x.size for x in jax.tree.leaves(initial(model, tokens(), train=False)["params"]))
    assert counts.total == size
    # As many as in the dense block, the router aside.
    dense_cost = Transformer(**FIELDS).cost(6)
    assert counts.active == params(dense_cost).total + 2 * router
    assert cost.attention == dense_cost.attention


@pytest.mark.parametrize("options", [{}, {"experts": 5, "top_k": 2, "shared": 1}])
def test_the_cost_is_what_a_trace_for_an_accelerator_multiplies(options):
    """There a ragged product is one; on CPU blocks that are not full are counted too."""
    model = transformer({"platform": "tpu", "dtype": "float32", "attention": "xla"}, **options)
    variables = jax.eval_shape(
        functools.partial(model.init, train=False), jax.random.key(0), tokens()
    )
    run = functools.partial(model.apply, train=False)
    traced = products(jax.make_jaxpr(run)(nn.unbox(variables), tokens()).jaxpr)
    mix = 2 * 2 * 16 * 2 * tokens().size  # the weighted sum of two outputs, in each layer
    assert traced - mix == pytest.approx(flops(model.cost(6)).forward * tokens().size)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 9}, "top_k: 9 of 8 experts"),
        ({"top_k": 5}, "mlp_dim=12 does not divide into the 5 experts"),
        ({"expert": 5}, r"feed_forward_options\.expert: is not an option"),
        ({"scores": "relu"}, r"feed_forward_options\.scores: "),
        ({"experts": "many"}, r"feed_forward_options\.experts: "),
        ({"shared": -1}, r"feed_forward_options\.shared: "),
        ({"expert_dim": 0}, r"feed_forward_options\.expert_dim: "),
    ],
)
def test_impossible_mixtures_say_why(options, message):
    with pytest.raises(ConfigError, match=message):
        transformer(**options).cost(6)
