"""Scores of forecasts and constants of their intervals: what `extrapolation.py` counts with."""

from __future__ import annotations

import itertools

import numpy as np
from extrapolation_tables import Array
from scipy import stats

from scaling.laws.discrepancy import Constants

QUANTILES = (np.arange(40) + 0.5) / 40
GRID = {
    "per_decade": (0.0, 0.003, 0.006, 0.01, 0.015, 0.02, 0.03),
    "misfit": (0.0, 0.5, 1.0, 1.5, 2.0),
    "disagreement": (0.0, 0.15, 0.3, 0.45, 0.6, 0.8),
    "freedom": (3.0, 5.0, 30.0),
}
Record = dict[str, Array]


class Points:
    """Forecasts of many points: arrays over points, [n], and quantiles of their draws, [n, q]."""

    def __init__(self) -> None:
        self.names: list[tuple[str, str]] = []
        self.numbers: list[Array] = []
        self.quantiles: list[Array] = []

    def add(self, family: str, table: str, record: Record, use: str) -> None:
        """What a law (`use` alone) or a combination says of the points of one record."""
        numbers = np.column_stack([record["came"], record[f"{use}/numbers"]])
        self.names += [(family, table)] * len(numbers)
        self.numbers.append(numbers)
        self.quantiles.append(record[f"{use}/quantiles"])

    def joined(self, other: Points) -> Points:
        """Those of both."""
        both = Points()
        both.names = self.names + other.names
        both.numbers, both.quantiles = (
            self.numbers + other.numbers,
            self.quantiles + other.quantiles,
        )
        return both

    def stacked(self) -> tuple[Array, Array, Array, Array]:
        """(families [n], tables [n], numbers [7, n], quantiles [n, q])."""
        families, tables = (np.array([name[i] for name in self.names]) for i in (0, 1))
        return families, tables, np.concatenate(self.numbers).T, np.concatenate(self.quantiles)


Judged = Array  # [4, n]: inside 95, inside 50, half-width in %, interval score in %


def judge(points: Points, of: Constants | None) -> Judged:
    """Coverage, half-width and interval score of each point; `of` None leaves the form out."""
    _, _, (came, far, value, size, apart, tail, quarter), quantiles = points.stacked()
    if of is not None:
        spread = of.scale(far, size, apart)[:, None, None]
        t = stats.t.ppf(QUANTILES, of.freedom)
        quantiles = (quantiles[:, :, None] + spread * t).reshape(len(far), -1)
    quantiles = np.sort(quantiles, axis=1)

    def ends(level: Array) -> tuple[Array, Array]:
        at = level * (quantiles.shape[1] - 1)
        rows = np.arange(len(at))
        low, high = (
            quantiles[rows, np.rint(x).astype(int)] for x in (at, quantiles.shape[1] - 1 - at)
        )
        return np.minimum(low, value), np.maximum(high, value)

    (low, high), (low50, high50) = ends(tail), ends(quarter)
    missed = np.maximum(low - came, 0) + np.maximum(came - high, 0)
    return np.stack(
        [
            (low <= came) & (came <= high),
            (low50 <= came) & (came <= high50),
            50 * (high - low),
            100 * (high - low + 40 * missed),
        ]
    ).astype(float)


def averaged(points: Points, judged: Judged, keep: Array | None = None) -> dict[str, Array]:
    """By family: the mean over its tables of their means, [4], of the points in `keep`."""
    families, names, _, _ = points.stacked()
    keep = np.ones(len(families), bool) if keep is None else keep
    means: dict[str, Array] = {}
    for family in np.unique(families[keep]):
        own = keep & (families == family)
        each = [judged[:, own & (names == name)].mean(axis=1) for name in np.unique(names[own])]
        means[str(family)] = np.mean(each, axis=0)
    return means


def tuned(by_constants: dict[Constants, dict[str, Array]], without: str) -> Constants:
    """The constants with the best interval score among the calibrated, on all but one family."""

    def cost(means: dict[str, Array]) -> float:
        rows = np.array([row for family, row in means.items() if family != without])
        # A family that is covered too often does not pay for one that is missed.
        short = np.maximum(0.95 - rows[:, 0], 0).mean() + np.maximum(0.5 - rows[:, 1], 0).mean() / 4
        return float(np.mean(np.log(rows[:, 3])) + 4 * short)

    return min(by_constants, key=lambda of: cost(by_constants[of]))


def searched(points: Points, rivals: bool) -> tuple[Constants, Judged, dict[str, Constants]]:
    """(constants from all families, each family judged by those from the others, and those)."""
    grid = GRID if rivals else GRID | {"disagreement": (0.0,)}
    tries = [Constants(*values) for values in itertools.product(*grid.values())]
    results = {of: averaged(points, judge(points, of)) for of in tries}
    families = points.stacked()[0]
    nested, judged = {}, np.full((4, len(families)), np.nan)
    for family in np.unique(families):
        nested[str(family)] = tuned(results, str(family))
        own = families == family
        judged[:, own] = judge(points, nested[str(family)])[:, own]
    return tuned(results, ""), judged, nested


def hindsight(points: Points) -> dict[str, float]:
    """By family: the least score about the same centres, of one half-width a table that knows them.

    It is the 95 % quantile of the errors: a wider one costs more than what it still catches.
    """
    families, names, (came, _, value, *_), _ = points.stacked()
    errors, least = np.abs(value - came), dict[str, list[float]]()
    for family, name in dict.fromkeys(zip(families, names, strict=True)):
        size = errors[(families == family) & (names == name)]
        half = np.quantile(size, 0.95, method="higher")
        score = 100 * np.mean(2 * half + 40 * np.maximum(size - half, 0))
        least.setdefault(str(family), []).append(float(score))
    return {family: float(np.mean(scores)) for family, scores in least.items()}
