"""Muennighoff et al. 2023, arXiv 2305.16264: the data-constrained law, its values and its refit.

    python experiments/papers/muennighoff.py

The base law is frozen and two constants, R_D and R_N, are fitted to 182 runs (the authors' own
list, outliers removed by hand), Huber 1e-3 on log loss. The published pair is a local minimum; the
data exclude no R_D above about 5, so that any large value serves.
"""

from __future__ import annotations

import numpy as np
from tables import Row, fixture, markdown

from scaling.laws import Loss, fit, get_law, profile, read_table
from scaling.laws.fitting import Result
from scaling.laws.losses import objective

TITLE = "Muennighoff et al. 2023: data-constrained law (182 runs)"
POINTS = {
    "L(6.34e9, 242e9, 25e9)": ((6.34e9, 242e9, 25e9), 2.2256440889984477),
    "L(8.67e9, 178e9, 25e9)": ((8.67e9, 178e9, 25e9), 2.2269634075087867),
}
FROZEN = ("E", "A", "B", "alpha", "beta")
OBJECTIVE = 0.015825936570763588
R_SQUARED = 0.7722046


def refit() -> Result:
    """R_D and R_N by the default call."""
    law = get_law("data_constrained")
    constants = law.constants("muennighoff")
    return fit(read_table(fixture("datablations.csv")), law, fix={k: constants[k] for k in FROZEN})


def rows() -> list[Row]:
    """Forward values, the published point on its own data, and what a global search finds."""
    law = get_law("data_constrained")
    constants = law.constants("muennighoff")
    found = []
    for name, (point, value) in POINTS.items():
        variables = dict(zip(("params", "tokens", "unique_tokens"), point, strict=True))
        found.append(Row(name, value, float(law.evaluate(constants, variables)), 16))
    result = refit()
    loss = result.problem.target
    published = law.evaluate(constants, result.problem.variables)
    level = objective(np.log(published / loss), result.problem.weights, Loss())
    square = 1 - np.sum((published - loss) ** 2) / np.sum((loss - loss.mean()) ** 2)
    found.append(Row("objective at the published R_D, R_N", OBJECTIVE, level, 8, "theirs float32"))
    found.append(Row("R2 at the published R_D, R_N", R_SQUARED, float(square), 7))
    found.append(Row("objective of the refit", OBJECTIVE, result.objective, 8, "theirs is local"))
    swept = profile(result, "R_D")
    high = "none" if swept.high is None else f"{swept.high:.3g}"
    note = f"not identified: 95 % profile from {swept.low:.2g}, upper end {high}"
    found.append(Row("R_D", constants["R_D"], result.parameters["R_D"], 5, note))
    found.append(Row("R_N", constants["R_N"], result.parameters["R_N"], 5))
    return found


if __name__ == "__main__":
    print(markdown(TITLE, "Source: arXiv 2305.16264 and its notebook.", rows()))
