"""Entities by hand and against the rules of `conlleval`; padding and later tokens do not count."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import resolved

from scaling import parallel
from scaling.data import DataInfo
from scaling.data.sources.tagged_text import tagged_spec
from scaling.data.tokenizers import Bytes
from scaling.tasks.base import Context, build_task
from scaling.tasks.entities import entities, entity_scores
from scaling.tasks.tagging import summarize_entities

NAMES = ("O", "B-a", "I-a", "B-b", "I-b")
GRU = {"name": "tagger_gru", "num_layers": 2, "model_dim": 6, "dropout": 0.0}
ENCODER = {"name": "tagger_encoder", "num_layers": 1, "model_dim": 8, "num_heads": 2}


def test_entities_by_hand():
    assert entities(["B-a", "I-a", "O", "B-a", "B-a"]) == [("a", 0, 2), ("a", 3, 4), ("a", 4, 5)]
    assert entities(["O", "I-a", "I-b", "I-b"]) == [("a", 1, 2), ("b", 2, 4)]
    assert entities(["B-a", "I-b"]) == [("a", 0, 1), ("b", 1, 2)]
    assert entities([]) == []


def conlleval(tags):
    """As the Perl script decides, word by word, where a chunk starts and where it ends."""
    chunks, start = [], 0
    for i, (before, here) in enumerate(itertools.pairwise(["O", *tags, "O"])):
        (was, _, old), (part, _, new) = before.partition("-"), here.partition("-")
        ends = was in "BI" and (part in "BO" or old != new)
        begins = part == "B" or (part == "I" and (was == "O" or old != new))
        if ends:
            chunks.append((old, start, i))
        start = i if begins else start
    return chunks


def test_every_sentence_of_four_words_is_cut_as_conlleval_cuts_it():
    for tags in itertools.product(NAMES, repeat=4):
        assert entities(tags) == conlleval(tags), tags


def test_scores_by_hand():
    truth = [["B-a", "I-a", "O", "B-b"], ["B-a", "O"]]
    guess = [["B-a", "I-a", "B-b", "B-b"], ["B-b", "O"]]
    report = entity_scores(truth, guess)
    # Right: a 0-2 and b 3-4. Said: four; there: three.
    assert report["precision"] == pytest.approx(2 / 4)
    assert report["recall"] == pytest.approx(2 / 3)
    assert report["f1"] == pytest.approx(2 * 2 / 7)
    assert report["report"]["b"] == {
        "precision": pytest.approx(1 / 3),
        "recall": 1.0,
        "f1": pytest.approx(0.5),
        "support": 1,
    }
    assert entity_scores([["O"]], [["O"]])["f1"] == 0.0


def build(model, **overrides):
    base = {
        "name": "tiny",
        "task": {"name": "tagging"},
        "data": {"source": {"name": "tagged_text", "paths": ("a",)}, "text": {"seq_len": 6}},
        "model": model,
        "optim": {"name": "adamw", "learning_rate": 1e-2, "schedule": {"name": "constant"}},
        "train": {"steps": 1, "batch_size": 2},
    }
    info = DataInfo(
        kind="tagged_text",
        unit="sentences",
        spec=tagged_spec(6),
        vocab_size=257,
        separator=256,
        num_classes=len(NAMES),
        class_names=NAMES,
    )
    task = build_task(resolved(base, overrides), info, "cpu")
    return task, parallel.unbox(jax.jit(task.init)(jax.random.key(0)))


def batch_of():
    batch = {key: np.zeros((2, 6), dtype) for key, (_, dtype) in tagged_spec(6).items()}
    batch["inputs"][:] = 256
    batch["inputs"][0], batch["inputs"][1, :3] = list(b"ab cd!"), list(b"x y")
    batch["segments"][0], batch["segments"][1, :3] = 1, 1
    batch["weights"][0, [0, 2]] = batch["weights"][1, [0, 1]] = 1.0
    batch["labels"][0, [0, 2]], batch["labels"][1, [0, 1]] = [1, 2], [0, 3]
    return batch


@pytest.mark.parametrize("model", [GRU, ENCODER], ids=["gru", "encoder"])
def test_only_the_first_token_of_each_word_counts(model):
    task, variables = build(model)
    context = Context(jax.random.key(0), jnp.int32(0), False)
    score = jax.jit(lambda batch: task.loss(variables, batch, context, {}))
    logits = jax.jit(lambda batch: task.functions["logits"](variables, batch, context))
    batch = batch_of()
    loss, table = score(batch), jax.nn.log_softmax(logits(batch))
    by_hand = [table[0, 0, 1], table[0, 2, 2], table[1, 0, 0], table[1, 1, 3]]
    np.testing.assert_allclose(loss.sum, -sum(by_hand), rtol=1e-5)
    assert loss.weight == 4.0
    other = batch_of()
    other["labels"][0, 1], other["labels"][1, 4], other["inputs"][1, 4] = 4, 4, 7
    np.testing.assert_allclose(score(other).sum, loss.sum, rtol=1e-5)
    # Both ways: what stands behind a word is read.
    later = batch_of()
    later["inputs"][0, 5] = 99
    assert np.abs(logits(later)[0, 0] - logits(batch)[0, 0]).max() > 1e-6


def test_parameters_by_hand():
    task, _ = build(GRU)
    layer = 2 * (6 * 9 + 3 * 9 + 9) + 2 * 6
    assert task.params.total == 257 * 6 + 2 * layer + 2 * 6 + 6 * 5 + 5
    task, _ = build(ENCODER)
    block = 4 * 8 * 8 + 3 * 8 * 64 + 2 * 8  # attention, SwiGLU, two norms
    assert task.params.total == 257 * 8 + block + 8 + 8 * 5 + 5


def test_a_report_spells_the_entities_and_shows_wrong_sentences_first():
    rows = batch_of() | {"guess": batch_of()["labels"]}
    rows["guess"][1, 1] = 0
    report = summarize_entities(rows, NAMES, {"tokenizer": Bytes()})
    assert report["texts"] == [
        {"text": "x y", "there": "b: y", "seen": ""},
        {"text": "ab cd!", "there": "a: ab cd!", "seen": "a: ab cd!"},
    ]
    assert report["recall"] == 0.5
