"""What a classifier takes for what: the most frequent mistakes, and a picture of the confusion matrix.

Legend: K classes; rows of a confusion matrix are the truth, columns the guess.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

SHOWN = 40  # classes in a picture
LISTED = 10  # mistakes in the list
WIDE, HIGH, LETTER, LONGEST = 32, 16, 7, 32  # pixels of a cell and of a letter; letters of a name
# Colours of a cell that holds all examples of its class.
RIGHT = np.array([31, 119, 180])
WRONG = np.array([214, 39, 40])


def mistakes(confusion_KK: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    """The most frequent mistakes, the first of them the most frequent."""
    wrong_KK = confusion_KK * (1 - np.eye(len(confusion_KK)))
    order = np.argsort(-wrong_KK, axis=None, kind="stable")[:LISTED]
    pairs = zip(*np.unravel_index(order, wrong_KK.shape), strict=True)
    return [
        {"label": names[i], "guess": names[j], "examples": int(wrong_KK[i, j])}
        for i, j in pairs
        if wrong_KK[i, j]
    ]


def picture(confusion_KK: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """A row for each class with the examples that were taken for each, uint8[H, W, 3].

    A cell is darker the more of its class it holds, blue on the diagonal and red beside it. Columns
    have the numbers of the classes. Of more than `SHOWN` classes those with the most mistakes are
    there, in their order.
    """
    hits_K = np.diag(confusion_KK)
    wrong_K = confusion_KK.sum(axis=0) + confusion_KK.sum(axis=1) - 2 * hits_K
    shown = np.sort(np.argsort(-wrong_K, kind="stable")[:SHOWN])
    share_KK = confusion_KK / np.maximum(confusion_KK.sum(axis=1, keepdims=True), 1)
    titles = [f"{k} {names[k]}"[:LONGEST] for k in shown]
    left = LETTER * (max(map(len, titles)) + 1)
    size = (left + WIDE * len(shown), HIGH * (len(shown) + 1))
    canvas = Image.new("RGB", size, (255, 255, 255))
    draw = ImageDraw.Draw(canvas)
    for row, i in enumerate(shown, 1):
        draw.text((2, HIGH * row + 2), titles[row - 1], fill=0)
        draw.text((left + WIDE * (row - 1) + 2, 2), str(i), fill=0)
        for column, j in enumerate(shown):
            if not confusion_KK[i, j]:
                continue
            depth = np.sqrt(share_KK[i, j])  # so that single examples are seen
            colour = 255 - depth * (255 - (RIGHT if i == j else WRONG))
            corner = (left + WIDE * column, HIGH * row)
            draw.rectangle(
                (*corner, corner[0] + WIDE - 2, corner[1] + HIGH - 2), tuple(map(int, colour))
            )
            ink = (255, 255, 255) if depth > 0.7 else 0
            draw.text((corner[0] + 2, corner[1] + 2), f"{confusion_KK[i, j]:.0f}", fill=ink)
    return np.asarray(canvas)
