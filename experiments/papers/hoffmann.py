"""Hoffmann et al. 2022, arXiv 2203.15556: what the published constants of approach 3 imply.

    python experiments/papers/hoffmann.py

The paper's training runs are not public; this checks allocation against the closed form and
Chinchilla's own size, and shows what rounding the constants does.
"""

from __future__ import annotations

import numpy as np
from tables import Row, markdown

from scaling.laws import fit, get_law, optimum

TITLE = "Hoffmann et al. 2022: allocation implied by the constants of approach 3"
GOPHER = 5.76e23


def rows() -> list[Row]:
    """Exponents and the optimum at Gopher's budget, rounded against unrounded constants."""
    law, found = get_law("chinchilla"), []
    n, d = (a.ravel() for a in np.meshgrid(np.geomspace(1e8, 1e10, 8), np.geomspace(1e9, 1e11, 8)))
    for label in ("hoffmann", "hoffmann_unrounded"):
        p = law.constants(label)
        g = (p["alpha"] * p["A"] / (p["beta"] * p["B"])) ** (1 / (p["alpha"] + p["beta"]))
        closed = g * (GOPHER / 6) ** (p["beta"] / (p["alpha"] + p["beta"]))
        surface = {"params": n, "tokens": d, "loss": law.evaluate(p, {"params": n, "tokens": d})}
        result = fit(surface, law)
        best = optimum(result, [GOPHER])[0]
        found.append(
            Row(f"{label}: alpha from its own surface", p["alpha"], result.parameters["alpha"], 9)
        )
        found.append(
            Row(f"{label}: a", p["beta"] / (p["alpha"] + p["beta"]), result.derived["a"], 6)
        )
        found.append(Row(f"{label}: N* at 5.76e23 FLOP", closed, best.params, 6))
    return found


if __name__ == "__main__":
    print(
        markdown(TITLE, "Source: arXiv 2203.15556; published values are the closed form.", rows())
    )
