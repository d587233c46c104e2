"""Recurrent language models: against flax's cells, and what a carried state means."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.models.rnn import KINDS, RNN
from scaling.parallel.axes import DEFAULT_RULES
from scaling.tasks.flops import params
from scaling.tasks.generate import make_generate

FIELDS = {"vocab_size": 11, "num_layers": 2, "model_dim": 6}


def tokens(batch=3, length=8):
    return jax.random.randint(jax.random.key(5), (batch, length), 0, 11)


def initial(model, batch=3):
    return model.init(jax.random.key(0), tokens(batch), train=False)


def logits(model, variables, *inputs):
    return model.apply({"params": variables["params"]}, *inputs, train=False)


def flax_params(layer, cell):
    """Our gates side by side as flax's dictionary of gates."""
    gates = KINDS[cell].gates
    kernels = np.split(layer["inputs"]["kernel"], gates, axis=1)
    recurrent = np.split(layer["recurrent"], gates, axis=1)
    biases = np.split(layer["bias"], gates)
    if cell == "gru":
        named = {f"i{g}": {"kernel": kernels[i], "bias": biases[i]} for i, g in enumerate("rzn")}
        named |= {f"h{g}": {"kernel": recurrent[i]} for i, g in enumerate("rzn")}
        named["hn"]["bias"] = np.zeros_like(biases[0])
        return named
    named = {f"i{g}": {"kernel": kernels[i]} for i, g in enumerate("ifgo")}
    return named | {
        f"h{g}": {"kernel": recurrent[i], "bias": biases[i]} for i, g in enumerate("ifgo")
    }


@pytest.mark.parametrize("cell", KINDS)
def test_layers_are_those_of_flax(cell):
    model = RNN(**FIELDS, cell=cell)
    variables = nn.unbox(initial(model))["params"]
    reference = {"gru": nn.GRUCell, "lstm": nn.OptimizedLSTMCell}[cell]
    x = variables["embedding"][tokens()]
    for i in range(2):
        cell_params = flax_params(variables[f"layers_{i}"], cell)
        x = nn.RNN(reference(6)).apply({"params": {"cell": cell_params}}, x)
    wanted = x @ variables["head"]
    np.testing.assert_allclose(logits(model, {"params": variables}, tokens()), wanted, atol=1e-5)


def test_the_forget_gate_starts_open():
    bias = nn.unbox(initial(RNN(**FIELDS)))["params"]["layers_0"]["bias"]
    np.testing.assert_array_equal(bias, np.repeat([0, 1, 0, 0], 6))


@pytest.mark.parametrize("cell", KINDS)
def test_carried_windows_are_one_long_window(cell):
    model = RNN(**FIELDS, cell=cell, residual=True, tie_embeddings=True)
    variables = nn.unbox(initial(model))
    state, parts = {"params": variables["params"], "carry": variables["carry"]}, []
    assert not any(np.any(x) for x in jax.tree.leaves(state["carry"])), "init left a state"
    for start in (0, 3, 6):
        window = tokens()[:, start : start + 3]
        out, after = model.apply(state, window, train=False, mutable=["carry"])
        state |= after
        parts.append(out)
    whole = logits(model, variables, tokens())
    np.testing.assert_allclose(np.concatenate(parts, 1), whole, atol=1e-5)
    assert len(jax.tree.leaves(after["carry"])) == 2 * len(KINDS[cell].states)


def test_a_document_starts_from_nothing_and_segment_0_goes_on():
    model = RNN(**FIELDS)
    variables = nn.unbox(initial(model))
    carry = jax.tree.map(jnp.ones_like, variables["carry"])
    segments = jnp.tile(jnp.array([0, 0, 0, 1, 1, 2, 2, 2]), (3, 1))

    def run(segments, window, carry):
        state = {"params": variables["params"], "carry": carry}
        return model.apply(state, window, segments, train=False, mutable=["carry"])[0]

    got = run(segments, tokens(), carry)
    zero = jax.tree.map(jnp.zeros_like, carry)
    for start, stop, before in ((0, 3, carry), (3, 5, zero), (5, 8, zero)):
        alone = run(None, tokens()[:, start:stop], before)
        np.testing.assert_allclose(got[:, start:stop], alone, atol=1e-5)
    # Windows that are not in lanes count from 1: whatever was carried is forgotten.
    np.testing.assert_allclose(
        run(segments + 1, tokens(), carry), run(segments + 1, tokens(), zero), atol=1e-6
    )


def test_generating_with_a_state_is_generating_from_everything_so_far():
    class Forgetful(RNN):
        caches = False

    variables = nn.unbox(initial(RNN(**FIELDS)))
    # The carry of the training rows is among the variables of a run: not that of a prompt.
    assert "carry" in variables
    made = [
        make_generate(model, 11, 6)(variables, tokens(2, 4), jax.random.key(1), jnp.float32(1))
        for model in (RNN(**FIELDS), Forgetful(**FIELDS))
    ]
    np.testing.assert_array_equal(*made)


@pytest.mark.parametrize(
    ("fields", "body", "head"),
    [
        ({"cell": "gru"}, 2 * (6 * 18 + 6 * 18 + 18), 66),
        ({"cell": "lstm", "residual": True}, 2 * (6 * 24 + 6 * 24 + 24) + 3 * 6, 66),
        ({"cell": "lstm", "tie_embeddings": True}, 2 * (6 * 24 + 6 * 24 + 24), 0),
    ],
)
def test_cost_by_hand(fields, body, head):
    model = RNN(**FIELDS, **fields)
    cost = model.cost(8)
    assert (cost.body, cost.embedding, cost.head) == (body, 66, head)
    gates = KINDS[fields["cell"]].gates
    assert cost.matmul == 2 * 2 * gates * 36
    size = sum(x.size for x in jax.tree.leaves(nn.unbox(initial(model))["params"]))
    assert params(cost).total == size


def test_every_parameter_and_state_names_its_axes():
    boxed = initial(RNN(**FIELDS, residual=True))
    for box in jax.tree.leaves(boxed, is_leaf=lambda x: isinstance(x, nn.Partitioned)):
        assert isinstance(box, nn.Partitioned)
        assert all(axis is None or axis in DEFAULT_RULES for axis in box.names)


def test_dropout_and_bfloat16():
    model = RNN(**FIELDS, dropout=0.5, dtype="bfloat16")
    variables = nn.unbox(initial(model))

    def train(key):
        rngs = {"dropout": jax.random.key(key)}
        return model.apply(variables, tokens(), train=True, rngs=rngs, mutable=["carry"])

    out, after = train(0)
    assert out.dtype == jnp.float32
    assert {x.dtype for x in jax.tree.leaves(after)} == {jnp.dtype("float32")}
    np.testing.assert_array_equal(out, train(0)[0])
    assert not np.allclose(out, train(1)[0])
