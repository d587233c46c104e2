"""Areas under curves against scikit-learn, ties and absent classes included, through an evaluation."""

import jax
import numpy as np
import pytest
from helpers import IMAGE_INFO, context, image_batch, tiny_images
from ml_collections import ConfigDict
from sklearn import metrics

from scaling import parallel
from scaling.configs import ConfigError
from scaling.experiment import EvaluationEntry
from scaling.tasks.base import Task, build_task
from scaling.tasks.roc import area, precision, report
from scaling.train import evaluations


@pytest.mark.parametrize("levels", [5, 10_000], ids=["ties", "no ties"])
def test_areas_are_those_of_scikit_learn(levels):
    random = np.random.default_rng(0)
    positive = random.random(300) < 0.3
    score = np.round((random.normal(size=300) + positive) * levels) / levels
    assert area(score, positive) == pytest.approx(metrics.roc_auc_score(positive, score))
    expected = metrics.average_precision_score(positive, score)
    assert precision(score, positive) == pytest.approx(expected)


def test_a_class_against_all_others_is_averaged():
    random = np.random.default_rng(1)
    logits, label = random.normal(size=(200, 4)), random.integers(0, 3, 200)
    logits[np.arange(200), label] += 1.0
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    each = [metrics.roc_auc_score(label == k, p[:, k]) for k in range(3)]
    values = report({"logits": logits, "label": label})
    assert values["roc_auc"] == pytest.approx(np.mean(each)), "the fourth class never occurs"
    two = report({"logits": logits[:, :2], "label": label == 1})
    margin = logits[:, 1] - logits[:, 0]
    assert two["roc_auc"] == pytest.approx(metrics.roc_auc_score(label == 1, margin))
    assert np.isnan(report({"logits": logits, "label": np.zeros(200, int)})["roc_auc"])


def test_the_sure_ones_are_not_tied():
    logits = np.zeros((4, 2), np.float32)
    logits[:, 1] = [20, 21, 22, 23]  # 1 - p is below float32's resolution
    assert report({"logits": logits, "label": np.array([0, 0, 1, 1])})["roc_auc"] == 1.0


def test_as_an_evaluation_of_a_task():
    task = build_task(tiny_images(model=ConfigDict({"name": "mlp"})), IMAGE_INFO, "cpu")
    evaluation = evaluations.named(task, EvaluationEntry(None), "roc")
    variables = parallel.unbox(jax.jit(task.init)(jax.random.key(0)))
    rows, _ = evaluation.run(variables, image_batch(0), context(False), None)
    assert evaluation.keeps == "rows"
    assert 0 < evaluation.report(jax.device_get(rows), {})["roc_auc"] < 1
    with pytest.raises(ConfigError, match="ranks by logits"):
        evaluations.named(Task(None, None), EvaluationEntry(None), "roc")
