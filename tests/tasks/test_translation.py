"""Translating with a model against writing every sequence out, padding, and what the report holds."""

import dataclasses
import functools
import importlib.util
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import resolved
from ml_collections import ConfigDict

from scaling import parallel
from scaling.configs import ConfigError
from scaling.data.info import DataInfo
from scaling.data.sources.text_pairs import HeldOutTexts, pair_spec
from scaling.data.tokenizers import Bytes
from scaling.models.encoder_decoder import EncoderDecoder
from scaling.tasks import translation
from scaling.tasks.base import Context, build_task
from scaling.tasks.beam import length_penalty

VOCAB, LENGTH = 4, 3
END = VOCAB - 1
MODEL = EncoderDecoder(
    vocab_size=VOCAB + 2, num_layers=2, model_dim=8, num_heads=2, max_len=8, unroll=1
)
SOURCE = {
    "source": jnp.array([[0, 1, 2, 1], [2, 0, 0, 0], [1, 1, 2, 2], [0, 2, 0, 0]]),
    "source_segments": jnp.array([[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 0, 0]]),
}


apply = jax.jit(functools.partial(MODEL.apply, train=False))


@functools.cache
def variables():
    source, inputs = jnp.zeros((1, 4), jnp.int32), jnp.zeros((1, 3), jnp.int32)
    init = jax.jit(functools.partial(MODEL.init, train=False))
    initial = nn.unbox(init(jax.random.key(0), source, source, inputs))
    # Larger than they start, so that the sentences differ.
    return jax.tree.map(lambda x: x if x.ndim == 1 else 3 * x, initial)


def translated(beams, alpha=0.0, batch=SOURCE):
    run = functools.partial(
        translation.search, MODEL, beams=beams, length=LENGTH, vocab_size=VOCAB, alpha=alpha
    )
    return jax.tree.map(np.asarray, jax.jit(run)(variables(), batch))


@functools.cache
def log_probabilities():
    """{sequence that ends: its log probability after each source}, each by one whole pass."""
    scores = {}
    for count in range(LENGTH):
        for tokens in itertools.product(range(END), repeat=count):
            inputs = jnp.array([[END, *tokens, *[0] * (LENGTH - 1 - count)]] * 4)
            logits = apply(variables(), SOURCE["source"], SOURCE["source_segments"], inputs)
            logp = np.asarray(jax.nn.log_softmax(logits[:, :, :VOCAB]))
            sequence = (*tokens, END)
            scores[sequence] = sum(logp[:, place, t] for place, t in enumerate(sequence))
    return scores


def padded(sequence):
    return [*sequence, *[END] * (LENGTH - len(sequence))]


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_with_beams_enough_the_translation_is_the_best_there_is(alpha):
    best, scores = translated(VOCAB**LENGTH, alpha), log_probabilities()
    for row in range(4):
        norm = {s: v[row] / float(length_penalty(len(s), alpha)) for s, v in scores.items()}
        right = max(norm, key=norm.get)
        assert best.tokens[row].tolist() == padded(right)
        assert best.score[row] == pytest.approx(norm[right], rel=1e-4)
    assert len({tuple(tokens) for tokens in best.tokens}) > 1


def test_one_beam_writes_the_most_likely_token_each_time():
    inputs = np.full((4, LENGTH + 1), END)
    ended = np.zeros(4, bool)
    for place in range(LENGTH):
        logits = apply(variables(), *SOURCE.values(), jnp.asarray(inputs[:, :LENGTH]))
        token = np.argmax(logits[:, place, :VOCAB], axis=-1)
        inputs[:, place + 1] = np.where(ended, END, token)
        ended |= token == END
    best = translated(1)
    np.testing.assert_array_equal(best.tokens, inputs[:, 1:])
    np.testing.assert_array_equal(best.ended, ended)


def test_wider_padding_and_other_rows_do_not_change_a_translation():
    wide = {k: jnp.pad(v, ((0, 0), (0, 3)), constant_values=0) for k, v in SOURCE.items()}
    wide["source"] = jnp.where(wide["source_segments"] > 0, wide["source"], 1)
    other = translated(3, 0.6, {k: v[::-1] for k, v in wide.items()})
    np.testing.assert_array_equal(other.tokens[::-1], translated(3, 0.6).tokens)


def config(**overrides):
    raw = {
        "name": "tiny",
        "task": {"name": "translation", "label_smoothing": 0.2},
        "data": {"source": {"name": "text_pairs", "source_paths": ("a",), "source_len": 6}},
        "model": {"name": "encoder_decoder", "num_layers": 1, "model_dim": 8, "num_heads": 2},
        "optim": {"name": "adamw", "learning_rate": 1e-2, "schedule": {"name": "constant"}},
        "train": {"steps": 1, "batch_size": 4},
        "eval": {"also": {"words": {"evaluation": "translate"}}},
    }
    return resolved(ConfigDict(raw), overrides)


INFO = DataInfo("text_pairs", "tokens", pair_spec(6, 5, False), vocab_size=9)


