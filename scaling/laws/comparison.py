"""Which law? Extrapolation from small runs to large, held-out error, information criteria."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import optimize, special

from scaling.laws.fitting import Result, fit
from scaling.laws.isoflop import group_budgets
from scaling.laws.law import Law, LawError
from scaling.laws.losses import Loss, objective, slope
from scaling.laws.problem import Array
from scaling.laws.resample import refit
from scaling.laws.table import Table

FOLDS = 10
# Rolling origin: the largest scale over these is where fits end; what lies above is predicted.
ORIGINS = (2.0, 4.0, 8.0, 16.0)


@dataclasses.dataclass(frozen=True)
class Score:
    """One law on one table. Errors are root mean squares of residuals in the space of the loss.

    `rolling` comes from fits below a budget judged above it, over several budgets; `held_out` from
    folds of whole runs, `extrapolation` from leaving out the largest budget. Criteria count the
    noise scale as a parameter and are comparable between spaces.
    """

    law: str
    parameters: int
    objective: float
    aic: float
    aicc: float
    bic: float
    rolling: float | None
    held_out: float
    extrapolation: float | None
    extrapolation_bias: float | None
    warnings: tuple[str, ...]


def log_likelihood(result: Result) -> float:
    """Maximum over the noise scale tau of the density exp(-rho(r)/tau)/Z(tau), g'(y) included.

    Least squares gives the Gaussian, L1 the Laplace, Huber what lies between (the same delta).
    """
    r, w = result.residuals, result.problem.weights / result.problem.weights.mean()
    n = float(np.sum(w))
    jacobian = float(np.sum(w * np.log(slope(result.loss.space, result.problem.target))))
    loss = dataclasses.replace(result.loss, over=1.0, reduction="mean")
    mean = max(objective(r, w, loss), 1e-300)
    if loss.kind == "lsq":
        return -0.5 * n * (np.log(2 * np.pi * 2 * mean) + 1) + jacobian
    if loss.kind == "l1":
        return -n * (np.log(2 * mean) + 1) + jacobian
    delta = loss.delta

    def negative(log_tau: float) -> float:
        tau = np.exp(log_tau)
        centre = np.sqrt(2 * np.pi * tau) * special.erf(delta / np.sqrt(2 * tau))
        tails = 2 * tau / delta * np.exp(-(delta**2) / (2 * tau))
        return mean / tau + float(np.log(centre + tails))

    start = np.log(mean)
    best = optimize.minimize_scalar(negative, bounds=(start - 6, start + 6), method="bounded")
    return -n * float(best.fun) + jacobian


def criteria(result: Result) -> dict[str, float]:
    """AIC, AICc (inf when n is too small for it) and BIC; NaN of a combination.

    No likelihood is maximised by a median of laws, so nothing is known of what its fit cost.
    """
    if result.members:
        return dict.fromkeys(("aic", "aicc", "bic"), float("nan"))
    k, n = result.problem.freedom + 1, len(np.unique(result.problem.clusters))
    value = -2 * log_likelihood(result)
    spare = n - k - 1
    return {
        "aic": value + 2 * k,
        "aicc": value + 2 * k + 2 * k * (k + 1) / spare if spare > 0 else float("inf"),
        "bic": value + k * float(np.log(n)),
    }


def fold_masks(clusters: Array, seed: int = 0) -> Array:
    """Held-out masks [folds, n]: whole clusters, dealt at random."""
    _, codes = np.unique(clusters, return_inverse=True)
    groups = int(codes.max()) + 1
    folds = min(FOLDS, groups)
    deal = np.random.default_rng(seed).permutation(groups) % folds
    return deal[codes][None, :] == np.arange(folds)[:, None]


def held_out(result: Result, masks: Array) -> Array:
    """Residuals of held-out points, [K, n], NaN where a point was in the fit of that row."""
    vectors, _ = refit(result, np.where(masks, 0.0, result.problem.weights))
    residuals = np.stack([result.problem.residuals(v) for v in vectors])
    return np.where(masks, residuals, np.nan)


def leave_largest_out(result: Result) -> Array | None:
    """Residuals of the points of the largest budget under a fit to the others; None if too few."""
    scale = result.problem.compute
    if scale is None:
        return None
    codes = group_budgets(scale)
    mask = codes == codes.max()
    if mask.sum() > 0.5 * result.points:
        mask = scale >= np.quantile(scale, 0.9)
    if result.points - mask.sum() < result.problem.freedom + 1 or not mask.any() or mask.all():
        return None
    return held_out(result, mask[None])[0][mask]


def rolling_origin(result: Result) -> float | None:
    """Error of fits below 1/2, 1/4, 1/8 and 1/16 of the largest compute, judged on what lies above.

    Root mean square over the origins that leave a fit at least two points more than parameters (of
    each, so that the many points above a low origin weigh no more); None if there is none.
    """
    scale = result.problem.compute
    if scale is None:
        return None
    above = scale[None] > scale.max() / np.array(ORIGINS)[:, None] * (1 + 1e-9)
    enough = (~above).sum(axis=1) >= result.problem.freedom + 2
    masks = np.unique(above[enough & above.any(axis=1)], axis=0)
    if not len(masks):
        return None
    return float(np.sqrt(np.mean(np.nanmean(held_out(result, masks) ** 2, axis=1))))


def score(result: Result, seed: int = 0) -> Score:
    """Judge one fitted law."""
    masks = fold_masks(result.problem.clusters, seed)
    residuals = held_out(result, masks)
    outside = leave_largest_out(result)

    def rms(values: Array) -> float:
        return float(np.sqrt(np.nanmean(values**2)))

    return Score(
        law=result.law.name,
        parameters=result.problem.freedom,
        objective=result.objective,
        **criteria(result),
        rolling=rolling_origin(result),
        held_out=rms(residuals),
        extrapolation=None if outside is None else rms(outside),
        extrapolation_bias=None if outside is None else float(np.mean(outside)),
        warnings=result.warnings,
    )


def compare(
    table: Table, laws: Sequence[Result | Law | str], loss: Loss | None = None, *, seed: int = 0
) -> list[Score]:
    """Fit each law to the same table and rank by extrapolation. Targets must agree.

    Random folds choose the law with the most parameters; what a forecast needs is judged by fits
    below a budget and runs above it (`rolling`), by held-out error only where a law has no origin.
    A fit is judged as it stands (what was fixed, tied, bounded or weighted stays so).
    """
    results = [w if isinstance(w, Result) else fit(table, w, loss, seed=seed) for w in laws]
    targets = {r.law.target.name for r in results}
    if len(targets) > 1:
        raise LawError(f"laws predict different targets {sorted(targets)}: compare like with like")
    sizes = {r.points for r in results}
    if len(sizes) > 1:
        raise LawError(
            f"laws use different numbers of rows {sorted(sizes)}: fill or drop those rows"
        )
    scores = [score(r, seed) for r in results]
    known = all(s.rolling is not None for s in scores)
    return sorted(scores, key=lambda s: s.rolling if known and s.rolling else s.held_out)


def _repeats(result: Result) -> tuple[Array, Array, Array]:
    """Points at equal variables: the group of each, [n], and spare points and squares by group."""
    columns = np.stack(list(result.problem.variables.values()), axis=1)
    codes = np.unique(columns, axis=0, return_inverse=True)[1].reshape(-1)
    counts, linked = np.bincount(codes), result.problem.linked_target()
    means = np.bincount(codes, linked) / counts
    return codes, counts - 1, np.bincount(codes, (linked - means[codes]) ** 2)


def seed_noise(result: Result) -> tuple[float, int] | None:
    """Pooled standard deviation (in the space of the loss) of repeats at equal variables.

    Returns (deviation, degrees of freedom), None without repeats.
    """
    _, spare, squares = _repeats(result)
    freedom = int(spare.sum())
    return (float(np.sqrt(squares.sum() / freedom)), freedom) if freedom else None


def seed_weights(result: Result) -> Array:
    """Weights from repeated seeds, [n], mean 1: inverse variances of the groups of repeats.

    A group's variance is shrunk to the pooled one with as many degrees of freedom as the typical
    group has, so that two lucky seeds do not dominate; points without repeats take the pooled one.
    """
    codes, spare, squares = _repeats(result)
    if not spare.any():
        raise LawError("weights from seeds need rows that repeat the same variables; none do")
    prior = max(float(np.mean(spare[spare > 0])), 1.0)
    variance = (prior * squares.sum() / spare.sum() + squares) / (prior + spare)
    weights = 1.0 / np.maximum(variance, 1e-300)[codes]
    return weights / weights.mean()
