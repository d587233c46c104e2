"""Log-mel spectrograms against sums written out in float64, and that padding changes nothing."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.ops.log_mel import FLOOR, log_mel, mel_bank, num_frames, standardised

RATE, WINDOW, HOP, BANDS = 8000, 50, 20, 6


def by_hand(samples, rate, window, hop, bands):
    """The log-mel spectrogram of one utterance, term by term."""
    size = 2 ** math.ceil(math.log2(window))
    hann = [0.5 - 0.5 * math.cos(2 * math.pi * n / window) for n in range(window)]
    top = 2595 * math.log10(1 + rate / 2 / 700)
    edges = [700 * (10 ** (top * i / (bands + 1) / 2595) - 1) for i in range(bands + 2)]
    out = np.zeros((math.ceil(len(samples) / hop), bands))
    for t in range(len(out)):
        frame = [
            hann[n] * samples[t * hop + n] if t * hop + n < len(samples) else 0.0
            for n in range(window)
        ]
        for m in range(bands):
            total = 0.0
            for k in range(size // 2 + 1):
                f, (low, middle, high) = k * rate / size, edges[m : m + 3]
                weight = max(0.0, min((f - low) / (middle - low), (high - f) / (high - middle)))
                if not weight:
                    continue
                value = sum(
                    x * complex(math.cos(a), math.sin(a))
                    for n, x in enumerate(frame)
                    for a in [-2 * math.pi * k * n / size]
                )
                total += weight * abs(value) ** 2 / sum(h * h for h in hann)
            out[t, m] = math.log(total + FLOOR)
    return out


@pytest.fixture(scope="module")
def audio():
    return np.random.default_rng(0).uniform(-1, 1, (2, 150)).astype(np.float32)


def test_against_sums_written_out(audio):
    counts = np.array([150, 93])
    got = jax.jit(log_mel, static_argnums=(2, 3, 4, 5))(audio, counts, RATE, WINDOW, HOP, BANDS)
    assert got.shape == (2, 8, BANDS)
    for row, count in enumerate(counts):
        expected = by_hand(audio[row, :count].astype(float), RATE, WINDOW, HOP, BANDS)
        assert len(expected) == num_frames(int(count), HOP)
        np.testing.assert_allclose(got[row, : len(expected)], expected, rtol=2e-5, atol=2e-5)


def test_white_noise_has_the_power_of_its_samples():
    noise = np.random.default_rng(0).normal(0, 0.1, (1, 200_000)).astype(np.float32)
    got = log_mel(noise, jnp.array([200_000]), RATE, 200, 80, 20)
    width_M = mel_bank(RATE, 256, 20).sum(axis=0)
    np.testing.assert_allclose(np.mean(np.exp(got[0]), axis=0) / width_M, 0.01, rtol=0.1)


def test_what_stands_behind_an_utterance_counts_for_nothing(audio):
    def features(rows, counts):
        features_BTM = log_mel(rows, counts, RATE, WINDOW, HOP, BANDS)
        return standardised(features_BTM, num_frames(counts, HOP))

    counts = jnp.array([100, 61])
    short = features(audio[:, :100], counts)
    long = features(audio, counts)  # other samples stand behind
    np.testing.assert_allclose(long[:, : short.shape[1]], short, atol=1e-6)
    assert not long[:, short.shape[1] :].any()
    frames = num_frames(61, HOP)
    np.testing.assert_allclose(short[1, :frames].mean(axis=0), 0.0, atol=1e-5)
    np.testing.assert_allclose(short[1, :frames].std(axis=0), 1.0, atol=1e-3)
    assert not short[1, frames:].any()


def test_silence_is_finite_and_has_a_gradient():
    def total(audio_BS):
        features_BTM = log_mel(audio_BS, jnp.array([100]), RATE, WINDOW, HOP, BANDS)
        return jnp.sum(standardised(features_BTM, jnp.array([5])))

    value, grad = jax.value_and_grad(total)(jnp.zeros((1, 100)))
    assert np.isfinite(value)
    assert np.isfinite(grad).all()


def test_a_band_without_a_frequency_is_refused():
    with pytest.raises(ValueError, match=r"band \d+ of 100"):
        mel_bank(8000, 256, 100)
