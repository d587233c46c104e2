"""Gadre et al. 2024, arXiv 2403.08540: over-trained models and 17-task error from five small runs.

    python experiments/papers/gadre.py

RedPajama, loss on C4. Four models at 20 tokens a parameter and the smallest at 320 determine the
loss; with the 1.4B model at 20 they determine the error. Both are then predicted for two runs of
280 and 390 times the compute of the largest of the five. Least squares on raw values, as theirs.
"""

from __future__ import annotations

import numpy as np
from tables import Row, fixture, markdown

from scaling.laws import Loss, fit, read_table
from scaling.laws.table import Table

TITLE = "Gadre et al. 2024: loss and error of over-trained models (5 runs, 2 predicted)"
LAW = {"E": 1.8366, "a": 166.2, "eta": 0.27285}
ERROR = {"epsilon": 0.857, "k": 2.2065, "gamma": 0.7146}
PREDICTED = {(1439795200, 640): (0.71034, 3.63651), (6889410560, 20): (0.73205, 0.04645)}
NOT_TASKS = ("model", "multiplier", "params", "tokens", "loss")


def table() -> Table:
    """The eight runs with `error`, the mean error of the 17 tasks."""
    runs = read_table(fixture("gadre_redpajama.csv"))
    tasks = [v for k, v in runs.columns.items() if k not in NOT_TASKS]
    return runs.with_column("error", 1.0 - np.mean(tasks, axis=0))


def rows() -> list[Row]:
    """Parameters, and relative errors of the predictions in percent."""
    runs = table()
    small = runs.columns["params"] < 1e9
    base = small | (runs.columns["multiplier"] == 20) & (runs.columns["params"] < 2e9)
    loss = fit(runs.without(small, "predicted"), "over_training", Loss("lsq", space="raw"))
    error = fit(runs.without(base, "predicted"), "task_error", Loss("lsq", space="raw"))
    found = [Row(k, v, loss.parameters[k], 5) for k, v in LAW.items()]
    found.append(Row("b 6^(eta/2)", 366.7, loss.derived["b_C"], 4))
    found += [Row(k, v, error.parameters[k], 4) for k, v in ERROR.items()]
    params, tokens = runs.columns["params"], runs.columns["tokens"]
    for (n, m), published in PREDICTED.items():
        run = int(np.flatnonzero((params == n) & (runs.columns["multiplier"] == m))[0])
        expected = loss.predict(params=n, tokens=tokens[run])
        both = (expected, error.predict(loss=expected))
        for name, value, target in zip(("loss", "error"), both, published, strict=True):
            measured = runs.columns[name][run]
            off = 100 * abs(float(value) - measured) / measured
            label = f"{name} of {n / 1e9:.1f}B at {m} tokens a parameter, % off"
            found.append(Row(label, target, off, 5))
    return found


if __name__ == "__main__":
    print(markdown(TITLE, "Source: arXiv 2403.08540, its repository and notebook.", rows()))
