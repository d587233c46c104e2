"""Log-mel spectrograms on the device.

Legend: B batch, S samples, T frames, W samples of a window, K frequencies, M mel bands.
"""

from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

Count = TypeVar("Count", int, jax.Array)

# Added to the power of a band, of samples in [-1, 1]; far above what rounding to 16 bits leaves
# (2^-30 / 12 at each frequency).
FLOOR = 1e-8
# Added to the variance of a band over an utterance.
EPSILON = 1e-5


def log_mel(
    audio_BS: jax.Array, num_samples_B: jax.Array, rate: int, window: int, hop: int, bands: int
) -> jax.Array:
    """The log of the power in mel bands, float32[B, T, M], T = ceil(S / hop).

    Frame t is of samples t hop to t hop + W under a Hann window (periodic); behind the last sample
    stand zeros, whatever the array holds there. The bands are HTK's: triangles of height 1 at equal
    steps of 2595 log10(1 + f / 700) from 0 to half of the rate.

    Args:
      audio_BS: samples in [-1, 1].
      num_samples_B: how many of each row there are; int32.
      rate: samples a second.
      window: W.
      hop: samples from one frame to the next.
      bands: M.
    """
    length = audio_BS.shape[1]
    frames = num_frames(length, hop)
    inside_BS = jnp.arange(length)[None] < num_samples_B[:, None]
    audio_BS = jnp.where(inside_BS, audio_BS.astype(jnp.float32), 0.0)
    audio_BS = jnp.pad(audio_BS, ((0, 0), (0, (frames - 1) * hop + window - length)))
    places_TW = np.arange(frames)[:, None] * hop + np.arange(window)[None]
    hann_W = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    frames_BTW = audio_BS[:, places_TW] * hann_W[None, None].astype(np.float32)
    size = fft_size(window)
    wave_BTK = jnp.fft.rfft(frames_BTW, size)
    power_BTK = (jnp.square(wave_BTK.real) + jnp.square(wave_BTK.imag)) / np.sum(hann_W**2)
    bank_KM = mel_bank(rate, size, bands).astype(np.float32)
    # In float32 whatever the platform prefers: powers span eight decimal places.
    power_BTM = jnp.matmul(power_BTK, bank_KM, precision=jax.lax.Precision.HIGHEST)
    return jnp.log(power_BTM + FLOOR)


def standardised(features_BTM: jax.Array, frames_B: jax.Array) -> jax.Array:
    """Each band with mean 0 and variance 1 over the frames of the utterance; padding is 0."""
    inside_BT1 = (jnp.arange(features_BTM.shape[1])[None] < frames_B[:, None])[..., None]
    count_B11 = jnp.maximum(frames_B, 1).astype(jnp.float32)[:, None, None]
    mean_B1M = jnp.sum(jnp.where(inside_BT1, features_BTM, 0.0), axis=1, keepdims=True) / count_B11
    centred_BTM = jnp.where(inside_BT1, features_BTM - mean_B1M, 0.0)
    variance_B1M = jnp.sum(jnp.square(centred_BTM), axis=1, keepdims=True) / count_B11
    return centred_BTM * jax.lax.rsqrt(variance_B1M + EPSILON)


def num_frames(samples: Count, hop: int) -> Count:
    """Frames of so many samples: ceil(samples / hop)."""
    return -(-samples // hop)


def fft_size(window: int) -> int:
    """The power of two that a window is padded to."""
    return 1 << (window - 1).bit_length()


def mel_bank(rate: int, size: int, bands: int) -> np.ndarray:
    """Weights of the frequencies of a transform of `size` in each band, float64[K, M].

    Raises:
      ValueError: a band is so narrow that no frequency falls into it.
    """
    edges = 700.0 * (10.0 ** (np.linspace(0.0, mel(rate / 2), bands + 2) / 2595.0) - 1.0)
    low_M, middle_M, high_M = edges[:-2], edges[1:-1], edges[2:]
    at_K1 = np.linspace(0.0, rate / 2, size // 2 + 1)[:, None]
    rising_KM = (at_K1 - low_M) / (middle_M - low_M)
    falling_KM = (high_M - at_K1) / (high_M - middle_M)
    bank_KM = np.maximum(0.0, np.minimum(rising_KM, falling_KM))
    empty = np.flatnonzero(bank_KM.sum(axis=0) == 0.0)
    if len(empty):
        raise ValueError(
            f"no frequency of a transform of {size} samples at {rate:,} a second falls into mel band "
            f"{empty[0]} of {bands}"
        )
    return bank_KM


def mel(hertz: float) -> float:
    """HTK's scale of pitch."""
    return float(2595.0 * np.log10(1.0 + hertz / 700.0))
