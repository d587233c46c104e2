"""Which tokens are hidden and how, what the loss counts, and pseudo-perplexity one mask at a time."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny_language_model

from scaling.configs import ConfigError
from scaling.data.documents import Part
from scaling.data.info import DataInfo
from scaling.data.tokenizers import Bpe, Bytes
from scaling.tasks.base import Context, build_task
from scaling.tasks.masked_language_model import hidden_tokens, pseudo_perplexity, text_keys

VOCAB, LENGTH = 40, 8
SEPARATOR, MASK = VOCAB - 1, VOCAB
SPEC = dict.fromkeys(("inputs", "targets"), ((LENGTH,), np.int32))
INFO = DataInfo("text", "tokens", SPEC | {"weights": ((LENGTH,), np.float32)}, vocab_size=VOCAB)


def hide(tokens, rate=0.15, starts=None, seed=0):
    changed, chosen = hidden_tokens(
        jnp.asarray(tokens), jax.random.key(seed), separator=SEPARATOR, rate=rate, starts_V=starts
    )
    return np.asarray(changed), np.asarray(chosen)


def test_a_part_of_the_tokens_is_hidden_replaced_or_left():
    tokens = np.random.default_rng(0).integers(0, VOCAB, (400, 200))
    changed, chosen = hide(tokens)
    assert not chosen[tokens == SEPARATOR].any()
    assert chosen[tokens != SEPARATOR].mean() == pytest.approx(0.15, abs=0.005)
    np.testing.assert_array_equal(changed[~chosen], tokens[~chosen])
    assert (changed[chosen] == MASK).mean() == pytest.approx(0.8, abs=0.01)
    # One of 39 random tokens is the one that was there.
    assert (changed[chosen] == tokens[chosen]).mean() == pytest.approx(0.1 + 0.1 / 39, abs=0.01)
    assert (changed != SEPARATOR)[chosen].all()
    assert (hide(tokens, seed=1)[1] != chosen).any()


def test_words_are_chosen_whole():
    tokens = np.random.default_rng(0).integers(0, VOCAB, (300, 100))
    starts = np.arange(VOCAB) < 10
    _, chosen = hide(tokens, starts=starts)
    same = ~starts[tokens[:, 1:]] & (tokens[:, 1:] != SEPARATOR) & (tokens[:, :-1] != SEPARATOR)
    np.testing.assert_array_equal(chosen[:, 1:][same], chosen[:, :-1][same])
    assert chosen[tokens != SEPARATOR].mean() == pytest.approx(0.15, abs=0.01)


class _Text:
    kind = "text"

    def documents(self):
        return iter(["the cat and the dog\nthe end"] * 20)

    def fingerprint(self, cache):
        return "words"

    def held_out(self):
        return None


def test_tokenizers_say_which_tokens_begin_a_word(tmp_path):
    assert Bytes().starts_word.nonzero()[0].tolist() == [9, 10, 13, 32, 256]
    bpe = Bpe(vocab_size=290).fit([Part(_Text())], tmp_path)
    for token in range(289):
        assert bpe.starts_word[token] == bpe.decode(np.array([token]))[:1].isspace() or token < 256
    assert bpe.starts_word[bpe.encode([" the\n\t"])[0]].all()
    assert not bpe.starts_word[bpe.encode(["the"])[0]].any()


@functools.cache
def task(**values):
    overrides = {
        "task.name": "masked_language_model",
        "model.causal": False,
        "model.num_layers": 1,
        "model.model_dim": 16,
        "data.text.seq_len": LENGTH,
        "data.text.mask_documents": False,
    }
    built = build_task(tiny_language_model(**(overrides | values)), INFO, "cpu")
    return built, nn.unbox(jax.jit(built.init)(jax.random.key(0)))


def batch(seed=0):
    random = np.random.default_rng(seed)
    tokens = random.integers(0, VOCAB, (16, LENGTH))
    weights = np.ones((16, LENGTH), np.float32)
    weights[3:] = 0.0
    weights[2, 5:] = 0.0
    return {"inputs": jnp.asarray(tokens), "weights": jnp.asarray(weights)}


def evaluated(data, seed):
    built, variables = task()
    context = Context(jax.random.key(seed), jnp.int32(0), False)
    return jax.jit(lambda data: built.loss(variables, data, context, {}))(data)


def test_the_loss_is_that_of_the_chosen_tokens_and_the_same_in_every_run():
    built, variables = task()
    data = batch()
    first, again = evaluated(data, 0), evaluated(data, 1)
    jax.tree.map(np.testing.assert_array_equal, first.metrics, again.metrics)
    rows = [
        hidden_tokens(row[None], key, separator=SEPARATOR, rate=0.15)
        for row, key in zip(data["inputs"], text_keys(data["inputs"]), strict=True)
    ]
    changed, chosen = (jnp.concatenate(parts) for parts in zip(*rows, strict=True))
    context = Context(jax.random.key(0), jnp.int32(0), False)
    apply = jax.jit(lambda data: built.functions["logits"](variables, data, context))
    logits = apply(data | {"inputs": changed})
    logp = np.asarray(jax.nn.log_softmax(logits))
    right = np.take_along_axis(logp, np.asarray(data["inputs"])[..., None], axis=-1)[..., 0]
    counted = np.asarray(chosen) * np.asarray(data["weights"])
    assert 0 < counted.sum() < data["weights"].sum()
    np.testing.assert_allclose(
        first.metrics["loss"], (-(right * counted).sum(), counted.sum()), rtol=1e-5
    )


def test_what_is_hidden_of_a_text_does_not_depend_on_the_texts_beside_it():
    data = batch()
    turned = {k: v[::-1] for k, v in data.items()}
    alone = {k: v[:3] for k, v in data.items()}  # all that have a weight
    for other in (turned, alone):
        for a, b in zip(evaluated(data, 0)[:2], evaluated(other, 0)[:2], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5)
    assert len(np.unique(jax.random.key_data(text_keys(data["inputs"])), axis=0)) == 16


def test_training_chooses_anew_in_each_step():
    built, variables = task()
    run = jax.jit(
        lambda key: built.loss(variables, batch(), Context(key, jnp.int32(0), True), {}).sum
    )
    assert run(jax.random.key(0)) != run(jax.random.key(1))


def test_pseudo_perplexity_hides_one_token_at_a_time():
    built, variables = task()
    data = batch()
    evaluation = built.evaluations["pseudo_perplexity"]
    context = Context(jax.random.key(0), jnp.int32(0), False)
    totals, _ = jax.jit(lambda data: evaluation.run(variables, data, context, None))(data)
    apply = jax.jit(lambda data: built.functions["logits"](variables, data, context))
    total = count = 0.0
    for row in range(3):
        for place in range(LENGTH):
            token = int(data["inputs"][row, place])
            if token == SEPARATOR or data["weights"][row, place] == 0:
                continue
            hidden = data | {"inputs": data["inputs"].at[row, place].set(MASK)}
            total -= float(jax.nn.log_softmax(apply(hidden)[row, place])[token])
            count += 1
    report = pseudo_perplexity(jax.tree.map(np.asarray, totals))
    assert report["tokens"] == count
    assert report["loss"] == pytest.approx(total / count, rel=1e-5)
    assert report["pseudo_perplexity"] == pytest.approx(np.exp(total / count), rel=1e-5)


def test_a_model_that_reads_one_way_is_refused():
    with pytest.raises(ConfigError, match=r"(?s)model\.causal.*--config\.model\.causal=False"):
        task(**{"model.causal": True})
    recurrent = tiny_language_model(
        **{"task.name": "masked_language_model", "model": {"name": "rnn", "num_layers": 1}}
    )
    with pytest.raises(
        ConfigError, match=r"model\.name: rnn has no causal, which task\.name=masked"
    ):
        build_task(recurrent, INFO, "cpu")
    with pytest.raises(ConfigError, match=r"(?s)model\.vocab_size: 40 is less than the 41"):
        task(**{"model.vocab_size": VOCAB})
