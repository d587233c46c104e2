"""CTC against all alignments one by one, decoding and SpecAugment by their definitions."""

import functools
import importlib.util
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import resolved

from scaling.configs import ConfigError
from scaling.data import DataInfo
from scaling.data.sources.utterances import utterance_spec
from scaling.data.tokenizers import Bytes
from scaling.data.words import FittedWords
from scaling.tasks.base import Context, build_task
from scaling.tasks.sound import HIGH, LINE, WIDE, masked, sheet
from scaling.tasks.speech import collapsed, error_rates, texts

RATE, SAMPLES, SYMBOLS, BLANK = 200, 40, 3, 256
TIGHTEST = [[2, 20, "a.csv, line 2"]]


def config(**overrides):
    base = {
        "name": "tiny",
        "task": {"name": "speech", "hop_seconds": 0.02, "window_seconds": 0.04, "mel_bands": 4},
        "data": {"source": {"name": "utterances", "paths": ("a.csv",)}},
        "model": {
            "name": "speech_gru",
            "channels": 2,
            "model_dim": 4,
            "num_layers": 1,
            "dropout": 0.0,
            "time_strides": (2, 1),
        },
        "optim": {"name": "adamw", "learning_rate": 1e-2, "schedule": {"name": "constant"}},
        "train": {"steps": 1, "batch_size": 2},
    }
    return resolved(base, overrides)


def build(tightest=TIGHTEST, **overrides):
    info = DataInfo(
        kind="utterances",
        unit="utterances",
        spec=utterance_spec(SAMPLES, SYMBOLS),
        vocab_size=BLANK + 1,
        separator=BLANK,
        facts={"sample_rate": RATE, "tightest": tightest},
    )
    return build_task(config(**overrides), info, "cpu")


@pytest.fixture(scope="module")
def case():
    task = build()
    variables = jax.jit(task.init)(jax.random.key(0))
    variables = jax.tree.map(
        lambda x: 3.0 * x.value if hasattr(x, "value") else x,
        variables,
        is_leaf=lambda x: hasattr(x, "value"),
    )
    rng = np.random.default_rng(0)
    batch = {
        "audio": rng.integers(-9000, 9000, (3, SAMPLES)).astype(np.int16),
        "num_samples": np.array([40, 22, 40], np.int32),  # 10, 6, 10 frames: 5, 3, 5 of the model
        "labels": np.array([[98, 98, BLANK], [97, 98, BLANK], [97, 98, 99]], np.int32),
        "num_labels": np.array([2, 2, 3], np.int32),
        "weights": np.array([1.0, 1.0, 0.0], np.float32),
    }
    context = Context(jax.random.key(0), jnp.int32(0), False)
    loss = jax.jit(lambda batch: task.loss(variables, batch, context, {}))
    logits = jax.jit(lambda batch: task.functions["logits"](variables, batch, context))
    return loss, logits, batch


def over_all_alignments(logits_UV, labels, symbols):
    """-log of the sum of the probabilities of all paths over `symbols` that spell the labels."""
    log_p_UV = np.asarray(jax.nn.log_softmax(logits_UV), np.float64)
    total = -np.inf
    for path in itertools.product(symbols, repeat=len(log_p_UV)):
        merged = [s for s, _ in itertools.groupby(path)]
        if [s for s in merged if s != BLANK] == list(labels):
            total = np.logaddexp(total, sum(log_p_UV[u, s] for u, s in enumerate(path)))
    return -total


def test_the_loss_is_a_sum_over_all_alignments(case):
    loss, logits, batch = case
    logits_BUV = logits(batch)
    assert logits_BUV.shape == (3, 5, BLANK + 1)
    # Paths go through the labels' symbols and the blank alone: others spell something else.
    first = over_all_alignments(logits_BUV[0], [98, 98], [98, BLANK])
    second = over_all_alignments(logits_BUV[1, :3], [97, 98], [97, 98, BLANK])
    assert abs(first - second) > 0.1
    np.testing.assert_allclose(loss(batch).sum, first + second, rtol=1e-5)
    assert loss(batch).weight == 2.0


def test_silence_behind_an_utterance_changes_nothing(case):
    loss, _, batch = case
    whole = loss(batch)
    noisy = {**batch, "audio": batch["audio"].copy()}
    noisy["audio"][1, 22:] = 5000  # what stands behind the last sample is not read
    np.testing.assert_allclose(loss(noisy).sum, whole.sum, rtol=1e-6)
    longer = {**batch, "audio": np.pad(batch["audio"], ((0, 0), (0, 17)))}
    np.testing.assert_allclose(loss(longer).sum, whole.sum, rtol=1e-5)


def test_decoding_drops_repeats_then_blanks():
    path = np.array([BLANK, 98, 98, BLANK, 98, 97, 97, BLANK])
    assert bytes(collapsed(path, BLANK).tolist()) == b"bba"
    rows = {
        "best": np.array([path, path]),
        "frames": np.array([8, 3]),
        "labels": np.array([[98, 98, 97], [98, BLANK, BLANK]]),
        "num_labels": np.array([3, 1]),
    }
    assert texts(rows, Bytes(), BLANK) == (["bba", "b"], ["bba", "b"])


def test_an_unknown_word_is_never_right():
    words = FittedWords(("one", "two"), 4, lowercase=True)
    rows = {
        "best": np.array([[0, 2]]),
        "frames": np.array([2]),
        "labels": np.array([[0, 2]]),
        "num_labels": np.array([2]),
    }
    said, heard = texts(rows, words, blank=3)
    assert error_rates(said, heard)["wer"] == 0.5


