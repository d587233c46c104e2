"""Model sizes by a stated rule, and designs whose lengths follow from a budget or repeated data.

FLOPs are the exact count of `scaling.tasks.flops` (head and attention included, every product a
multiply-add), not 6 N D: for small models the two differ by a factor, and the exponent of a fit
with them (Porian et al. 2024, arXiv:2406.19146).
"""

import itertools
import json
import math
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from scaling import configs
from scaling.configs import ConfigError
from scaling.sweeps.cost import Cost, measure
from scaling.sweeps.design import Base, Design, Point, Settings, label

Optimum = Callable[[float], float]  # FLOPs -> params

TOLERANCE = 0.05  # relative; a whole number of steps may miss the budget by this much
OFF_CENTRE = 0.5  # as in scaling.laws.isoflop: of the half width of a budget's sizes, in ln N


# --- sizes -----------------------------------------------------------------------------------


def widths(low: int, high: int, count: int, multiple: int = 8) -> tuple[int, ...]:
    """Widths spaced evenly in their logarithm, rounded to a multiple; fewer where two coincide.

    Raises:
      ConfigError: the range is empty, or there are fewer than two widths.
    """
    if not 0 < low <= high or count < 1 or (count == 1 and low != high):
        what = f"there are no {count} widths from {low} to {high}"
        raise ConfigError("widths", what, "give 0 < low < high and a count of at least 2")
    spaced = [low * (high / low) ** (i / max(1, count - 1)) for i in range(count)]
    return tuple(dict.fromkeys(max(multiple, round(w / multiple) * multiple) for w in spaced))


def ladder(
    model_dims: Iterable[int], *, aspect: float = 32.0, head_dim: int = 16, min_layers: int = 1
) -> tuple[Mapping[str, Any], ...]:
    """Sizes of a Transformer: depth and heads follow from the width.

    Args:
      aspect: width over depth; layers = round(width / aspect), at least `min_layers`.
      head_dim: width of a head; heads = width / head_dim.

    Returns:
      Settings of `model.model_dim`, `model.num_layers` and `model.num_heads` for each size.

    Raises:
      ConfigError: `head_dim` does not divide a width.
    """
    sizes = []
    for width in model_dims:
        if width % head_dim:
            what = f"width {width} is not a multiple of head_dim={head_dim}"
            remedy = "give widths(..., multiple=head_dim), or another head_dim"
            raise ConfigError("ladder", what, remedy)
        sizes.append(
            {
                "model.model_dim": width,
                "model.num_layers": max(min_layers, round(width / aspect)),
                "model.num_heads": width // head_dim,
            }
        )
    return tuple(sizes)


# --- the best size at a budget ---------------------------------------------------------------


def chinchilla(tokens_per_param: float = 20.0) -> Optimum:
    """D = 20 N (Hoffmann et al. 2022), so N* = sqrt(C / 120) by C = 6 N D."""
    return lambda flops: math.sqrt(flops / (6.0 * tokens_per_param))


def power_rule(params: float, flops: float, exponent: float = 0.5) -> Optimum:
    """N* = params (C / flops)^exponent: through one known point."""
    return lambda budget: params * (budget / flops) ** exponent


