"""How far a law's form may be off outside its data: the third part of a forecast's interval.

A bootstrap knows the uncertainty of the parameters and the spread of runs, given that the form
holds. On public tables forecasts with those two alone missed far more often than they said. The
error of the form is taken as a Student t in ln(loss), independent of the other two, with scale

    s = d sqrt(per_decade^2 + (misfit r)^2),   and with rivals   s^2 + (disagreement D min(d/d_3, 1))^2

d: decades outside the data (0 inside, where the form adds nothing), r: root mean square residual of
the fit, D: root mean square distance of the members of a combination from their median, d_3: a
factor of 3, from which on D counts in full. This is the discrepancy of Kennedy and O'Hagan (2001)
with a scale that grows; a law that stands alone cannot tell D and has constants of its own.

The constants and the coverage by distance are in `discrepancy.json`, fitted on public tables by
`python experiments/papers/extrapolation.py`; docs/reference/forecasts.md shows them family by family.
"""

import dataclasses
import functools
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from scaling.laws.leaning import effective

Array = np.ndarray
FULL = float(np.log10(3.0))  # decades from which on the disagreement of rivals counts in full


@dataclasses.dataclass(frozen=True)
class Constants:
    """Scales of the form's error: see the module. `freedom` is that of Student's t."""

    per_decade: float
    misfit: float
    disagreement: float
    freedom: float

    def scale(self, decades: Array, misfit: Array, disagreement: Array) -> Array:
        """The scale s in ln(loss), elementwise; all three are non-negative."""
        grown = decades * np.hypot(self.per_decade, self.misfit * misfit)
        return np.hypot(grown, self.disagreement * disagreement * np.minimum(decades / FULL, 1.0))


@dataclasses.dataclass(frozen=True)
class Form:
    """The form's part at one point: `scale` in ln(loss), of Student's t with `freedom`.

    `rivals` are predictions of the members of a combination (empty for a law that stands alone).
    `graded` is the factor that a user's own graded forecasts put on the scale (1 without).
    """

    scale: float
    freedom: float
    decades: float
    misfit: float
    disagreement: float
    rivals: dict[str, float]
    graded: float = 1.0

    def draws(self, count: int, seed: int) -> Array:
        """Errors in ln(loss), [count]: the quantiles of the t in random order."""
        levels = (np.arange(count) + 0.5) / count
        errors = self.scale * stats.t.ppf(levels, self.freedom)
        return np.random.default_rng(seed).permutation(errors)


@functools.cache
def published() -> dict[str, Any]:
    """`discrepancy.json`: constants, and coverage on public tables by distance."""
    file = importlib.resources.files("scaling.laws") / "discrepancy.json"
    return dict(json.loads(file.read_text(encoding="utf-8")))


def constants(rivals: bool) -> Constants:
    """Fitted on all public tables: for a combination (`rivals`), or for a law that stands alone."""
    return Constants(**published()["constants"]["combined" if rivals else "alone"])


def decades(outside: Mapping[str, float]) -> float:
    """log10 of the largest factor by which a run leaves the data, compute included.

    Tokens per parameter is left out: a table of one ratio would else put every other run outside.
    """
    factors = [v for k, v in outside.items() if k != "tokens per parameter"]
    return float(np.log10(max(factors, default=1.0)))


def misfit(residuals: Array, freedom: int, emphasis: Array | None = None) -> float:
    """Root mean square of the residuals, [n], of a fit with `freedom` parameters.

    `emphasis` are the weights with which it leans on the large runs, see `leaning`.
    """
    mean = np.average(np.square(residuals), weights=emphasis)
    return float(np.sqrt(mean) * inflation(effective(emphasis, len(residuals)), freedom))


def inflation(points: float, freedom: int) -> float:
    """sqrt(n / (n - p)): what residuals about a fit of p parameters to n points are too small by."""
    return float(np.sqrt(points / max(points - freedom, 1.0)))


def covered(far: float) -> dict[str, float] | None:
    """Coverage of 95 and 50 % intervals on public tables at about this distance; None inside.

    The band of distances that holds `far` decades, the last where it is further than any.
    """
    if far <= 0:
        return None
    bands: Sequence[dict[str, float]] = published()["coverage"]
    return next((band for band in bands if far <= np.log10(band["to"])), bands[-1])


def told(form: Mapping[str, Any] | None, public: Mapping[str, float] | None, law: str) -> list[str]:
    """Lines on an interval: what it contains, how far out it is, how such ones fared, the rivals.

    Args:
      form: the fields of `Form`, None where none is known.
      public: as `covered` gives it.
      law: the name of the law that forecasts.
    """
    if form is None:
        return [
            "the interval contains the parameters' uncertainty and the run's noise, not the form's"
        ]
    if not form["decades"] > 0:
        return [
            "inside the data: the interval contains the parameters' uncertainty and the run's noise"
        ]
    lines = [
        f"{10 ** form['decades']:.3g} times outside the data: the interval contains the parameters' "
        f"uncertainty, the run's noise and the form's error ({100 * form['scale']:.2g} % scale)"
    ]
    if form["graded"] != 1.0:
        lines[0] += f", scaled by {form['graded']:.3g} for your graded forecasts"
    if public:
        lines.append(
            f"on public tables such 95 % intervals held {100 * public['inside95']:.0f} % and 50 % ones "
            f"{100 * public['inside50']:.0f} % of {public['points']:.0f} runs at about this distance"
        )
    if form["rivals"]:
        said = ", ".join(f"{name} {value:.5g}" for name, value in form["rivals"].items())
        lines.append(f"rivals say: {said}")
    else:
        lines.append(f"{law} stands alone: a combination (LAW+LAW) tells what its rivals say")
    return lines


def graded_factor(errors: Sequence[tuple[str, float, float]]) -> tuple[float, int]:
    """(factor on the scale, number of fits) that a user's own graded forecasts speak for.

    Args:
      errors: (fit, error, expected deviation) of each graded forecast outside its data, in ln(loss).

    A scaled inverse chi-square prior on the variance, worth as many fits as families the constants
    were tuned on: (k + sum z^2)/(k + n). Forecasts of one fit share its form and count as one.
    """
    by_fit: dict[str, list[float]] = {}
    for fit, error, expected in errors:
        if expected > 0:
            by_fit.setdefault(fit, []).append((error / expected) ** 2)
    prior = float(published()["families"])
    total = sum(float(np.mean(squares)) for squares in by_fit.values())
    return float(np.sqrt((prior + total) / (prior + len(by_fit)))), len(by_fit)
