"""Muennighoff et al. 2023, arXiv 2305.16264: forward values of the data-constrained law.

    python experiments/papers/muennighoff.py

The refit of its 182 points (where the published R_D, R_N are a local minimum) needs the authors'
table and list of outliers, which are not in this repository.
"""

from __future__ import annotations

from tables import Row, markdown

from scaling.laws import get_law

TITLE = "Muennighoff et al. 2023: data-constrained law, forward values"
POINTS = {
    "L(6.34e9, 242e9, 25e9)": ((6.34e9, 242e9, 25e9), 2.2256440889984477),
    "L(8.67e9, 178e9, 25e9)": ((8.67e9, 178e9, 25e9), 2.2269634075087867),
}


def rows() -> list[Row]:
    """Published forward values beside ours."""
    law = get_law("data_constrained")
    found = []
    for name, (point, value) in POINTS.items():
        variables = dict(zip(("params", "tokens", "unique_tokens"), point, strict=True))
        here = float(law.evaluate(law.constants("muennighoff"), variables))
        found.append(Row(name, value, here, 16))
    return found


if __name__ == "__main__":
    print(markdown(TITLE, "Source: arXiv 2305.16264 and its notebook.", rows()))
