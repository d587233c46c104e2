"""The encoder-decoder: what may depend on what, cached decoding, and the counts by hand."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.models.encoder_decoder import EncoderDecoder

SMALL = {
    "vocab_size": 11,
    "num_layers": 2,
    "encoder_layers": 1,
    "model_dim": 8,
    "num_heads": 2,
    "max_len": 12,
    "unroll": 1,
}
STYLES = {
    "default": SMALL,
    "other": SMALL
    | {"position": "learned", "norm": "layernorm", "bias": True, "mlp": "gelu", "qk_norm": True}
    | {"num_kv_heads": 1, "tie_embeddings": False, "attention_softcap": 5.0},
}
SOURCE = jax.random.randint(jax.random.key(1), (2, 5), 0, 11)
TARGET = jax.random.randint(jax.random.key(2), (2, 6), 0, 11)
TEXT = jnp.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


@functools.cache
def initial(style):
    model = EncoderDecoder(**STYLES[style])
    # Norm scales and biases of other values than 1 and 0, so that each of them counts.
    variables = jax.jit(functools.partial(model.init, train=False))(
        jax.random.key(0), SOURCE, TEXT, TARGET
    )
    keys = iter(jax.random.split(jax.random.key(3), 99))
    return model, jax.tree.map(
        lambda x: x + 0.3 * jax.random.normal(next(keys), x.shape), nn.unbox(variables)
    )


@functools.cache
def compiled(style):
    return jax.jit(functools.partial(initial(style)[0].apply, train=False))


def logits(style, source=SOURCE, text=TEXT, target=TARGET):
    return compiled(style)(initial(style)[1], source, text, target)


@pytest.mark.parametrize("style", STYLES)
def test_padding_of_either_side_changes_nothing(style):
    wide = [jnp.pad(x, ((0, 0), (0, 4)), constant_values=v) for x, v in ((SOURCE, 7), (TEXT, 0))]
    target = jnp.pad(TARGET, ((0, 0), (0, 3)), constant_values=10)
    padded = logits(style, *wide, target)[:, :6]
    np.testing.assert_allclose(padded, logits(style), atol=2e-5)
    other = SOURCE.at[1, 3:].add(1) % 11  # what stands in the padding
    np.testing.assert_allclose(logits(style, other), logits(style), atol=2e-5)


@pytest.mark.parametrize("style", STYLES)
def test_every_place_sees_the_whole_source_and_the_target_before_it(style):
    base = logits(style)
    for place in (0, 4):
        changed = logits(style, SOURCE.at[0, place].add(1) % 11)
        assert (np.abs(changed - base)[0].max(axis=-1) > 1e-4).all()
        np.testing.assert_allclose(changed[1], base[1], atol=1e-6)
    later = np.abs(logits(style, target=TARGET.at[:, 3].add(1) % 11) - base).max(axis=-1)
    assert (later[:, :3] < 1e-5).all()
    assert (later[:, 3:] > 1e-5).all()


@pytest.mark.parametrize("style", STYLES)
def test_a_token_at_a_time_gives_the_logits_of_all_at_once(style):
    model, variables = initial(style)
    encode = jax.jit(functools.partial(model.apply, train=False, method=model.encode))
    memory = encode(variables, SOURCE, TEXT)

    @jax.jit
    def turn(cache, token_B1, place):
        return model.apply(
            {**variables, **cache},
            memory,
            token_B1,
            jnp.full((2, 1), place),
            train=False,
            mutable=["cache"],
            method=model.logits,
        )

    cache, rows = {}, []
    for place in range(TARGET.shape[1]):
        row, cache = turn(cache, TARGET[:, place : place + 1], place)
        rows.append(row)
    np.testing.assert_allclose(jnp.concatenate(rows, axis=1), logits(style), atol=2e-5)


def test_remat_and_the_loop_change_nothing():
    model, variables = initial("default")
    other = model.clone(remat="full", unroll="auto")
    both = [
        jax.jit(
            jax.grad(lambda v, m=m: jnp.sum(m.apply(v, SOURCE, TEXT, TARGET, train=False) ** 2))
        )(variables)
        for m in (model, other)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-3), *both)


def test_counts_by_hand():
    model = EncoderDecoder(
        vocab_size=7, num_layers=2, encoder_layers=3, model_dim=4, num_heads=2, mlp_dim=5, max_len=9
    )
    attention, mlp, norm = 4 * 4 * 4, 3 * 4 * 5, 4
    encoder = 3 * (attention + mlp + 2 * norm) + norm
    decoder = 2 * (2 * attention + mlp + 3 * norm) + norm
    cost = model.cost(6, 3)
    assert cost.body == encoder + decoder
    assert (cost.embedding, cost.head, cost.head_matmul) == (7 * 4, 0, 7 * 4)
    # Of a target token, with the share of two source tokens: keys and values of the memory too.
    of_source = 3 * (attention + mlp) + 2 * (2 * 4 * 4)
    assert cost.matmul == 2 * (attention + 2 * 4 * 4 + mlp) + 2 * of_source
    pairs = 2 * 4  # scores and weighted values, all heads
    assert cost.attention == pairs * (2 * 3 + 2 * 6 + 3 * 2 * 6)
    assert cost.attention_causal == pairs * (2 * 2 + 2 * 6 + 3 * 2 * 6)
    source, target = jnp.zeros((1, 6), jnp.int32), jnp.zeros((1, 3), jnp.int32)
    shapes = jax.eval_shape(
        functools.partial(model.init, train=False), jax.random.key(0), source, source, target
    )
    count = sum(x.size for x in jax.tree.leaves(shapes))
    assert count == cost.body + cost.embedding
