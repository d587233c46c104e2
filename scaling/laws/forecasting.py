"""Predictions for runs that were not made, with intervals and the distance from the data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from scaling.laws.fitting import Result
from scaling.laws.law import LawError
from scaling.laws.losses import link, unlink
from scaling.laws.problem import Array
from scaling.laws.resample import Draws

Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Forecast:
    """Predicted target of one run.

    `mean_interval` is for the law's curve, `run_interval` for a single new run (curve and noise).
    `outside` says by what factor each variable leaves the range of the data (empty: inside).
    """

    variables: dict[str, float]
    value: float
    mean_interval: Interval
    run_interval: Interval
    outside: dict[str, float]
    warnings: tuple[str, ...]


def forecast(
    result: Result, variables: Mapping[str, float], draws: Draws, level: float = 0.95
) -> Forecast:
    """Predict one run from the fit and the draws of a bootstrap.

    The interval carries the uncertainty of the parameters and of the noise, not that the form of
    the law may fail outside the data; that is what `outside` and the warnings are for.
    """
    simulated = simulate(result, variables, draws)
    outside = distance(result, simulated.variables)
    warnings = tuple(
        f"{name} is {factor:.3g} times outside the data" for name, factor in outside.items()
    )
    return Forecast(
        variables=simulated.variables,
        value=simulated.value,
        mean_interval=draws.interval(simulated.curves, level),
        run_interval=draws.interval(simulated.runs, level),
        outside=outside,
        warnings=warnings,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Simulated:
    """What a bootstrap says of one run: `curves` and `runs` are arrays over its draws, [R].

    `curves` is the law under each draw's parameters. `runs` adds to each a residual of the fit,
    drawn with replacement: what a new run may show, and not only where the mean of many would lie.
    """

    variables: dict[str, float]
    value: float
    curves: Array
    runs: Array


def simulate(result: Result, variables: Mapping[str, float], draws: Draws) -> Simulated:
    """Possible outcomes of one run, in the units of the target.

    Residuals are centred, and inflated by sqrt(n / (n - p)) for the p parameters that were fitted
    to the n points. Raises LawError unless `variables` are exactly the law's.
    """
    names = [v.name for v in result.law.variables]
    wrong = set(names) ^ set(variables)
    if wrong:
        raise LawError(
            f"a forecast of law {result.law.name} needs exactly {names}; check {sorted(wrong)}"
        )
    values = {k: float(variables[k]) for k in names}
    for variable in result.law.variables:
        if variable.positive and not values[variable.name] > 0:
            raise LawError(
                f"a forecast needs {variable.name} above 0, not {values[variable.name]:g}"
            )
    curves = result.law.evaluate_draws(draws.parameters, values)
    with np.errstate(all="ignore"):
        linked = link(result.loss.space, curves)
    residuals = result.residuals
    residuals = residuals - np.average(residuals, weights=result.problem.weights)
    inflate = np.sqrt(result.points / max(result.points - result.problem.freedom, 1))
    noise = np.random.default_rng(draws.seed + 1).choice(residuals, len(linked)) * inflate
    runs = unlink(result.loss.space, linked - noise)
    return Simulated(values, float(result.predict(**values)), curves, runs)


def distance(result: Result, values: Mapping[str, float]) -> dict[str, float]:
    """Factors above 1 by which variables (and compute, and tokens per parameter) leave the data."""
    columns, wanted = (_extended(v) for v in (result.problem.variables, values))
    outside = {}
    for name, column in columns.items():
        low, high, value = float(column.min()), float(column.max()), wanted[name]
        if low <= 0:
            span = max(high - low, 1e-300)
            factor = 1.0 + max(value - high, low - value, 0.0) / span
        else:
            factor = max(value / high, low / value if value > 0 else np.inf, 1.0)
        if factor > 1.0 + 1e-9:
            outside[name] = float(factor)
    return outside


def _extended(values: Mapping[str, Any]) -> dict[str, Any]:
    """With compute and tokens per parameter where both are there."""
    if not {"params", "tokens"} <= set(values):
        return dict(values)
    n, d = values["params"], values["tokens"]
    return {**values, "compute 6ND": 6 * n * d, "tokens per parameter": d / n}
