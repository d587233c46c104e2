"""Caballero et al. 2023, arXiv 2210.14891, figure 4 left: a broken power law on 4-digit addition.

    python experiments/papers/bnsl.py

Fits the 14 smallest training sets, predicts the 3 largest. The paper prints a figure only; the
"published" numbers are a run of the authors' script (brute grid, then curve_fit on ln(1 + y)).
"""

from __future__ import annotations

import numpy as np
from tables import Row, fixture, markdown

from scaling.laws import fit, read_table

TITLE = "Caballero et al. 2023: broken power law, 4-digit addition (14 points, 3 held out)"
SCRIPT = {"a": 0.4139, "b": 2.277, "c0": 0.0551, "c1": 5.663, "d1": 612.6, "f1": 0.0592}


def rows() -> list[Row]:
    """The reproduction, by the default call."""
    table = read_table(fixture("bnsl_four_digit_addition.csv"))
    x, y = table.columns["examples"], table.columns["loss"]
    result = fit(table.without(x <= 736, "held out"), "bnsl")
    error = np.log(result.predict(examples=x)) - np.log(y)
    inside, outside = (float(np.sqrt(np.mean(e**2))) for e in (error[:14], error[14:]))
    found = [Row(k, v, result.parameters[k], 4) for k, v in SCRIPT.items()]
    found.append(Row("RMSLE of the fit", 0.00060, inside, 3))
    found.append(Row("RMSLE of the extrapolation", 0.01092, outside, 4))
    return found


if __name__ == "__main__":
    print(markdown(TITLE, "Source: arXiv 2210.14891 and its script.", rows()))
