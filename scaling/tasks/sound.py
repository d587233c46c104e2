"""Utterances as a model hears them: standardised log-mel spectrograms, masked in training; a sheet.

Legend: B batch, T frames of the spectrogram, M mel bands, N bands or frames, U frames of the encoder.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw

from scaling.configs import ConfigError
from scaling.data.tokenizers import Fitted
from scaling.ops.log_mel import fft_size, log_mel, mel_bank, num_frames, standardised
from scaling.tasks.base import Batch, Context

_FULL_SCALE = 2.0**15
SHOWN = 8  # utterances on a sheet
WIDE, HIGH, LINE = 3, 2, 14  # pixels of a frame, of a band, of a line of text
_RANGE = 2.5  # standard deviations from black to white


@dataclasses.dataclass(frozen=True)
class Spectrograms:
    """(log-mel spectrograms [B, T, M], frames of each [B]) of a batch's audio, by the keys of a task.

    Attributes:
      rate: samples a second.
      window_seconds: of samples under a frame.
      hop_seconds: from one frame to the next.
      bands: M.
      frequency_masks: SpecAugment (Park et al. 2019, 1904.08779): for each number a mask of up to so
        many bands, in training.
      time_masks: for each number a mask of up to such a share of the utterance's frames, in training
        (shares as in Park et al. 2020, 1912.05533).

    Raises:
      ConfigError: samples lie under no window, or a band has no frequency, or a mask is too wide.
    """

    rate: int
    window_seconds: float
    hop_seconds: float
    bands: int
    frequency_masks: tuple[int, ...] = ()
    time_masks: tuple[float, ...] = ()

    @property
    def window(self) -> int:
        """Samples under a frame."""
        return max(1, round(self.window_seconds * self.rate))

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        return max(1, round(self.hop_seconds * self.rate))

    def __post_init__(self) -> None:
        missed = self.hop - self.window
        if missed > 0:
            raise ConfigError(
                "task.hop_seconds",
                f"is longer than task.window_seconds, so that {missed} samples of {self.hop} are not "
                "heard",
                "make it at most that",
            )
        try:
            mel_bank(self.rate, fft_size(self.window), self.bands)
        except ValueError as error:
            remedy = "give fewer bands, or longer task.window_seconds"
            raise ConfigError("task.mel_bands", str(error), remedy) from error
        widest = max(self.frequency_masks, default=0)
        if widest > self.bands:
            raise ConfigError(
                "task.frequency_masks",
                f"{widest} bands are more than the {self.bands} of task.mel_bands",
                "make the mask narrower",
            )

    def __call__(self, batch: Batch, context: Context) -> tuple[jax.Array, jax.Array]:  # noqa: D102
        audio_BS, count_B = batch["audio"].astype(jnp.float32) / _FULL_SCALE, batch["num_samples"]
        x_BTM = log_mel(audio_BS, count_B, self.rate, self.window, self.hop, self.bands)
        frames_B = num_frames(count_B, self.hop)
        x_BTM = standardised(x_BTM, frames_B)
        if context.train:
            # A key of its own: the model draws its dropout from context.rng.
            rng = jax.random.fold_in(context.rng, 1)
            x_BTM = masked(x_BTM, frames_B, rng, self.frequency_masks, self.time_masks)
        return x_BTM, frames_B


def masked(
    x_BTM: jax.Array,
    frames_B: jax.Array,
    rng: jax.Array,
    frequency_masks: Sequence[int],
    time_masks: Sequence[float],
) -> jax.Array:
    """Spectrograms with bands and frames at 0, their mean; see `Spectrograms`.

    A mask's width is uniform from 0 to its largest, its place uniform among those that fit.
    """
    count, length, bands = x_BTM.shape

    def mask(rng: jax.Array, size: int, whole_B: jax.Array, largest_B: jax.Array) -> jax.Array:
        width, place = jax.random.split(rng)
        width_B = jax.random.randint(width, (count,), 0, largest_B + 1)
        first_B = jax.random.randint(place, (count,), 0, whole_B - width_B + 1)
        at_1N = jnp.arange(size)[None]
        return (at_1N >= first_B[:, None]) & (at_1N < (first_B + width_B)[:, None])

    keys = iter(jax.random.split(rng, max(1, len(frequency_masks) + len(time_masks))))
    for width in frequency_masks:
        whole_B = jnp.full((count,), bands)
        hidden_BM = mask(next(keys), bands, whole_B, jnp.full((count,), min(width, bands)))
        x_BTM = jnp.where(hidden_BM[:, None], 0.0, x_BTM)
    for share in time_masks:
        hidden_BT = mask(next(keys), length, frames_B, (share * frames_B).astype(jnp.int32))
        x_BTM = jnp.where(hidden_BT[:, :, None], 0.0, x_BTM)
    return x_BTM


def sheet(
    rows: Mapping[str, np.ndarray], said: list[str], heard: list[str], tokenizer: Fitted, blank: int
) -> np.ndarray:
    """The first utterances one below the other, as wide as the longest of them, uint8[H, W, 3].

    Above each spectrogram (high frequencies on top) stand both texts, below it each symbol under the
    frame where it is first heard.

    Args:
      rows: `features` [n, T, M], `best` [n, U], and how many frames of each count: `sound`, `frames`.
      said: texts of the rows.
      heard: what they were taken for.
      tokenizer: spells symbols.
      blank: the symbol that stands for none.
    """
    panels = []
    padded, longest = rows["features"].shape[1], max(rows["sound"][:SHOWN])
    for row in range(min(SHOWN, len(said))):
        inside_T1 = (np.arange(longest) < rows["sound"][row])[:, None]
        features_TM = rows["features"][row, :longest] * inside_T1
        grey_MT = np.clip(128 + 128 * features_TM.T[::-1] / _RANGE, 0, 255).astype(np.uint8)
        picture = np.kron(grey_MT, np.ones((HIGH, WIDE), np.uint8))
        height, width = picture.shape
        panel = Image.new("L", (width, height + 2 * LINE), 255)
        panel.paste(Image.fromarray(picture), (0, LINE))
        draw = ImageDraw.Draw(panel)
        draw.text((2, 0), f"{said[row]} | {heard[row]}", fill=0)
        path_U = rows["best"][row][: rows["frames"][row]]
        starts = np.flatnonzero((path_U != blank) & (path_U != np.append(blank, path_U[:-1])))
        for u in starts:
            left = u * padded * WIDE // rows["best"].shape[1]
            draw.text((left, height + LINE), tokenizer.decode(path_U[u : u + 1]), fill=0)
        panels.append(np.asarray(panel))
    return np.repeat(np.concatenate(panels)[..., None], 3, axis=2)
