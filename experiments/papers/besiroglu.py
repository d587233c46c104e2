"""Besiroglu et al. 2024, arXiv 2404.10102: the refit of Chinchilla's approach 3.

    python experiments/papers/besiroglu.py

One CPU core, about half a minute, most of it compilation and 4,000 resamples. Published numbers
are those of the authors' notebook: its "replicate exactly" fit (Huber 1e-3, sum), its headline
fit (in effect L1) and the standard errors of 4,000 resamples from seed 42.
"""

from __future__ import annotations

import numpy as np
from tables import Row, fixture, markdown

from scaling.laws import Loss, bootstrap, fit, read_table
from scaling.laws.table import Table

TITLE = "Besiroglu et al. 2024: Chinchilla refitted (240 of 245 points)"
HUBER = {"E": 1.817236, "A": 477.8417, "B": 2143.864, "alpha": 0.3473127, "beta": 0.3671826}
HUBER_OBJECTIVE = 0.0010182740346
L1 = {"E": 1.81686, "A": 482.00572, "B": 2085.43420, "alpha": 0.34781, "beta": 0.36585}
L1_OBJECTIVE = 1.129494700
ERRORS = {"E": 0.02566, "A": 124.52232, "B": 1293.2841, "alpha": 0.01540, "beta": 0.02060}


def table() -> Table:
    """The extracted points without the five largest losses, as the authors leave them out."""
    points = read_table(fixture("chinchilla_epoch.csv")).mapped(
        {"params": "Model Size", "flops": "Training FLOP"}
    )
    loss = points.columns["loss"]
    return points.without(loss < np.sort(loss)[-5], "one of the five largest losses")


def resamples(points: int = 240, count: int = 4000) -> np.ndarray:
    """Counts of the authors' resamples, [count, points]: legacy generator, seed 42."""
    generator = np.random.RandomState(42)
    picks = (generator.choice(np.arange(points), points) for _ in range(count))
    return np.stack([np.bincount(p, minlength=points) for p in picks]).astype(float)


def rows() -> list[Row]:
    """The reproduction."""
    huber, absolute = fit(table(), "chinchilla"), fit(table(), "chinchilla", Loss("l1"))
    stopped = "published fit stopped early"
    found = [Row("Huber 1e-3: objective", HUBER_OBJECTIVE, huber.objective, 11, stopped)]
    found += [Row(f"Huber 1e-3: {k}", v, huber.parameters[k]) for k, v in HUBER.items()]
    found += [Row("L1: sum of absolute residuals", L1_OBJECTIVE, absolute.objective, 10)]
    found += [Row(f"L1: {k}", v, absolute.parameters[k]) for k, v in L1.items()]
    errors = bootstrap(huber, counts=resamples()).standard_errors()
    found += [Row(f"standard error of {k}", v, errors[k], 4) for k, v in ERRORS.items()]
    return found


if __name__ == "__main__":
    print(markdown(TITLE, "Source: arXiv 2404.10102 and its notebook.", rows()))
