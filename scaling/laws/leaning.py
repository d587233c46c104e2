"""Weights that lean on the large runs, for forecasts.

No form holds over five decades to the last percent. A fit that serves all runs alike spends its
parameters on the small ones and misses where it is asked. Weights that grow as compute^power give
up the small end; docs/reference/forecasts.md shows what that does to errors on public tables.

The power is 1 (each FLOP counts alike) where there are runs enough, and smaller where the points
that are left in effect would not carry the parameters. Power weights have no scale of their own, so
the runs below any budget lean as all of them do.
"""

from collections.abc import Mapping
from typing import TypeVar

import numpy as np

Array = np.ndarray
A = TypeVar("A", np.ndarray, float)
PER_PARAMETER = 5.0  # effective points of each free parameter that leaning leaves


def compute_of(columns: Mapping[str, A]) -> A | None:
    """Compute of runs, or the size that stands for it; None if the columns know no scale."""
    if {"params", "tokens"} <= set(columns):
        return 6 * columns["params"] * columns["tokens"]
    for name in ("flops", "pf_days", "tokens", "params", "examples", "steps"):
        if name in columns:
            return columns[name]
    return None


def emphasis(compute: Array | None, power: float) -> Array | None:
    """Weights compute^power with mean 1, [n]; None where there is no leaning."""
    if compute is None or power == 0:
        return None
    weights = (compute / compute.max()) ** power
    return np.asarray(weights / weights.mean())


def effective(weights: Array | None, points: int) -> float:
    """How many points of equal weight carry as much (Kish 1965): (sum w)^2 / sum w^2."""
    if weights is None:
        return float(points)
    return float(weights.sum() ** 2 / np.sum(weights**2))


def power_for(compute: Array | None, freedom: int) -> float:
    """The power of a forecast's weights: at most 1, less where points are few."""
    if compute is None:
        return 0.0
    low, high = 0.0, 1.0
    enough = PER_PARAMETER * freedom
    if effective(emphasis(compute, high), len(compute)) >= enough:
        return high
    for _ in range(30):  # effective points fall as the power grows
        middle = (low + high) / 2
        fits = effective(emphasis(compute, middle), len(compute)) >= enough
        low, high = (middle, high) if fits else (low, middle)
    return low


def residual_shares(compute: Array | None, at: float | None, power: float) -> Array | None:
    """Shares with which the residuals of runs, [n], speak for one at compute `at`; None: equally.

    They fall with the distance in compute, either way, as fast as the weights of the fit do. Far
    above the data that is `emphasis`; at the small end, which a leaning fit gives up, it is the
    small runs.
    """
    if compute is None or at is None or power == 0:
        return None
    apart = np.abs(np.log(compute) - np.log(at))
    shares = np.exp(-power * (apart - apart.min()))
    return np.asarray(shares / shares.sum())
