"""Alabdulmohsin et al. 2022, arXiv 2209.06640: M1 to M4 on the 20 language curves of its benchmark.

    python experiments/papers/alabdulmohsin.py

Fits the rows marked 1, predicts those marked 0, and scores the root mean square of
ln prediction - ln loss, averaged over the curves of a domain. The curves are not in the repository.
"""

from __future__ import annotations

import collections
import csv

import numpy as np
from tables import Row, external, markdown

from scaling.laws import Loss, fit

TITLE = "Alabdulmohsin et al. 2022: extrapolation by M1 to M4 (20 curves)"
LAWS = ("m1", "m2", "m3", "m4")
SCORES = {
    "NMT": (0.220, 0.040, 0.058, 0.015),
    "LM": (0.0176, 0.0013, 0.0027, 0.0012),
    "BB": (0.0149, 0.0149, 0.0087, 0.0093),
}
REMEDY = (
    "get the language curves of the benchmark of google-research/revisiting_neural_scaling_laws"
)

Curve = dict[str, np.ndarray]


def curves() -> dict[tuple[str, ...], Curve]:
    """(domain, task, model) to its columns `examples`, `loss` and `fitted`, each [n]."""
    cells = collections.defaultdict(list)
    path = external("extrapolation/alabdulmohsin_lang.csv", REMEDY)
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            numbers = [float(row[k]) for k in ("Seen Examples", "Loss", "Training")]
            cells[row["Domain"], row["Task"], row["Model"]].append(numbers)
    found = {}
    for key, values in cells.items():
        examples, loss, fitted = np.array(values).T
        found[key] = {"examples": examples, "loss": loss, "fitted": fitted == 1}
    return found


def error(curve: Curve, law: str) -> float:
    """Root mean square of ln prediction - ln loss on the rows that were not fitted."""
    known = {k: curve[k][curve["fitted"]] for k in ("examples", "loss")}
    result = fit(known, law, Loss("lsq"))
    hidden = ~curve["fitted"]
    predicted = result.predict(examples=curve["examples"][hidden])
    return float(np.sqrt(np.mean((np.log(predicted) - np.log(curve["loss"][hidden])) ** 2)))


def rows() -> list[Row]:
    """Mean error of each law in each domain, beside the published one."""
    data, found = curves(), []
    for domain, published in SCORES.items():
        some = [curve for key, curve in data.items() if key[0] == domain]
        for law, theirs in zip(LAWS, published, strict=True):
            mean = float(np.mean([error(curve, law) for curve in some]))
            note = "at or below" if mean <= theirs else "above"
            found.append(Row(f"{domain} ({len(some)} curves), {law}", theirs, mean, 3, note))
    return found


if __name__ == "__main__":
    print(markdown(TITLE, (__doc__ or "").split("\n")[0], rows()))
