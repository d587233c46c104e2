"""Predictions for runs that were not made, with intervals and the distance from the data."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from scaling.laws.discrepancy import Form, constants, covered, decades, inflation, misfit
from scaling.laws.fitting import Result
from scaling.laws.law import LawError
from scaling.laws.leaning import compute_of, residual_shares
from scaling.laws.losses import link, slope, unlink
from scaling.laws.problem import Array
from scaling.laws.resample import Draws

Interval = tuple[float, float]
TARGET = "loss"  # what the public tables are about; of other targets nothing is known


@dataclasses.dataclass(frozen=True)
class Forecast:
    """Predicted target of one run.

    `mean_interval` is for the law's curve, `run_interval` for a single new run (curve and noise).
    Both carry the law's form where the run is outside the data (`form`; None for a target of which
    no public forecasts are known). `outside` says by what factor each variable leaves the range of
    the data (empty: inside); `public` is the coverage of such intervals at that distance on public
    tables: inside95, inside50, points (None inside the data).
    """

    variables: dict[str, float]
    value: float
    mean_interval: Interval
    run_interval: Interval
    outside: dict[str, float]
    warnings: tuple[str, ...]
    form: Form | None
    public: dict[str, float] | None


def forecast(
    result: Result, variables: Mapping[str, float], draws: Draws, level: float = 0.95
) -> Forecast:
    """Predict one run from the fit and the draws of a bootstrap.

    The interval carries the uncertainty of the parameters, of the noise and, outside the data, of
    the form of the law; see `discrepancy`.
    """
    simulated = simulate(result, variables, draws)
    outside, form = simulated.outside, simulated.form
    mean, run = (draws.interval(v, level) for v in (simulated.curves, simulated.runs))
    # A run scatters about the curve: where noise is little, the luck of the draws may say otherwise.
    run = (min(run[0], mean[0]), max(run[1], mean[1]))
    warnings = tuple(
        f"{name} is {factor:.3g} times outside the data" for name, factor in outside.items()
    )
    if outside and form is None:
        warnings += (
            f"the interval trusts the form of the law: nothing is known of how laws of "
            f"{result.law.target.name} fail outside their data",
        )
    return Forecast(
        variables=simulated.variables,
        value=simulated.value,
        mean_interval=mean,
        run_interval=run,
        outside=outside,
        warnings=warnings,
        form=form,
        public=None if form is None else covered(form.decades),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Simulated:
    """What a bootstrap says of one run: `curves` and `runs` are arrays over its draws, [R].

    `curves` is the law under each draw's parameters, and its form's error outside the data. `runs`
    adds to each a residual of the fit, drawn with replacement: what a new run may show, and not only
    where the mean of many would lie.
    """

    variables: dict[str, float]
    value: float
    curves: Array
    runs: Array
    outside: dict[str, float]
    form: Form | None


def simulate(
    result: Result, variables: Mapping[str, float], draws: Draws, graded: float = 1.0
) -> Simulated:
    """Possible outcomes of one run, in the units of the target.

    `graded` is the factor that a user's own graded forecasts put on the form's error, see
    `discrepancy.graded_factor`.

    Residuals are centred, and inflated by sqrt(n / (n - p)) for the p parameters that were fitted
    to the n points; where the fit leans on the large runs, those of like compute are drawn. Raises
    LawError unless `variables` are exactly the law's.
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
    space, problem = result.loss.space, result.problem
    curves = result.law.evaluate_draws(draws.parameters, values)
    with np.errstate(all="ignore"):
        linked = link(space, curves)
    residuals = result.residuals
    residuals = residuals - np.average(residuals, weights=problem.weights)
    inflate = inflation(problem.effective, problem.freedom)
    shares = residual_shares(problem.compute, compute_of(values), problem.lean)
    generator = np.random.default_rng(draws.seed + 1)
    noise = generator.choice(residuals, len(linked), p=shares) * inflate
    outside = distance(result, values)
    form = form_at(result, values, outside, graded)
    if form is not None and form.scale > 0:
        errors = form.draws(len(linked), draws.seed + 2)
        linked = moved(space, linked, curves, errors)
        curves = unlink(space, linked)
    runs = unlink(space, linked - noise)
    return Simulated(values, float(result.predict(**values)), curves, runs, outside, form)


def form_at(
    result: Result, values: Mapping[str, float], outside: Mapping[str, float], graded: float = 1.0
) -> Form | None:
    """The form's part of a forecast at `values`; None for a target of which nothing is known."""
    if result.law.target.name != TARGET:
        return None
    far = decades(outside)
    problem = result.problem
    # From residuals in the space of the loss to ones of ln, at the typical target.
    typical = np.median(problem.target, keepdims=True)
    to_log = float(1.0 / (typical * slope(result.loss.space, typical))[0])
    size = misfit(result.residuals, problem.freedom, problem.emphasis) * to_log
    rivals = {m.law.name: float(m.predict(**values)) for m in result.members}
    apart = 0.0
    if rivals:
        logs = np.log(np.array(list(rivals.values()))) - np.log(float(result.predict(**values)))
        apart = float(np.sqrt(np.mean(logs**2)))
    of = constants(bool(rivals))
    scale = graded * float(of.scale(np.array(far), np.array(size), np.array(apart)))
    return Form(scale, of.freedom, far, size, apart, rivals, graded)


def moved(space: str, linked: Array, values: Array, errors: Array) -> Array:
    """Draws in the space of a loss, [R], with an error in ln added to each; `values` are unlinked."""
    with np.errstate(all="ignore"):
        return linked + errors if space == "log" else link(space, values * np.exp(errors))


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