def from_fit(path: str | pathlib.Path) -> Optimum:
    """The optimum of an earlier fit: `fit.json` of law `chinchilla`, by C = 6 N D.

    Raises:
      ConfigError: there is no such fit, or it is of another law.
    """
    try:
        parameters = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))["parameters"]
        a, b, alpha, beta = (float(parameters[name]) for name in ("A", "B", "alpha", "beta"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"{path} is not a fit of law chinchilla ({type(error).__name__}: {error})"
        remedy = "name the fit.json that python -m scaling.fit --law=chinchilla wrote"
        raise ConfigError("from_fit", what, remedy) from error
    scale = (alpha * a / (beta * b)) ** (1.0 / (alpha + beta))
    return lambda flops: scale * (flops / 6.0) ** (beta / (alpha + beta))


# --- designs ---------------------------------------------------------------------------------


def isoflop(
    budgets: Sequence[float],
    sizes: Sequence[Settings],
    *,
    per_budget: int | None = None,
    optimum: Optimum | None = None,
) -> Design:
    """Every budget with every size, or with the sizes around its expected optimum.

    The number of steps follows: steps = budget / (exact FLOPs per unit x units per step).

    Args:
      budgets: FLOPs of a whole run, forward and backward.
      sizes: settings of each size, smallest first, such as of `ladder`.
      per_budget: take only this many neighbouring sizes for each budget, those whose middle is
        nearest to `optimum(budget)` in ln N.
      optimum: FLOPs -> params; needed with `per_budget`.

    Raises:
      ConfigError: (when the points are asked for) no whole number of steps of a run is within 5 %
        of its budget.
    """
    if per_budget is not None and optimum is None:
        raise ConfigError("isoflop", "per_budget is given without optimum", "give both")

    def points(base: Base) -> Iterator[Point]:
        costs = [_cost(base, size) for size in sizes]
        for budget in budgets:
            chosen = range(len(sizes))
            if per_budget is not None and optimum is not None:
                chosen = _nearest([cost.params for cost in costs], per_budget, optimum(budget))
            for index in chosen:
                steps = _steps(budget, costs[index], sizes[index])
                yield Point(
                    {**sizes[index], "train.steps": steps}, {"budget": float(budget), "size": index}
                )

    return Design(len(budgets) * min(len(sizes), per_budget or len(sizes)), points)


def _nearest(params: Sequence[int], count: int, best: float) -> range:
    """The window of `count` sizes whose middle in ln N is nearest to `best`."""

    def distance(start: int) -> float:
        window = [math.log(n) for n in params[start : start + count]]
        return abs(0.5 * (window[0] + window[-1]) - math.log(best))

    start = min(range(max(1, len(params) - count + 1)), key=distance)
    return range(start, min(start + count, len(params)))


def _cost(base: Base, size: Settings) -> Cost:
    return measure(configs.resolve(configs.with_values(base, size), check=False))


def _steps(budget: float, cost: Cost, size: Settings) -> int:
    exact = budget / (cost.unit_flops * cost.step_units)
    steps = round(exact)
    if steps < 1 or abs(steps / exact - 1.0) > TOLERANCE:
        what = (
            f"budget {budget:.3g} is {exact:.2f} steps of size {label(size)} "
            f"({cost.unit_flops:.3g} FLOPs x {cost.step_units:,} {cost.unit} per step)"
        )
        raise ConfigError("isoflop", what, "raise the budget, or lower train.batch_size")
    return steps


def data_constrained(unique_tokens: Sequence[int], epochs: Sequence[float]) -> Design:
    """Unique tokens (`data.limit`) x epochs over them, for the law `data_constrained`.

    Muennighoff et al. 2023, arXiv:2305.16264.

    Raises:
      ConfigError: (when the points are asked for) a run is shorter than one step.
    """

    def points(base: Base) -> Iterator[Point]:
        step_units = _cost(base, {}).step_units
        for unique, count in itertools.product(unique_tokens, epochs):
            steps = round(unique * count / step_units)
            if steps < 1:
                what = f"{unique:,} x {count:g} epochs are less than one step of {step_units:,}"
                remedy = "give more unique tokens, or a smaller train.batch_size"
                raise ConfigError("data_constrained", what, remedy)
            yield Point(
                {"data.limit": unique, "train.steps": steps},
                {"unique_tokens": unique, "epochs": count},
            )

    return Design(len(unique_tokens) * len(epochs), points)


# --- what a grid shows -----------------------------------------------------------------------


def best_rates(rows: Sequence[Mapping[str, Any]]) -> str:
    """The best rate of each width in a grid of both, and how far it moves (under muP: not at all).

    One line; empty for other designs, or before two widths have run. A row for each cell has
    `model_dim`, `learning_rate`, and `loss` where it has run.
    """
    runs = [row for row in rows if row.get("loss") is not None]
    if not all(row.get("model_dim") and row.get("learning_rate") for row in runs):
        return ""
    runs.sort(key=lambda row: -row["loss"])
    best: dict[int, float] = {row["model_dim"]: row["learning_rate"] for row in runs}
    if len(best) < 2:
        return ""
    shown = ", ".join(f"{width}: {best[width]:g}" for width in sorted(best))
    factor = max(best.values()) / min(best.values())
    moves = "does not move" if factor == 1 else f"moves by a factor of {factor:g}"
    return f"best learning_rate by model_dim: {shown}; it {moves}"


def grid_warnings(rows: Sequence[Mapping[str, Any]], optimum: Optimum, rule: str) -> list[str]:
    """Budgets whose minimum is, or by the rule of the `optimum` is expected, at the edge of their sizes.

    A row for each cell has `budget`, `params`, and `loss` where it has run.
    """
    budgets: dict[float, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row.get("budget"):
            budgets.setdefault(row["budget"], []).append(row)
    texts = {key: _warning(budgets[key], optimum(key), rule) for key in sorted(budgets)}
    return [f"budget {budget:.3g}: {text}" for budget, text in texts.items() if text]


def _warning(cells: Sequence[Mapping[str, Any]], expected: float, rule: str) -> str:
    sizes = sorted({cell["params"] for cell in cells})
    if len(sizes) < 3:
        return "fewer than 3 sizes have no minimum"
    low, high = sizes[0], sizes[-1]
    if all(cell.get("loss") is not None for cell in cells):
        best = min(cells, key=lambda cell: cell["loss"])["params"]
        side = {low: "smallest", high: "largest"}.get(best)
        return f"the lowest loss is at the {side} size ({best:,} params)" if side else ""
    shown = f"{rule} expects the best size at {expected:,.0f} params"
    if not low < expected < high:
        return f"{shown}, beyond this budget's {low:,} to {high:,}: its minimum is at the edge"
    middle, half = 0.5 * math.log(low * high), 0.5 * math.log(high / low)
    if abs(math.log(expected) - middle) > OFF_CENTRE * half:
        return f"{shown}, off the centre of {low:,} to {high:,}, where a parabola is biased"
    return ""