def test_padding_has_no_part_in_the_loss_and_smoothing_only_in_training():
    task = build_task(config(), INFO, "cpu")
    state = nn.unbox(jax.jit(task.init)(jax.random.key(0)))
    random = np.random.default_rng(0)
    batch = {k: jnp.asarray(random.integers(0, 8, (3, *s))) for k, (s, _) in INFO.spec.items()}
    batch["source_segments"] = jnp.array([[1] * 6, [1] * 4 + [0] * 2, [1] * 6])
    batch["weights"] = jnp.array([[1.0] * 5, [1.0, 1.0, 0.0, 0.0, 0.0], [0.0] * 5])

    @functools.partial(jax.jit, static_argnums=1)
    def run(batch, train):
        return task.loss(state, batch, Context(jax.random.key(1), jnp.int32(0), train), {})

    training, scoring = run(batch, True), run(batch, False)
    assert training.weight == scoring.weight == 7
    other = {k: v.at[2].set(1) for k, v in batch.items() if k != "weights"} | {
        "weights": batch["weights"]
    }
    other["targets"] = other["targets"].at[1, 2:].set(3)
    other["inputs"] = other["inputs"].at[1, 3:].set(3)
    other["source"] = other["source"].at[1, 4:].set(3)
    for first, train in ((training, True), (scoring, False)):
        np.testing.assert_allclose(run(other, train).sum, first.sum, rtol=1e-5)
    context = Context(jax.random.key(1), jnp.int32(0), False)
    logits = jax.jit(lambda batch: task.functions["logits"](state, batch, context))(batch)
    logp = jax.nn.log_softmax(logits)
    right = jnp.take_along_axis(logp, batch["targets"][..., None], axis=-1)[..., 0]
    plain = -jnp.sum(right * batch["weights"])
    np.testing.assert_allclose(scoring.sum, plain, rtol=1e-5)
    np.testing.assert_allclose(training.metrics["loss"][0], plain, rtol=1e-5)
    even = -jnp.sum(logp.mean(axis=-1) * batch["weights"])
    np.testing.assert_allclose(training.sum, 0.8 * plain + 0.2 * even, rtol=1e-5)


def test_scores_are_sacrebleus_against_the_texts_of_the_files():
    texts = ["Ein Mann läuft über die Straße.", "Zwei Hunde spielen im Schnee.", "Eine Frau liest."]
    pairs = tuple((f"source {i}", text) for i, text in enumerate(texts))
    artefacts = {"tokenizer": Bytes(), "held_out_texts": HeldOutTexts(pairs)}

    def rows(order, written):
        tokens = np.full((len(order), 60), 256)
        for row, text in zip(tokens, written, strict=True):
            spelled = np.frombuffer(text.encode(), np.uint8)
            row[: len(spelled)] = spelled
        return {"tokens": tokens, "ended": np.ones(len(order), bool), "index": np.array(order)}

    perfect = translation.compare(rows([2, 0], [texts[2], texts[0]]), artefacts)
    assert perfect["bleu"] == pytest.approx(100)
    assert perfect["chrf"] == pytest.approx(100)
    assert perfect["texts"][1] == {
        "source": "source 0",
        "target": texts[0],
        "translation": texts[0],
    }
    worse = "Zwei Hunde spielen im Wasser."  # 5 of 6 words, 3 of 5 pairs, ...
    report = translation.compare(rows([1], [worse]), artefacts)
    by_hand = 100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25
    assert report["bleu"] == pytest.approx(by_hand, rel=1e-6)
    assert 0 < report["chrf"] < 100
    assert report["length_ratio"] == 1.0
    assert report["signature"]["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:13a")
    cut = rows([1], [worse])
    cut["ended"][:] = False
    assert translation.compare(cut, artefacts)["unfinished"] == 1.0


def test_a_translation_is_as_long_as_the_longest_held_out_target():
    longer = dataclasses.replace(INFO, eval_specs={"eval": pair_spec(7, 9, True)})
    task = build_task(config(**{"model.max_len": 9}), longer, "cpu")
    variables = parallel.unbox(jax.eval_shape(task.init, jax.random.key(0)))
    best = jax.eval_shape(task.functions["translate"], variables, SOURCE)
    assert best.tokens.shape == (4, 9)


def test_what_is_missing_is_said_before_anything_runs(monkeypatch):
    with pytest.raises(ConfigError, match=r"(?s)model\.max_len: 4 is less than the 6.*max_len=6"):
        build_task(config(**{"model.max_len": 4}), INFO, "cpu")
    longer = dataclasses.replace(INFO, eval_specs={"eval": pair_spec(7, 9, True)})
    with pytest.raises(ConfigError, match=r"(?s)model\.max_len: 8 is less than the 9.*max_len=9"):
        build_task(config(**{"model.max_len": 8}), longer, "cpu")
    with pytest.raises(ConfigError, match=r"model\.causal: is False, and a decoder must not read"):
        build_task(config(**{"model.causal": False}), INFO, "cpu")
    # A decoder alone takes three arrays too: it would read the targets as positions.
    with pytest.raises(
        ConfigError, match=r"model\.name: transformer has no encode, which task\.name"
    ):
        build_task(config(**{"model.name": "transformer"}), INFO, "cpu")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"(?s)eval\.also\.words.*pip install 'scaling\[metrics\]'"
    ):
        build_task(config(), INFO, "cpu")
    build_task(config(**{"eval.also": {}}), INFO, "cpu")
