"""How well a classifier's probabilities rank examples: areas under the ROC and precision-recall curves.

    eval.also = {"roc": {}}

Both are exact: the probabilities of all examples come together on the host.

Legend: N examples, K classes.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from scipy import special, stats

from scaling.configs import ConfigError
from scaling.tasks.base import Batch, Context, Evaluation, Task, Variables, without_carry


def roc(task: Task) -> Evaluation:
    """Of two classes `roc_auc` and `average_precision` of the second, of more the means over classes.

    Of more than two each class is held against all others, and one that never occurs, or alone, is
    left out of the means. Raises ConfigError for a task without the function "logits".
    """
    if "logits" not in task.functions:
        raise ConfigError(
            "evaluation", "roc ranks by logits, and this task has none", "leave it out"
        )

    def run(variables: Variables, batch: Batch, context: Context) -> dict[str, jax.Array]:
        logits_BK = task.functions["logits"](variables, batch, context)
        return {"logits": logits_BK, "label": batch["labels"]}

    return Evaluation(without_carry(run), report, keeps="rows")


def report(rows: Mapping[str, np.ndarray], _: object = None) -> dict[str, Any]:
    """Areas by class and their means, from `logits` [N, K] and `label` [N]."""
    label_N = rows["label"]
    # In float64: in float32 the sure ones would all be 1 and tied.
    probability_NK = special.softmax(np.asarray(rows["logits"], np.float64), axis=1)
    classes = probability_NK.shape[1]
    areas = {
        k: (area(probability_NK[:, k], label_N == k), precision(probability_NK[:, k], label_N == k))
        for k in ((1,) if classes == 2 else range(classes))
        if 0 < np.sum(label_N == k) < len(label_N)
    }
    if not areas:
        return {"roc_auc": float("nan"), "average_precision": float("nan")}
    first, second = np.mean(list(areas.values()), axis=0)
    return {"roc_auc": float(first), "average_precision": float(second)}


def area(score_N: np.ndarray, positive_N: np.ndarray) -> float:
    """Under the ROC curve: how often a positive has the larger score of a pair, ties counting half.

    Mann and Whitney's U over the number of pairs (Hanley and McNeil 1982).
    """
    positives = np.sum(positive_N)
    ranks = stats.rankdata(score_N)[positive_N].sum()
    pairs = positives * (len(score_N) - positives)
    return float((ranks - positives * (positives + 1) / 2) / pairs)


def precision(score_N: np.ndarray, positive_N: np.ndarray) -> float:
    """Average precision: that at each threshold, weighted by the recall gained there."""
    order = np.argsort(-score_N, kind="stable")
    hits_N = np.cumsum(positive_N[order])
    last_N = np.append(np.diff(score_N[order]) != 0, True)  # of those with one score
    hits, seen = hits_N[last_N], 1.0 + np.flatnonzero(last_N)
    gained = np.diff(hits, prepend=0) / hits[-1]
    return float(np.sum(gained * hits / seen))
