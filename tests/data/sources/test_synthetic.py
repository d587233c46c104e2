"""The made-up text is the ground truth of every law fitted in this project, so it is tested hard."""

import itertools
import pathlib

import numpy as np
import pytest

from scaling.data.errors import DataError
from scaling.data.feistel import derive_key
from scaling.data.info import DataContext
from scaling.data.sources.synthetic import TRAIN_EXAMPLES, SyntheticZipf
from scaling.experiment import DataConfig, TextConfig

SMALL = SyntheticZipf(base=3, digits=2, attributes=2, noise=0.3)


def tokens_of(dataset, indices):
    batch = dataset.gather(np.asarray(indices))
    return np.concatenate([batch["inputs"], batch["targets"][:, -1:]], axis=1)


def all_sentences(source):
    """Every sentence that the language has, and its probability by the definition."""
    ranks = np.arange(1, source.subjects + 1)
    survival = np.arange(1, source.subjects + 2.0) ** -source.skew
    prior = -np.diff(survival) / (1 - survival[-1])
    sentences, probabilities = [], []
    for rank, p in zip(ranks, prior, strict=True):
        digits = [
            place * source.base
            + (rank - 1) // source.base ** (source.digits - 1 - place) % source.base
            for place in range(source.digits)
        ]
        facts = source._facts(np.array([rank]))[0]
        for values in itertools.product(range(source.base), repeat=source.attributes):
            hits = np.array(values) == facts
            q = np.where(hits, 1 - source.noise, 0.0) + source.noise / source.base
            sentences.append(digits + [source.base * source.digits + v for v in values])
            probabilities.append(p * q.prod())
    return np.array(sentences), np.array(probabilities)


def test_entropy_rate_equals_the_sum_over_all_sentences():
    _, p = all_sentences(SMALL)
    assert p.sum() == pytest.approx(1.0)
    exact = -(p * np.log(p)).sum() / SMALL.sentence
    assert SMALL.entropy_rate() == pytest.approx(exact, rel=1e-12)
    for multiple in (1, 2, 10):
        assert SMALL.entropy_rate(multiple * SMALL.sentence) == pytest.approx(exact, rel=1e-12)


def test_log_probs_are_those_of_the_definition():
    sentences, p = all_sentences(SMALL)
    after = np.concatenate([sentences, sentences], axis=1)[:, : SMALL.sentence + 1]
    log_probs = SMALL.log_probs(after)
    first = np.log([p[sentences[:, 0] == s[0]].sum() for s in sentences])
    np.testing.assert_allclose(first + log_probs[:, :-1].sum(1), np.log(p), rtol=1e-10)
    np.testing.assert_allclose(log_probs[:, -1], first, rtol=1e-10)  # the next sentence begins


def test_sentences_have_the_frequencies_of_the_definition():
    sentences, p = all_sentences(SMALL)
    n = 200_000
    drawn = SMALL.sentences(np.arange(n))
    code = (SMALL.vocab_size + 1) ** np.arange(SMALL.sentence)
    position = {int(s @ code): i for i, s in enumerate(sentences)}
    counts = np.bincount([position[c] for c in (drawn @ code).tolist()], minlength=len(p))
    chi2 = ((counts - n * p) ** 2 / (n * p)).sum()
    freedom = len(p) - 1
    assert chi2 < freedom + 4 * np.sqrt(2 * freedom)


@pytest.mark.parametrize(
    "source",
    [
        SyntheticZipf(),
        SyntheticZipf(skew=1.0),
        SyntheticZipf(skew=0.25, base=16, digits=3, noise=0.5),
        SyntheticZipf(skew=2.0, base=256, digits=1, attributes=1),
    ],
)
@pytest.mark.parametrize("extra", [0, 3])
def test_monte_carlo_of_the_true_model_gives_the_entropy_rate(source, extra):
    seq_len = 16 * source.sentence + extra
    tokens = tokens_of(source.windows(seq_len, False, held_out=False), np.arange(3000))
    nll = -source.log_probs(tokens).mean(axis=1)
    error = nll.std() / np.sqrt(len(nll))
    assert abs(nll.mean() - source.entropy_rate(seq_len)) < 4 * error
    assert error < 0.02 * nll.mean()


def test_an_example_depends_on_its_number_alone():
    a, b = (SyntheticZipf().windows(64, True, held_out=False) for _ in range(2))
    index = np.array([5, 123_456_789_012, 7, TRAIN_EXAMPLES - 1])
    batch = a.gather(index)
    for row, i in enumerate(index):
        for key, values in b.gather(np.array([i])).items():
            np.testing.assert_array_equal(values[0], batch[key][row])
    assert batch["segments"].max() == 1
    np.testing.assert_array_equal(batch["positions"][0], np.arange(64))
    np.testing.assert_array_equal(batch["inputs"][:, 1:], batch["targets"][:, :-1])


