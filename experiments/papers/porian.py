"""Porian et al. 2024, arXiv 2406.19146: exponents of N* ~ C^a from pairs (budget, best size).

    python experiments/papers/porian.py

All 15 configurations are fitted from the authors' own pairs, `porian_pairs.csv`: one row a budget of
each configuration with `config`, `flops`, `optimal_params` (median of up to 1,000 noisy resamples of
an isoFLOP profile) and `deviation` (standard deviation of ln N* over those). A line in logarithms
goes through them, plain and weighted by 1/deviation^2. The paper prints the weighted exponents to
three digits, and so is the OpenWebText2 row.

Two configurations are checked a second time, from minima that another group found by local
parabolas on the same runs: those exponents are to lie inside the published 95 % intervals, not to
agree to four digits.
"""

from __future__ import annotations

import numpy as np
from tables import Row, fixture, markdown

from scaling.laws import Law, Loss, Variable, coefficient, exponent, fit, power, profile, read_table
from scaling.laws.law import FLOPS
from scaling.laws.table import Table

TITLE = "Porian et al. 2024: exponents of the optimal size"
# (plain, weighted) as the authors store them; the paper prints the weighted one.
EXPONENTS: dict[str, tuple[float, float]] = {
    "rw, Kaplan counting": (0.8337679323, 0.8353000425),
    "rw, head counted": (0.7008992037, 0.7064699122),
    "rw, warm-up corrected": (0.6035277581, 0.6020375267),
    "rw, cosine to the budget": (0.5714248897, 0.5714947856),
    "rw, tuned": (0.4970287955, 0.4968950782),
    "rw, head and attention counted": (0.7159159361, 0.7170576329),
    "rw, warm-up corrected, attention counted": (0.6240122344, 0.6222511037),
    "rw, cosine to the budget, attention counted": (0.5778107104, 0.5771931451),
    "rw, tuned, attention counted": (0.5040658334, 0.5052660845),
    "rw, Kaplan counting, tuned": (0.7080587881, 0.7114881417),
    "owt2, Kaplan counting": (0.8699922654, 0.8635108173),
    "owt2, head counted": (0.6999872658, 0.6985006958),
    "owt2, warm-up corrected": (0.6016112484, 0.6031958731),
    "owt2, cosine to the budget": (0.5688896641, 0.5742951391),
    "owt2, tuned": (0.5184058116, 0.5184542057),
}
# Published exponent and its 95 % interval, as printed.
TUNED = {"rw, tuned": (0.497, 0.49, 0.50), "owt2, tuned": (0.518, 0.49, 0.54)}
OPTIMUM = Law(
    name="optimal_size",
    equation="N* = A C^a",
    variables=(FLOPS,),
    target=Variable("optimal_params", "N*", "parameters"),
    parameters=(coefficient("A", (1e-10, 1e4)), exponent("a")),
    formula=lambda p, v: p.A * power(v.flops, p.a),
    linear=("A",),
)


def of_config(pairs: Table, label: str) -> Table:
    """The rows of one configuration."""
    return pairs.without(np.array(pairs.text["config"]) == label, "another configuration")


def fits(pairs: Table) -> dict[str, tuple[float, float]]:
    """(plain, weighted) exponents by configuration."""
    found = {}
    for label in dict.fromkeys(pairs.text["config"]):
        rows = of_config(pairs, label)
        weights = 1.0 / rows.columns["deviation"] ** 2
        plain = fit(rows, OPTIMUM, Loss("lsq")).parameters["a"]
        found[label] = (plain, fit(rows, OPTIMUM, Loss("lsq"), weights=weights).parameters["a"])
    return found


def rows() -> list[Row]:
    """All exponents of the authors' pairs, then the tuned models' from other minima."""
    here = fits(read_table(fixture("porian_pairs.csv")))
    found = [
        Row(f"{label} ({kind})", value, here[label][i], 7)
        for label, stored in EXPONENTS.items()
        for i, (kind, value) in enumerate(zip(("plain", "weighted"), stored, strict=True))
    ]
    return found + tuned_rows()


def tuned_rows() -> list[Row]:
    """The tuned models' exponents from another group's minima of 12 budgets each."""
    pairs, found = read_table(fixture("porian_tuned_minima.csv")), []
    for label, (published, low, high) in TUNED.items():
        result = fit(of_config(pairs, label), OPTIMUM, Loss("lsq"))
        swept = profile(result, "a")
        note = f"95 %: {swept.low:.3f} to {swept.high:.3f}; published {low:.2f} to {high:.2f}"
        name = f"{label}, local parabolas: exponent"
        found.append(Row(name, published, result.parameters["a"], 4, note))
    return found


if __name__ == "__main__":
    print(markdown(TITLE, "Source: arXiv 2406.19146; minima: see the fixtures' README.", rows()))
