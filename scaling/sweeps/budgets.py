"""Designs whose lengths follow from something else: a compute budget, or repeated data.

FLOPs are the exact count of `scaling.tasks.flops` (head and attention included, every product a
multiply-add), not 6 N D: for small models the two differ by a factor, and the exponent of a fit
with them (Porian et al. 2024, arXiv:2406.19146).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scaling import configs
from scaling.configs import ConfigError
from scaling.sweeps.cost import Cost, measure
from scaling.sweeps.design import (
    Base,
    Design,
    Point,
    Settings,
    axis,
    label,
    product,
    settings,
    with_settings,
)
from scaling.sweeps.sizes import Optimum

TOLERANCE = 0.05  # a whole number of steps may miss the budget by this much
OFF_CENTRE = 0.5  # as in scaling.laws.isoflop: of the half width of a budget's sizes, in ln N


def isoflop(
    budgets: Sequence[float],
    sizes: Sequence[Settings],
    *,
    per_budget: int | None = None,
    optimum: Optimum | None = None,
) -> Design:
    """Every budget with every size, or with the sizes around its expected optimum.

    The number of steps follows: steps = budget / (exact FLOPs of a unit x units a step).

    Args:
      budgets: FLOPs of a whole run, forward and backward.
      sizes: settings of each size, smallest first, such as of `ladder`.
      per_budget: take only this many neighbouring sizes for each budget, those whose middle is
        nearest to `optimum(budget)` in ln N.
      optimum: FLOPs -> params; needed with `per_budget`.

    Raises:
      ConfigError: (when the points are asked for) a run would have no whole number of steps within
        5 % of its budget.
    """
    if per_budget is not None and optimum is None:
        raise ConfigError("isoflop", "per_budget is given without optimum", "give both")

    def points(base: Base) -> Iterator[Point]:
        costs = [measure(configs.resolve(with_settings(base, size), check=False)) for size in sizes]
        for budget in budgets:
            chosen = range(len(sizes))
            if per_budget is not None and optimum is not None:
                chosen = _nearest([cost.params for cost in costs], per_budget, optimum(budget))
            for index in chosen:
                steps = _steps(budget, costs[index], sizes[index])
                yield Point(
                    {**sizes[index], "train.steps": steps},
                    {"budget": float(budget), "size": index},
                )

    return Design(len(budgets) * min(len(sizes), per_budget or len(sizes)), points)


def _nearest(params: Sequence[int], count: int, best: float) -> range:
    """The window of `count` sizes whose middle in ln N is nearest to `best`."""

    def distance(start: int) -> float:
        window = [math.log(n) for n in params[start : start + count]]
        return abs(0.5 * (window[0] + window[-1]) - math.log(best))

    start = min(range(max(1, len(params) - count + 1)), key=distance)
    return range(start, min(start + count, len(params)))


def _steps(budget: float, cost: Cost, size: Settings) -> int:
    wanted = budget / (cost.unit_flops * cost.step_units)
    steps = round(wanted)
    if steps < 1 or abs(steps / wanted - 1.0) > TOLERANCE:
        raise ConfigError(
            "isoflop",
            f"budget {budget:.3g} is {wanted:.2f} steps of size {label(size)} "
            f"({cost.unit_flops:.3g} FLOPs x {cost.step_units:,} {cost.unit} a step)",
            "raise the budget, or lower train.batch_size",
        )
    return steps


def data_constrained(unique_tokens: Sequence[int], epochs: Sequence[float]) -> Design:
    """Unique tokens (`data.limit`) x epochs over them (Muennighoff et al. 2023, 2305.16264).

    Raises:
      ConfigError: (when the points are asked for) a run would have no step.
    """

    def points(base: Base) -> Iterator[Point]:
        cost = measure(configs.resolve(base, check=False))
        for unique in unique_tokens:
            for count in epochs:
                steps = round(unique * count / cost.step_units)
                if steps < 1:
                    raise ConfigError(
                        "data_constrained",
                        f"{unique:,} unique {cost.unit} x {count:g} epochs are less than one step "
                        f"of {cost.step_units:,}",
                        "give more of them, or a smaller train.batch_size",
                    )
                yield Point(
                    {"data.limit": int(unique), "train.steps": steps},
                    {"unique_tokens": int(unique), "epochs": count},
                )

    return Design(len(unique_tokens) * len(epochs), points)


def rate_by_width(
    sizes: Sequence[Settings], rates: Sequence[float], key: str = "optim.learning_rate"
) -> Design:
    """Learning rate x width: the check of a parametrisation (muP: the best rate does not move).

    Args:
      sizes: settings with `model.model_dim`, such as of `ladder`.
      rates: learning rates, smallest first.
      key: of the rate.
    """
    columns = [{"model_dim": one["model.model_dim"]} for one in sizes]
    return product(settings(sizes, columns), axis(key, rates))


def best_rates(rows: Sequence[Mapping[str, Any]]) -> str:
    """What a grid of `rate_by_width` has found: the best rate of each width, and how far it moves.

    Args:
      rows: one a cell with `model_dim`, `learning_rate`, and `loss` where it has run.

    Returns:
      One line; empty for other designs, or before two widths have run.
    """
    runs = [row for row in rows if row.get("loss") is not None]
    if not all(row.get("model_dim") and row.get("learning_rate") for row in runs):
        return ""
    best: dict[int, float] = {}
    for row in sorted(runs, key=lambda row: -row["loss"]):
        best[row["model_dim"]] = row["learning_rate"]
    if len(best) < 2:
        return ""
    shown = ", ".join(f"{width}: {best[width]:g}" for width in sorted(best))
    factor = max(best.values()) / min(best.values())
    moves = "does not move" if factor == 1 else f"moves by a factor of {factor:g}"
    return f"best learning_rate by model_dim: {shown}; it {moves}"


def grid_warnings(rows: Sequence[Mapping[str, Any]], optimum: Optimum, rule: str) -> list[str]:
    """Budgets whose minimum would lie, or lies, at the edge of their sizes.

    Args:
      rows: one a cell with `budget`, `params`, and `loss` where it has run.
      optimum: what is expected of budgets that have not run.
      rule: how to call it in the message.
    """
    warnings = []
    for budget in sorted({row["budget"] for row in rows if row.get("budget")}):
        own = sorted((r for r in rows if r.get("budget") == budget), key=lambda r: r["params"])
        low, high = own[0]["params"], own[-1]["params"]
        known = [row for row in own if row.get("loss") is not None]
        if len({row["params"] for row in own}) < 3:
            warnings.append(f"budget {budget:.3g}: fewer than 3 sizes have no minimum")
        elif len(known) == len(own):
            best = min(known, key=lambda row: row["loss"])["params"]
            if best in (low, high):
                side = "smallest" if best == low else "largest"
                warnings.append(
                    f"budget {budget:.3g}: the lowest loss is at the {side} size ({best:,} params)"
                )
        else:
            warnings += _expected(budget, low, high, optimum(budget), rule)
    return warnings


def _expected(budget: float, low: float, high: float, best: float, rule: str) -> list[str]:
    shown = f"budget {budget:.3g}: {rule} expects the best size at {best:,.0f} params"
    if not low < best < high:
        return [
            f"{shown}, beyond this budget's {low:,} to {high:,}: its minimum would be at the edge"
        ]
    middle, half = 0.5 * math.log(low * high), 0.5 * math.log(high / low)
    if abs(math.log(best) - middle) > OFF_CENTRE * half:
        return [f"{shown}, off the centre of {low:,} to {high:,}, where a parabola is biased"]
    return []
