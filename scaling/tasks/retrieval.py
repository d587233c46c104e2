"""How well one half of a pair finds the other: recall both ways, a linear probe, a sheet.

Legend: N held-out pairs, D width of the space, K classes.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from scaling.tasks.base import Batch, Context, Evaluation, Variables, without_carry
from scaling.tasks.pictures import sheet

TOP = (1, 5)
RIDGE = 1e-3  # of the probe, times the number of examples
SHOWN = 10  # queries on the sheet, and what each finds


def retrieval(
    vectors: Callable[[Variables, Batch, Context], tuple[jax.Array, ...]], images: str | None
) -> Evaluation:
    """All held-out pairs of its batches together are the gallery; see `summarize`.

    Args:
      vectors: unit vectors of both sides of a batch.
      images: key of the images in a batch, where one side are images.
    """

    def run(variables: Variables, batch: Batch, context: Context) -> dict[str, jax.Array]:
        first, second = vectors(variables, batch, context)
        rows = {"first": first, "second": second, "labels": batch["labels"]}
        return rows | ({"images": batch[images]} if images else {})

    return Evaluation(without_carry(run), summarize, keeps="rows", least=2)


def summarize(rows: Mapping[str, np.ndarray], _: object = None) -> dict[str, Any]:
    """Recall at 1 and 5 both ways beside chance, the probe's accuracy on both sides, a sheet.

    The gallery of an example is its partner and every held-out partner of another class, so exactly
    one is right; `gallery` is the mean size, and `chance_recall` what guessing gives. `first_probe` and
    `second_probe` are of `probe_accuracy`. On the sheet stand, for an example of each of the first ten
    classes, the ten images of all classes that are nearest to it.

    Args:
      rows: unit vectors "first" and "second" [N, D], "labels" [N], and maybe "images" (uint8).
    """
    first, second, labels = rows["first"], rows["second"], rows["labels"]
    scores_NN = first.astype(np.float64) @ second.T.astype(np.float64)
    ways = {"first_to_second": scores_NN, "second_to_first": scores_NN.T}
    others_N = np.array([np.sum(labels != label) for label in labels])
    report: dict[str, Any] = {"gallery": float(np.mean(others_N + 1.0)), "pairs": len(labels)}
    for name, scores in ways.items():
        before_N = places(scores, labels)
        report |= {f"{name}_recall{k}": float(np.mean(before_N < k)) for k in TOP}
    for k in TOP:
        report[f"chance_recall{k}"] = float(np.mean(np.minimum(1.0, k / (others_N + 1.0))))
    for name in ("first", "second"):
        report[f"{name}_probe"] = probe_accuracy(rows[name], labels)
    if "images" in rows:
        shown = [int(np.argmax(labels == label)) for label in np.unique(labels)[:SHOWN]]
        nearest = np.argsort(-scores_NN[shown], axis=1, kind="stable")[:, :SHOWN]
        report["sheet"] = sheet(rows["images"][nearest.reshape(-1)])
    return report


def places(scores_NN: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """How many candidates of another class come before the partner: float64 [N].

    An equal score counts half, and one that is not a number counts as before.
    """
    right_N1 = np.diag(scores_NN)[:, None]
    before_NN = np.where(scores_NN == right_N1, 0.5, ~(scores_NN < right_N1))
    return np.sum(before_NN * (labels_N[:, None] != labels_N), axis=1)


def probe_accuracy(x_ND: np.ndarray, labels_N: np.ndarray) -> float:
    """Accuracy of a ridge classifier on the odd rows, fitted to the even ones in closed form.

    The vectors do not change: what counts is what a linear map can read in them (Alain and Bengio 2016,
    1610.01644). Both are held-out examples, half each.
    """
    x = np.concatenate([x_ND.astype(np.float64), np.ones((len(x_ND), 1))], axis=1)
    classes, label_N = np.unique(labels_N, return_inverse=True)
    target_NK = np.eye(len(classes))[label_N]
    fit, target = x[0::2], target_NK[0::2]
    penalty = RIDGE * len(fit) * np.diag([*np.ones(x.shape[1] - 1), 0.0])
    weights_DK = np.linalg.lstsq(fit.T @ fit + penalty, fit.T @ target, rcond=None)[0]
    guess_N = np.argmax(x[1::2] @ weights_DK, axis=1)
    return float(np.mean(guess_N == label_N[1::2]))