def test_never_changes():
    # Laws fitted to runs on this text compare only while the text stays what it is.
    assert derive_key(0, "synthetic_zipf", "stream") == 0x66F57C63E5BAAD07
    assert SyntheticZipf().sentences(np.array([0, 1, 2**50])).tolist() == [
        [0, 64, 135, 219, 299, 288, 304, 313],
        [0, 64, 128, 229, 278, 278, 297, 319],
        [0, 64, 129, 203, 260, 274, 269, 271],
    ]


def test_training_and_held_out_examples_have_other_numbers():
    source = SyntheticZipf(base=16, digits=2, eval_examples=50)
    train = source.windows(60, False, held_out=False)
    held = source.windows(60, False, held_out=True)
    assert len(train) == TRAIN_EXAMPLES
    assert len(held) == 50
    # The last training example ends, in sentences, before the first held-out one begins.
    per_example = -(-61 // source.sentence)
    assert (TRAIN_EXAMPLES - 1) * per_example + per_example - 1 < TRAIN_EXAMPLES * per_example
    a = {row.tobytes() for row in tokens_of(train, np.arange(5000))}
    b = {row.tobytes() for row in tokens_of(held, np.arange(50))}
    assert not a & b
    assert len(source.windows(60, False, held_out=False, limit=610)) == 10


def test_languages_have_other_facts_and_streams():
    a, b = SyntheticZipf(), SyntheticZipf(language=1)
    ranks = np.arange(1, 1000)
    assert (a._facts(ranks) == b._facts(ranks)).mean() < 0.05
    assert (a.sentences(ranks) == b.sentences(ranks)).mean() < 0.6


def test_says_what_it_is():
    info = SyntheticZipf().describe(
        DataContext(DataConfig(text=TextConfig(seq_len=64)), 0, 4, pathlib.Path())
    )
    assert info.vocab_size == 320
    assert info.entropy_rate == pytest.approx(SyntheticZipf().entropy_rate(), rel=1e-12)
    assert SyntheticZipf().sentences(np.arange(1000)).max() < 320
    with pytest.raises(DataError, match="lower one"):
        SyntheticZipf(base=1000, digits=3)


def counts_of(keys, queries):
    """How often each query occurs among the keys."""
    values, counts = np.unique(keys, return_counts=True)
    place = np.minimum(np.searchsorted(values, queries), len(values) - 1)
    return np.where(values[place] == queries, counts[place], 0)


def count_model_nll(source, train, held):
    """-log p of a smoothed count of (what came before in the sentence, token), [n, sentence]."""
    out = []
    before_train, before_held = np.zeros((2, 1), np.int64)
    for place in range(source.sentence):
        token_train, token_held = (x[:, place].astype(np.int64) for x in (train, held))
        seen = counts_of(np.broadcast_to(before_train, token_train.shape), before_held)
        pairs = counts_of(
            before_train * source.vocab_size + token_train,
            before_held * source.vocab_size + token_held,
        )
        smoothing = 0.5 if place < source.digits else 0.02
        out.append(-np.log((pairs + smoothing) / (seen + smoothing * source.base)))
        if place < source.digits:  # attributes do not depend on each other
            base = source.vocab_size
            before_train = before_train * base + token_train
            before_held = before_held * base + token_held
        else:
            before_train = before_train + base**source.digits  # another table for each attribute
            before_held = before_held + base**source.digits
    return np.stack(np.broadcast_arrays(*out), axis=1)


@pytest.mark.parametrize(("skew", "tolerance"), [(0.5, 0.025), (1.0, 0.05)])
def test_excess_of_a_count_model_falls_as_the_power_law_that_is_promised(skew, tolerance):
    source = SyntheticZipf(skew=skew)
    held = source.sentences(np.arange(2**50, 2**50 + 60_000))
    followed = np.concatenate([held, held[:, :1]], axis=1)
    truth = -np.roll(source.log_probs(followed), 1, axis=1)
    sizes = np.array([3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000])
    everything = source.sentences(np.arange(sizes[-1]))
    excess = np.array(
        [(count_model_nll(source, everything[:size], held) - truth).mean() for size in sizes]
    )
    slope, intercept = np.polyfit(np.log(sizes), np.log(excess), 1)
    assert slope == pytest.approx(-skew / (1 + skew), abs=tolerance)
    residual = np.log(excess) - slope * np.log(sizes) - intercept
    assert np.abs(residual).max() < 0.1  # a straight line over 2.5 decades, within 10 %
    assert (excess > 0).all()
