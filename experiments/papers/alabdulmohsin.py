"""Alabdulmohsin et al. 2022, arXiv 2209.06640: M1 to M4 on the 20 language curves of its benchmark.

    python experiments/papers/alabdulmohsin.py

Fits the rows marked 1, predicts those marked 0, and scores the root mean square of
ln prediction - ln loss, averaged over the curves of a domain.

Takes 75 s of processor time, most of it compilation (2026-11-26, JAX 0.10.2, 2 shared CPU cores).
"""

from __future__ import annotations

import csv

import numpy as np
from tables import Row, fixture, markdown

from scaling.laws import Loss, fit

TITLE = "Alabdulmohsin et al. 2022: extrapolation by M1 to M4 (20 language curves)"
HALF_DIGIT = 5e-5  # of the last that they print
LAWS = ("m1", "m2", "m3", "m4")
PUBLISHED = {
    "NMT": (0.220, 0.040, 0.058, 0.015),
    "LM": (0.0176, 0.0013, 0.0027, 0.0012),
    "BB": (0.0149, 0.0149, 0.0087, 0.0093),
}


def curves() -> dict[tuple[str, ...], np.ndarray]:
    """(domain, task, model) to its rows (examples, loss, fitted), each [n, 3]."""
    rows: dict[tuple[str, ...], list[list[float]]] = {}
    with fixture("alabdulmohsin_language.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            numbers = [float(row[k]) for k in ("examples", "loss", "fitted")]
            rows.setdefault((row["domain"], row["task"], row["model"]), []).append(numbers)
    return {key: np.array(values) for key, values in rows.items()}


def error(curve: np.ndarray, law: str) -> float:
    """Root mean square of ln prediction - ln loss on the rows that were not fitted."""
    (examples, loss), fitted = curve.T[:2], curve[:, 2] == 1
    result = fit({"examples": examples[fitted], "loss": loss[fitted]}, law, Loss("lsq"))
    predicted = result.predict(examples=examples[~fitted])
    return float(np.sqrt(np.mean((np.log(predicted) - np.log(loss[~fitted])) ** 2)))


def rows() -> list[Row]:
    """Mean error of each law in each domain, beside the published one."""
    data, table = curves(), []
    for domain, published in PUBLISHED.items():
        some = [curve for key, curve in data.items() if key[0] == domain]
        for law, theirs in zip(LAWS, published, strict=True):
            mean = float(np.mean([error(curve, law) for curve in some]))
            note = "at or below" if mean < theirs + HALF_DIGIT else "above"
            table.append(Row(f"{domain} ({len(some)} curves), {law}", theirs, mean, 3, note))
    return table


if __name__ == "__main__":
    print(markdown(TITLE, (__doc__ or "").split("\n")[0], rows()))