def test_error_rates_are_over_all_words_and_letters():
    said = ["one two", "three", "four five six"]
    heard = ["one too", "", "four five six"]
    report = error_rates(said, heard)
    assert report["wer"] == pytest.approx(2 / 6)
    assert report["cer"] == pytest.approx((1 + 5) / (7 + 5 + 13))
    assert report["accuracy"] == pytest.approx(1 / 3)
    assert report["transcripts"] == [
        "one two | one too",
        "three | ",
        "four five six | four five six",
    ]


def test_a_sheet_shows_each_symbol_under_the_frame_where_it_is_first_heard():
    # The longest has 16 of 20 frames: the sheet ends there.
    features = np.zeros((2, 20, 4), np.float32)
    features[:, 5, 3] = 10.0  # the highest band
    features[1, 12:] = 10.0  # behind the utterance
    best = np.full((2, 10), BLANK)
    best[:, 4:6] = 98
    rows = {"features": features, "best": best, "sound": np.array([16, 12]), "frames": [8, 6]}
    picture = sheet(rows, ["b", "b"], ["b", "b"], Bytes(), BLANK)
    panel = 4 * HIGH + 2 * LINE
    assert picture.shape == (2 * panel, 16 * WIDE, 3)
    assert picture.dtype == np.uint8
    for top in (0, panel):
        sound = picture[top + LINE : top + LINE + 4 * HIGH, :, 0]
        np.testing.assert_array_equal(np.argwhere(sound == 255).min(axis=0), [0, 5 * WIDE])
        assert (sound == 255).sum() == HIGH * WIDE
        below = picture[top + LINE + 4 * HIGH : top + panel, :, 0] < 128
        columns = np.flatnonzero(below.any(axis=0))
        assert 4 * 2 * WIDE <= columns.min() < columns.max() < 4 * 2 * WIDE + 10  # one letter


def test_masks_are_as_wide_as_allowed_and_inside_the_utterance():
    x_BTM = jnp.ones((500, 20, 10))
    frames_B = jnp.where(jnp.arange(500) % 2 == 0, 20, 10)
    bands = masked(x_BTM, frames_B, jax.random.key(0), (4,), ())
    hidden_BM = np.all(np.asarray(bands) == 0, axis=1)
    assert (np.any(np.asarray(bands) == 0, axis=1) == hidden_BM).all()  # whole bands
    widths = hidden_BM.sum(axis=1)
    assert set(widths) == set(range(5))
    assert set(np.flatnonzero(hidden_BM.any(axis=0))) == set(range(10))
    times = masked(x_BTM, frames_B, jax.random.key(0), (), (0.4,))
    hidden_BT = np.all(np.asarray(times) == 0, axis=2)
    assert set(hidden_BT.sum(axis=1)[::2]) == set(range(9))
    assert set(hidden_BT.sum(axis=1)[1::2]) == set(range(5))  # a share of ten frames
    assert not hidden_BT[1::2, 10:].any()
    assert hidden_BT[1::2, :10].any(axis=0).all()
    both = masked(x_BTM, frames_B, jax.random.key(0), (4, 4), (0.4,))
    assert (np.asarray(both) == 0).sum() > (np.asarray(bands) == 0).sum()
    np.testing.assert_array_equal(masked(x_BTM, frames_B, jax.random.key(0), (), ()), x_BTM)


def test_masks_are_a_function_of_the_key_and_off_in_evaluation(case):
    batch = case[2]
    task = build(**{"task.frequency_masks": (3,), "task.time_masks": (0.5,)})
    variables = jax.tree.map(
        lambda x: x.value,
        jax.jit(task.init)(jax.random.key(0)),
        is_leaf=lambda x: hasattr(x, "names"),
    )

    @functools.partial(jax.jit, static_argnums=1)
    def total(seed, train):
        context = Context(jax.random.key(seed), jnp.int32(0), train)
        return task.loss(variables, batch, context, {}).sum

    assert total(0, True) == total(0, True) != total(1, True)
    assert total(0, False) == total(1, False)


def test_a_text_that_does_not_fit_its_frames_is_refused_with_its_line():
    build(tightest=[[5, 40, "a.csv, line 2"], [2, 16, "a.csv, line 3"]])
    with pytest.raises(
        ConfigError, match=r"a.csv, line 3: has 0.04 seconds(?s:.*) 1 frames.* needs 2"
    ):
        build(tightest=[[5, 40, "a.csv, line 2"], [2, 8, "a.csv, line 3"]])


def test_a_model_that_hears_nothing_is_refused():
    model = {"name": "transformer", "model_dim": 4, "num_heads": 2, "num_layers": 1}
    with pytest.raises(ConfigError, match=r"model\.name: transformer has no encoder_frames"):
        build(model=model)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("mel_bands", 40, r"task\.mel_bands(?s:.*)no frequency(?s:.*)fewer bands"),
        ("frequency_masks", (2, 5), r"task\.frequency_masks: 5 bands are more than the 4"),
        ("hop_seconds", 0.05, r"task\.hop_seconds: is longer than(?s:.*)2 samples of 10"),
    ],
)
def test_frames_that_lose_something_are_refused(key, value, message):
    with pytest.raises(ConfigError, match=message):
        build(**{f"task.{key}": value})


def test_without_its_library_error_rates_are_refused_before_any_work(monkeypatch):
    whole = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "jiwer" else whole(name)
    )
    build()
    with pytest.raises(
        ConfigError, match=r"eval\.also\.errors: needs jiwer(?s:.*)scaling\[metrics\]"
    ):
        build(**{"eval.also": {"errors": {"evaluation": "transcribe"}}})
