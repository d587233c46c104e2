"""The decoder: what may depend on what, and what must not change the result."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.experiment import MeshConfig
from scaling.models.transformer import Transformer
from scaling.ops import cross_entropy as head
from scaling.parallel.axes import DEFAULT_RULES, rules
from scaling.parallel.logical import logical_rules
from scaling.parallel.mesh import make_mesh
from scaling.tasks.language_model import hidden_and_kernel, objective

# A loop compiles faster than straight-line code; the tests of equality unroll.
SMALL = {
    "vocab_size": 11,
    "num_layers": 2,
    "model_dim": 16,
    "num_heads": 4,
    "max_len": 16,
    "unroll": 1,
}
GPT2 = SMALL | {
    "norm": "layernorm",
    "position": "learned",
    "mlp": "gelu",
    "bias": True,
    "tie_embeddings": True,
}
MODERN = SMALL | {
    "mlp": "relu2",
    "qk_norm": True,
    "num_kv_heads": 2,
    "logit_softcap": 15.0,
    "attention_softcap": 20.0,
}
STYLES = {"default": SMALL, "gpt2": GPT2, "modern": MODERN}


def tokens(batch=2, length=8):
    return jax.random.randint(jax.random.key(7), (batch, length), 0, SMALL["vocab_size"])


@functools.cache
def _initial(items):
    model = Transformer(**dict(items))
    return jax.jit(functools.partial(model.init, train=False))(jax.random.key(0), tokens())


def initial(fields):
    """Boxed variables; fields that do not change the parameters share one initialisation."""
    keep = {k: v for k, v in fields.items() if k not in ("remat", "unroll", "dropout", "dtype")}
    return _initial(tuple(sorted(keep.items())))


def logits_of(fields, variables, *inputs):
    model = Transformer(**fields)
    return jax.jit(functools.partial(model.apply, train=False))(variables, *inputs)


def loss_and_grads(fields, rng=None, **inputs):
    """A loss that all logits and parameters enter, and its gradients."""
    model = Transformer(**fields)

    @jax.jit
    def both(params):
        def loss(params):
            rngs = {"dropout": rng} if rng is not None else None
            logits = model.apply(
                {"params": params}, tokens(), train=rng is not None, rngs=rngs, **inputs
            )
            return jnp.mean(jnp.square(jax.nn.log_softmax(logits)))

        return jax.value_and_grad(loss)(params)

    return both(nn.unbox(initial(fields))["params"])


def assert_same(a, b, tolerance=2e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=tolerance, rtol=1e-4), a, b)


def jacobian(fields, segments=None):
    """|d logits[t] / d embedded input[s]| of one row, [T, T]."""
    model, length = Transformer(**fields), 8
    variables = nn.unbox(initial(fields))
    # One vocabulary entry a position makes the embedding table's rows the inputs of the positions.
    inputs = jnp.arange(length, dtype=jnp.int32)[None]

    def logits(table):
        params = variables["params"] | {"embedding": table}
        if "head" not in params:  # a tied head would see the table too
            bound = model.bind({"params": params})
            hidden = bound.hidden(inputs, segments, train=False)
            return model.bind(variables).unembed(hidden)[0]
        return model.apply({"params": params}, inputs, segments, train=False)[0]

    full = jax.jit(jax.jacrev(logits))(variables["params"]["embedding"])  # [T, V, V', D]
    return np.asarray(jnp.abs(full[:, :, :length]).sum(axis=(1, 3)))


@pytest.mark.parametrize("style", STYLES)
def test_no_output_depends_on_a_later_input(style):
    influence = jacobian(STYLES[style])
    assert (influence[np.triu_indices(8, k=1)] == 0).all()
    assert (influence[np.tril_indices(8)] > 0).all()


def test_no_output_depends_on_another_document():
    segments = np.array([[1, 1, 1, 2, 2, 2, 2, 3]], np.int32)
    influence = jacobian(SMALL, jnp.asarray(segments))
    same = (segments[0][:, None] == segments[0][None]) & np.tril(np.ones((8, 8), bool))
    assert ((influence > 0) == same).all()


@pytest.mark.parametrize("style", ["default", "gpt2"])
def test_packed_documents_equal_lone_documents(style):
    fields = STYLES[style]
    variables = nn.unbox(initial(fields))
    row = tokens(1, 8)
    segments = jnp.array([[1, 1, 1, 2, 2, 2, 2, 2]])
    positions = jnp.array([[0, 1, 2, 0, 1, 2, 3, 4]])
    packed = logits_of(fields, variables, row, segments, positions)
    lone = [logits_of(fields, variables, part) for part in (row[:, :3], row[:, 3:])]
    np.testing.assert_allclose(packed, jnp.concatenate(lone, axis=1), atol=2e-6)


def test_positions_count_from_zero_by_default():
    given = jnp.tile(jnp.arange(8)[None], (2, 1))
    for fields in (SMALL, GPT2):
        variables = nn.unbox(initial(fields))
        a = logits_of(fields, variables, tokens())
        b = logits_of(fields, variables, tokens(), None, given)
        np.testing.assert_allclose(a, b, atol=2e-6)


@pytest.mark.parametrize(
    "change",
    [
        {"unroll": 1},
        {"unroll": 2},
        {"remat": "full"},
        {"unroll": 1, "remat": "full"},
        {"unroll": 1, "remat": "dots"},
        {"unroll": 1, "remat": "dots_attention"},
        {"unroll": 1, "remat": "dots_except_mlp"},
        {"unroll": 1, "remat": "save_attention"},
        {"unroll": 1, "remat": "save_mlp"},
        {"unroll": 1, "remat": "save_attention_mlp"},
    ],
    ids=str,
)
def test_scan_unrolled_and_remat_agree(change):
    fields = MODERN | {"num_layers": 3, "dropout": 0.3, "unroll": 3}
    assert_same(unrolled_without_remat(), loss_and_grads(fields | change, jax.random.key(3)))


@functools.cache
def unrolled_without_remat():
    fields = MODERN | {"num_layers": 3, "dropout": 0.3, "unroll": 3}
    return loss_and_grads(fields, jax.random.key(3))


def test_remat_saves_memory():
    def temporary_bytes(remat):
        fields = SMALL | {"num_layers": 8, "max_len": 64, "unroll": "auto", "remat": remat}
        model, inputs = Transformer(**fields), jnp.zeros((8, 64), jnp.int32)
        params = jax.eval_shape(
            functools.partial(model.init, train=False), jax.random.key(0), inputs
        )

        def loss(params):
            return jnp.mean(model.apply(params, inputs, train=False))

        compiled = jax.jit(jax.grad(loss)).lower(nn.unbox(params)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    none, dots, full = (temporary_bytes(remat) for remat in ("none", "dots", "full"))
    assert full < dots < none


def test_dropout_is_a_function_of_its_key():
    fields = SMALL | {"dropout": 0.5}
    variables = nn.unbox(initial(SMALL))

    @jax.jit
    def train(key):
        model = Transformer(**fields)
        return model.apply(variables, tokens(), train=True, rngs={"dropout": key})

    a, b, c = (train(jax.random.key(k)) for k in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert not np.allclose(a, c)
    evaluated = logits_of(fields, variables, tokens())  # drops nothing
    np.testing.assert_array_equal(evaluated, logits_of(SMALL, variables, tokens()))


def test_grouped_heads_equal_repeated_ones():
    grouped = SMALL | {"num_kv_heads": 2}
    variables = nn.unbox(initial(grouped))
    width = 4

    def repeat(kernel):  # [L, D, 2 * K] -> [L, D, 4 * K], each head twice in a row
        split = kernel.reshape(*kernel.shape[:2], 2, width)
        return jnp.repeat(split, 2, axis=2).reshape(*kernel.shape[:2], -1)

    params = jax.tree.map(lambda x: x, variables["params"])
    for name in ("key", "value"):
        params["layers"]["attention"][name]["kernel"] = repeat(
            params["layers"]["attention"][name]["kernel"]
        )
    a = logits_of(grouped, variables, tokens())
    b = logits_of(SMALL, {"params": params}, tokens())
    np.testing.assert_allclose(a, b, atol=2e-6)


def test_logit_softcap_bounds_the_logits():
    fields = SMALL | {"logit_softcap": 0.05}
    variables = nn.unbox(initial(SMALL))
    capped, free = (logits_of(f, variables, tokens()) for f in (fields, SMALL))
    assert float(jnp.abs(capped).max()) <= 0.05 * (1 + 1e-6) < float(jnp.abs(free).max())
    np.testing.assert_allclose(capped, 0.05 * np.tanh(free / 0.05), atol=1e-6)


@pytest.mark.parametrize("style", STYLES)
def test_every_parameter_names_its_axes(style):
    boxes = jax.tree.leaves(
        initial(STYLES[style])["params"], is_leaf=lambda x: isinstance(x, nn.Partitioned)
    )
    assert boxes
    for box in boxes:
        assert isinstance(box, nn.Partitioned)
        assert len(box.names) == box.value.ndim
        assert box.value.dtype == jnp.float32
        assert all(name is None or name in DEFAULT_RULES for name in box.names)
    assert {n for box in boxes for n in box.names} >= {"layers", "vocab", "embed", "heads", "mlp"}


def test_layers_are_stacked_whether_unrolled_or_not():
    kernel = nn.unbox(initial(SMALL))["params"]["layers"]["mlp"]["up"]["kernel"]
    assert kernel.shape == (2, 16, 64)
    model = Transformer(**SMALL | {"unroll": "auto"})
    unrolled = jax.jit(functools.partial(model.init, train=False))(jax.random.key(0), tokens())
    assert_same(nn.unbox(unrolled), nn.unbox(initial(SMALL)), 0.0)


def test_initial_scale():
    fields = SMALL | {"model_dim": 64, "vocab_size": 512, "init_scale": 2.0}
    params = nn.unbox(initial(fields))["params"]
    deviation = {
        "up": 2 / 64**0.5,
        "down": 2 / 192**0.5 / (2 * 2) ** 0.5,  # 8/3 of 64, rounded up to a multiple of 64
    }
    for name, expected in deviation.items():
        kernel = params["layers"]["mlp"][name]["kernel"]
        assert np.std(kernel) == pytest.approx(expected, rel=0.02)
    assert np.std(params["embedding"]) == pytest.approx(2 / 8, rel=0.02)
    layers = params["layers"]["attention"]["query"]["kernel"]
    assert not np.allclose(layers[0], layers[1])  # each layer draws its own


def test_bfloat16_computes_in_bfloat16_and_answers_in_float32():
    fields = SMALL | {"dtype": "bfloat16"}
    model, variables = Transformer(**fields), nn.unbox(initial(fields))
    hidden = jax.jit(functools.partial(model.apply, train=False, method="hidden"))(
        variables, tokens()
    )
    logits = model.apply(variables, hidden, method="unembed")
    assert hidden.dtype == jnp.bfloat16
    assert logits.dtype == jnp.float32
    exact = logits_of(SMALL, variables, tokens())
    np.testing.assert_allclose(logits, exact, atol=0.05)


def test_auto_follows_the_platform():
    def hidden_dtype(platform):
        model = Transformer(**SMALL, platform=platform)
        shapes = jax.eval_shape(
            functools.partial(model.apply, train=False, method="hidden"),
            nn.unbox(initial(SMALL)),
            tokens(),
        )
        return shapes.dtype

    assert hidden_dtype("cpu") == jnp.float32
    assert hidden_dtype("tpu") == jnp.bfloat16
    assert hidden_dtype("gpu") == jnp.bfloat16


def test_a_mesh_does_not_change_the_answer():
    config = MeshConfig(data=2, fsdp=1, tensor=2)
    fields = MODERN | {"vocab_size": 12}
    alone = loss_and_grads(fields)
    with logical_rules(make_mesh(config, jax.devices()[:4]), rules(config)):
        meshed = loss_and_grads(fields)
    assert_same(alone, meshed)


def test_runs_vmap():
    model = Transformer(**SMALL)

    @jax.jit
    @jax.vmap
    def run(key):
        variables = nn.unbox(model.init(key, tokens(), train=False))
        return model.apply(variables, tokens(), train=False)

    logits = run(jnp.stack([jax.random.key(1), jax.random.key(0)]))
    alone = logits_of(SMALL, nn.unbox(initial(SMALL)), tokens())
    assert logits.shape == (2, 2, 8, 11)
    np.testing.assert_allclose(logits[1], alone, atol=2e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": None}, "vocab_size"),
        ({"max_len": 7}, r"8 tokens \(data.text.seq_len\) is longer than 7"),
        ({"num_heads": 3}, "3 does not divide model.model_dim=16"),
        ({"num_kv_heads": 3}, "3 does not divide model.num_heads=4"),
        ({"head_dim": 3}, "is 3, and rotary positions turn pairs"),
        ({"attention": "cudnn"}, "model.attention='cudnn'"),
    ],
)
def test_impossible_models_say_why(change, message):
    model = Transformer(**SMALL | change)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), tokens())


@pytest.mark.parametrize(
    "change", [{}, {"tie_embeddings": True, "logit_softcap": 2.0, "dtype": "bfloat16"}]
)
def test_the_loss_in_pieces_is_that_of_the_logits(monkeypatch, change):
    """Objective, what is reported beside it, and every gradient; in several pieces."""
    fields = SMALL | change
    model, params = Transformer(**fields), nn.unbox(initial(fields))["params"]
    inputs, targets = tokens(), tokens()[:, ::-1]
    numbers = {"z_loss": 1e-2}
    monkeypatch.setattr(head, "PIECE_BYTES", 1)
    score = functools.partial(objective, cap=model.logit_softcap)

    def pieces(params):
        given = {"train": False, "method": hidden_and_kernel}
        output = model.apply({"params": params}, inputs, None, None, **given)
        found = head.chunked_loss(score, *output, targets, numbers)
        return jnp.sum(found[0]), found

    def whole(params):
        logits = model.apply({"params": params}, inputs, train=False)
        found = objective(logits, targets, numbers)
        return jnp.sum(found[0]), found

    (_, ours), grads = jax.jit(jax.value_and_grad(pieces, has_aux=True))(params)
    (_, plain), expected = jax.jit(jax.value_and_grad(whole, has_aux=True))(params)
    close = 1e-5 if "dtype" not in change else 2e-2

    def compare(a, b):
        np.testing.assert_allclose(a, b, rtol=0, atol=close * np.abs(b).max())

    jax.tree.map(compare, (ours, grads), (plain, expected))


def test_a_hessian_times_a_vector():
    """Forward over reverse mode, against the difference of two gradients."""
    fields = SMALL
    params = nn.unbox(initial(fields))["params"]
    vector = jax.tree.map(lambda x: jnp.sin(100.0 * x), params)

    @jax.jit
    def grad(params):
        def loss(params):
            return jnp.mean(jnp.square(jax.nn.log_softmax(Transformer(**fields).apply(
                {"params": params}, tokens(), train=False
            ))))  # fmt: skip

        return jax.grad(loss)(params)

    def at(step):
        return grad(jax.tree.map(lambda x, v: x + step * v, params, vector))

    product = jax.jit(lambda: jax.jvp(grad, (params,), (vector,))[1])()
    slope = jax.tree.map(lambda a, b: (a - b) / 2e-3, at(1e-3), at(-1e-3))
    for ours, plain in zip(*map(jax.tree.leaves, (product, slope)), strict=True):
        np.testing.assert_allclose(ours, plain, atol=0.02 * np.abs(plain).max())
