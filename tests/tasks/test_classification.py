"""The report of precision, recall and F1 against scikit-learn."""

import numpy as np
import pytest

from scaling.tasks.classification import summarize_classes


def test_report_equals_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 500)
    guess = np.where(rng.random(500) < 0.7, truth, rng.integers(0, 3, 500))
    guess[guess == 3] = 0  # class 3 is never predicted
    confusion = metrics.confusion_matrix(truth, guess, labels=range(5))  # class 4 never occurs
    totals = {
        "loss": (np.float64(100.0), np.float64(500.0)),
        "accuracy": (np.float64((truth == guess).sum()), np.float64(500.0)),
        "confusion": (confusion, np.float64(500.0)),
        "moments": (np.array([30.0, 100.0, 500.0]), np.float64(500.0)),
    }
    result = summarize_classes(totals, ("a", "b", "c", "d", "e"))
    expected = metrics.classification_report(
        truth,
        guess,
        labels=range(5),
        target_names=["a", "b", "c", "d", "e"],
        output_dict=True,
        zero_division=0,
    )
    for name in "abcde":
        row = expected[name]
        assert result["report"][name]["precision"] == pytest.approx(row["precision"])
        assert result["report"][name]["recall"] == pytest.approx(row["recall"])
        assert result["report"][name]["f1"] == pytest.approx(row["f1-score"])
        assert result["report"][name]["support"] == row["support"]
    assert result["f1_macro"] == pytest.approx(expected["macro avg"]["f1-score"])
    assert result["accuracy"] == pytest.approx(np.mean(truth == guess))
