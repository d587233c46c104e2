"""A sheet of spectrograms, each with what was said, what was heard, and where.

Legend: T frames of the spectrogram, M mel bands, U frames of the encoder.
"""

from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw

from scaling.data.tokenizers import Fitted

SHOWN = 8  # utterances on a sheet
WIDE, HIGH, LINE = 3, 2, 14  # pixels of a frame, of a band, of a line of text
_RANGE = 2.5  # standard deviations from black to white


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
