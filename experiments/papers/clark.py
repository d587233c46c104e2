"""Clark et al. 2022, arXiv 2202.01169: routed language models, loss against size and experts.

    python experiments/papers/clark.py

Final validation losses of 163 runs: five dense models and, for each of three routers, six sizes by
nine expert counts (some are missing). Dense models count as one expert. Least squares on log loss.
The paper cross-validates and prints rounded constants, so the comparison is with the intervals.
"""

from __future__ import annotations

import numpy as np
from tables import Row, fixture, markdown

from scaling.laws import Loss, fit, get_law, profile, read_table
from scaling.laws.fitting import Result

TITLE = "Clark et al. 2022: routed language models (5 dense runs, 158 routed)"
ROUTERS = {"S-Base": "s_base", "RL-R": "rl_r", "Hash": "hash"}
WEAK = 2.5  # ratio of the ends of a 95 % interval from which a positive constant is called weak


def refit(router: str) -> Result:
    """The law of one router, with the dense models at one expert."""
    runs = read_table(fixture("clark_routed.csv"))
    kind = np.array(runs.text["router"])
    keep = (kind == "Dense") | (kind == router)
    return fit(runs.without(keep, "another router"), "routed", Loss("lsq"))


def rows() -> list[Row]:
    """Constants with 95 % profile intervals, and residuals of both sets of constants."""
    law, found = get_law("routed"), []
    for router, label in ROUTERS.items():
        result, published = refit(router), law.constants(label)
        for name, value in published.items():
            swept = profile(result, name)
            low, high = swept.low or -np.inf, swept.high or np.inf
            note = f"95 %: {low:.3g} to {high:.3g}"
            note += "" if low <= value <= high else ", published is outside"
            note += ", weakly identified" if low > 0 and high / low > WEAK else ""
            found.append(Row(f"{router}: {name}", value, result.parameters[name], 4, note))
        theirs = law.evaluate(published, result.problem.variables)
        errors = (np.log(theirs / result.problem.target), result.residuals)
        spread = [float(np.sqrt(np.mean(e**2)) / np.log(10)) for e in errors]
        note = "published: at their rounded constants"
        found.append(Row(f"{router}: RMSE of log10 loss", *spread, 3, note))
    return found


if __name__ == "__main__":
    print(markdown(TITLE, "Source: arXiv 2202.01169 and its repository.", rows()))
