"""Figures in the papers' manner: vector, legible in print, safe for colour-blind readers.

Colours are Okabe and Ito's; series also differ by marker or dash, so nothing rests on hue alone.
Each function of FIGURES draws one figure, and its docstring is the caption in the report; it raises
LawError where the law or the table has no such figure. `draw_all` writes those that there are.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import colormaps, pyplot, ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scaling.laws.allocation import SIX_ND, FlopsPerToken, Optimum, optimum
from scaling.laws.fitting import Result
from scaling.laws.isoflop import designed, group_budgets, minimum
from scaling.laws.law import LawError
from scaling.laws.problem import Array
from scaling.laws.profiles import Profile
from scaling.laws.resample import Draws

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, FAINT, SHADE = "#222222", "#8a8a8a", "#f3f3f3"
WIDE, NARROW = (6.8, 3.6), (4.6, 3.6)
FLAT = 1e3  # times its best value up to which a flat profile is drawn
STYLE: dict[Any, Any] = {
    "font.size": 9,
    **dict.fromkeys(("axes.titlesize", "axes.labelsize"), 9),
    "legend.fontsize": 8,
    "legend.frameon": False,
    **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.6,
    "svg.fonttype": "path",
    "svg.hashsalt": "scaling",
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "text.color"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color"), INK),
}


def panels(size: tuple[float, float], columns: int = 1, rows: int = 1) -> tuple[Figure, Any]:
    """A figure of this size (inches) in the style of all, and its axes, [rows, columns]."""
    matplotlib.use("Agg")
    matplotlib.rcParams.update(STYLE)
    return pyplot.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What the figures show: a fit, its bootstrap if any, its profiles, how FLOP are counted."""

    result: Result
    draws: Draws | None
    profiles: Sequence[Profile]
    cost: FlopsPerToken

    @property
    def columns(self) -> dict[str, Array]:
        """Variables of the points, [n] each."""
        return dict(self.result.problem.variables)

    @property
    def target(self) -> Array:
        """Observed values, [n]."""
        return self.result.problem.target

    @property
    def flops(self) -> Array:
        """Training FLOP of the points, [n]. Raises LawError for a law without params and tokens."""
        if not {"params", "tokens"} <= set(self.columns):
            raise LawError("needs params and tokens")
        return self.cost.spent(self.columns["params"], self.columns["tokens"])

    @property
    def others(self) -> dict[str, float]:
        """Medians of the variables besides params and tokens."""
        items = self.columns.items()
        return {k: float(np.median(v)) for k, v in items if k not in ("params", "tokens")}

    def optima(self, budgets: Array, draws: Draws | None) -> list[Optimum]:
        """The compute-optimal split of each budget."""
        return optimum(self.result, budgets, draws, cost=self.cost, at=self.others)

    def label(self, name: str) -> str:
        """Name, symbol and unit of a variable or the target; of "flops", how they are counted."""
        if name == "flops" and "flops" not in self.columns:
            counted = "$6ND$ (FLOP)" if self.cost == SIX_ND else f"({self.cost.name} FLOP)"
            return f"compute {counted}"
        known = (*self.result.law.variables, self.result.law.target)
        variable = next(v for v in known if v.name == name)
        head, bar, tail = variable.symbol.replace("*", "^{*}").partition("_")
        symbol = f"${head}_{{{tail}}}$" if bar else f"${head}$"
        return f"{name.replace('_', ' ')} {symbol} ({variable.unit})"


def _band(axis: Axes, grid: Array, intervals: Sequence[Any], colour: str) -> None:
    """Shades between the ends of intervals, [m, 2]."""
    low, high = np.array(intervals).T
    axis.fill_between(grid, low, high, color=colour, alpha=0.2, lw=0)


def plain_log(axis: Axes) -> None:
    """Losses span less than a decade: plain numbers on a logarithmic axis, not powers of ten."""
    low, high = axis.get_ylim()
    if high < 30 * low:
        axis.yaxis.set_major_locator(ticker.MaxNLocator(6))
        axis.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
        axis.yaxis.set_minor_locator(ticker.NullLocator())


def loss_against_compute(fit: Fitted) -> Figure:
    """Loss against compute. Points are runs, coloured by size; the line is the lowest loss that the
    fitted law allows at each budget, with its interval."""
    flops, orange = fit.flops, OKABE_ITO[1]
    figure, ((axis,),) = panels(WIDE)
    size = np.log10(fit.columns["params"])
    dots = {"s": 16, "edgecolors": "white", "linewidths": 0.3, "label": "runs"}
    shade = axis.scatter(flops, fit.target, c=size, cmap="viridis", **dots)
    grid = np.geomspace(flops.min() / 1.5, flops.max() * 10, 40)
    best = fit.optima(grid, fit.draws)
    axis.plot(grid, [b.loss for b in best], color=orange, lw=1.8, label="optimal, fitted law")
    if fit.draws is not None:
        _band(axis, grid, [b.intervals["loss"] for b in best if b.intervals], orange)
    axis.axvspan(flops.max(), grid[-1], color=SHADE, zorder=0)
    corner = {"transform": axis.transAxes, "fontsize": 8, "va": "top", "ha": "right"}
    axis.text(0.99, 0.97, "beyond the data", color=FAINT, **corner)
    labels = {"xlabel": fit.label("flops"), "ylabel": fit.label(fit.result.law.target.name)}
    axis.set(xscale="log", yscale="log", xlim=(grid[0], grid[-1]), **labels)
    plain_log(axis)
    figure.colorbar(shade, ax=axis, label=r"$\log_{10}$ params", pad=0.01)
    axis.legend()
    return figure


def isoflop(fit: Fitted) -> Figure:
    """IsoFLOP curves: loss against size at each budget, parabolas in ln N and their minima (stars).
    A minimum at the edge of its points is an extrapolation."""
    # Budgets as the fit counts them: a grid of exact FLOPs is grouped and labelled by its own.
    flops, columns = fit.flops, fit.columns
    codes = group_budgets(flops)
    groups = designed(codes, columns["params"])
    if len(groups) < 2:
        raise LawError("needs two budgets with four sizes")
    figure, ((axis,),) = panels(WIDE)
    for i, k in enumerate(groups):
        params, loss = columns["params"][codes == k], fit.target[codes == k]
        colour = colormaps["viridis"](0.9 * i / max(len(groups) - 1, 1))
        budget = float(np.exp(np.log(flops[codes == k]).mean()))
        axis.scatter(params, loss, s=14, color=colour, marker=MARKERS[i % 7], label=f"{budget:.2g}")
        lowest = minimum(params, loss, budget)
        if not np.isfinite(lowest.params):
            continue
        x = np.linspace(np.log(params.min()), np.log(params.max()), 80)
        axis.plot(np.exp(x), np.exp(np.polyval(lowest.curve, x)), color=colour, lw=1)
        if params.min() <= lowest.params <= params.max():
            axis.plot(lowest.params, lowest.loss, "*", ms=11, color=OKABE_ITO[1], mec="white")
    labels = {"xlabel": fit.label("params"), "ylabel": fit.label(fit.result.law.target.name)}
    axis.set(xscale="log", yscale="log", **labels)
    plain_log(axis)
    title = f"budget ({fit.cost.name} FLOP)"
    axis.legend(title=title, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def allocation(fit: Fitted) -> Figure:
    """Compute-optimal parameters and tokens with intervals; grey points are the runs. The shaded
    part is beyond the data."""
    flops = fit.flops
    grid = np.geomspace(flops.min() / 2, flops.max() * 100, 40)
    best = fit.optima(grid, fit.draws)
    figure, (axes,) = panels(WIDE, columns=2)
    for axis, key, symbol, colour in zip(axes, ("params", "tokens"), "ND", OKABE_ITO, strict=False):
        axis.plot(grid, [getattr(b, key) for b in best], color=colour, lw=1.8)
        if fit.draws is not None:
            _band(axis, grid, [b.intervals[key] for b in best if b.intervals], colour)
        axis.scatter(flops, fit.columns[key], s=5, color=FAINT, alpha=0.6, lw=0)
        axis.axvspan(flops.max(), grid[-1], color=SHADE, zorder=0)
        labels = {"xlabel": fit.label("flops"), "ylabel": f"optimal {key} ${symbol}^*$"}
        axis.set(xscale="log", yscale="log", xlim=(grid[0], grid[-1]), **labels)
    return figure


def contours(fit: Fitted) -> Figure:
    """Iso-loss contours of the fitted law, the runs, and the compute-optimal path."""
    flops, params, tokens = fit.flops, fit.columns["params"], fit.columns["tokens"]
    n = np.geomspace(params.min() / 2, params.max() * 4, 120)
    d = np.geomspace(tokens.min() / 2, tokens.max() * 4, 120)
    values = fit.result.predict(params=n[None, :], tokens=d[:, None], **fit.others)
    figure, ((axis,),) = panels(WIDE)
    # Scales first: the gaps for labels are cut in the scale that the axis has when they are placed.
    axis.set(xscale="log", yscale="log", xlim=(n[0], n[-1]), ylim=(d[0], d[-1]))
    lines = axis.contour(n, d, values, levels=14, cmap="viridis", linewidths=1)
    axis.clabel(lines, fontsize=7, fmt="%.2f")
    axis.scatter(params, tokens, s=8, color=FAINT, lw=0, label="runs")
    best = fit.optima(np.geomspace(flops.min(), flops.max() * 10, 30), None)
    path = [b.params for b in best], [b.tokens for b in best]
    axis.plot(*path, "--", color=OKABE_ITO[1], lw=1.8, label="compute-optimal")
    axis.set(xlabel=fit.label("params"), ylabel=fit.label("tokens"))
    axis.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0.2)
    return figure


def curve(fit: Fitted) -> Figure:
    """The fitted law and its interval, drawn beyond the data."""
    if len(fit.columns) != 1:
        raise LawError("needs one variable")
    figure, ((axis,),) = panels(WIDE)
    curve_on(axis, fit)
    axis.legend()
    return figure


def curve_on(axis: Axes, fit: Fitted) -> None:
    """Draws the points of a law of one variable, its line and interval, and what they are called."""
    ((name, values),) = fit.columns.items()
    wide = _spans(values, 5)
    if values.min() > 0:
        grid = np.geomspace(values.min() / 1.5, values.max() * (10 if wide else 1.5), 200)
    else:
        grid = np.linspace(values.min(), values.max(), 200)
    line = fit.result.predict(**{name: grid})
    axis.plot(grid, line, color=OKABE_ITO[1], lw=1.8, label="law")
    if fit.draws is not None:
        many = fit.result.law.evaluate_draws(fit.draws.parameters, {name: grid})
        _band(axis, grid, [fit.draws.interval(column) for column in many.T], OKABE_ITO[1])
    axis.scatter(values, fit.target, s=16, color=OKABE_ITO[0], zorder=3, label="data")
    axis.set(xlabel=fit.label(name), ylabel=fit.label(fit.result.law.target.name))
    axis.set_xscale("log" if wide else "linear")


def observed_predicted(fit: Fitted) -> Figure:
    """Observed against predicted."""
    figure, ((axis,),) = panels(NARROW)
    both = np.stack([fit.result.predicted, fit.target])
    axis.plot([both.min(), both.max()], [both.min(), both.max()], color=FAINT, lw=1)
    axis.scatter(*both, s=14, color=OKABE_ITO[0], alpha=0.8, lw=0)
    scale = "log" if _spans(both, 20) else "linear"
    axis.set(xlabel="predicted", ylabel="observed", xscale=scale, yscale=scale)
    return figure


def residuals(fit: Fitted) -> Figure:
    """Residuals against each variable. Structure here means that the form is wrong."""
    columns = fit.columns
    figure, (axes,) = panels((3.4 * len(columns) + 0.4, 3.2), columns=len(columns))
    scale, unit = (100.0, " (%)") if fit.result.loss.space == "log" else (1.0, "")
    for axis, (name, values) in zip(axes, columns.items(), strict=True):
        axis.axhline(0, color=INK, lw=0.8)
        axis.scatter(
            values, scale * fit.result.residuals, s=12, color=OKABE_ITO[0], alpha=0.8, lw=0
        )
        axis.set(xscale="log" if _spans(values, 5) else "linear", xlabel=fit.label(name))
    axes[0].set_ylabel(f"predicted - observed{unit}")
    return figure


def profiles(fit: Fitted) -> Figure:
    """Profiles: how much the objective must rise to move one parameter. The dashed line is the
    threshold of the interval; a flat profile is a parameter that is not identified."""
    if not fit.profiles:
        raise LawError("needs profiles")
    columns = min(3, len(fit.profiles))
    rows = -(-len(fit.profiles) // columns)
    figure, axes = panels((2.3 * columns + 0.3, 2.1 * rows), columns, rows)
    for axis, item in zip(axes.flat, fit.profiles, strict=False):
        top = 2.5 * item.threshold
        axis.plot(item.values, item.statistic, ".-", color=OKABE_ITO[0], lw=1.2, ms=4)
        axis.axhline(item.threshold, color=OKABE_ITO[1], lw=1, ls="--")
        for edge in (item.low, item.high):
            if edge is not None:
                axis.axvline(edge, color=FAINT, lw=0.8)
        best, near = item.values[np.argmin(item.statistic)], item.values[item.statistic < top]
        if best > 0 and near.max() > FLAT * best:  # a flat tail says no more further out
            near = near[near <= FLAT * best]
        if len(near) > 1:
            axis.set(xlim=(near.min(), near.max()), xscale="log" if _spans(near, 30) else "linear")
        axis.set(ylim=(0, top), title=item.name)
    for axis in axes.flat[len(fit.profiles) :]:
        axis.set_visible(False)
    axes[0, 0].set_ylabel("rise of the objective")
    return figure


def bootstrap(fit: Fitted) -> Figure:
    """Bootstrap draws; the cross is the fit. Narrow diagonals are parameters that trade off."""
    free, law = fit.result.problem.free_names, fit.result.law
    wanted = [n for n in free if law.parameter(n).role != "coefficient"][:4]
    wanted = wanted if len(wanted) >= 2 else list(free)[:3]
    if fit.draws is None or len(wanted) < 2:
        raise LawError("needs draws of two free parameters")
    size = len(wanted) - 1
    figure, axes = panels((2.1 * size + 0.8, 2.0 * size + 0.4), size, size)
    for i, j in np.ndindex(size, size):
        axis, x, y = axes[i, j], wanted[j], wanted[i + 1]
        axis.set_visible(j <= i)
        points = fit.draws.parameters[x], fit.draws.parameters[y]
        best = fit.result.parameters[x], fit.result.parameters[y]
        axis.scatter(*points, s=4, alpha=0.35, lw=0, color=OKABE_ITO[0])
        axis.plot(*best, "+", ms=12, mew=2, color=OKABE_ITO[1])
        _bulk(axis.set_xscale, axis.set_xlim, points[0], best[0])
        _bulk(axis.set_yscale, axis.set_ylim, points[1], best[1])
        axis.set(xlabel=x if i == size - 1 else "", ylabel=y if j == 0 else "")
    return figure


def _spans(values: Array, factor: float) -> bool:
    """Whether positive values spread so far that a logarithmic axis is due."""
    return bool(values.min() > 0 and values.max() > factor * values.min())


def _bulk(
    scale: Callable[[str], None],
    limits: Callable[[float, float], object],
    values: Array,
    best: float,
) -> None:
    """Axis limits that a few far draws do not stretch; logarithmic where the bulk spans decades."""
    low, high = np.quantile(values, [0.01, 0.99])
    low, high = min(low, best), max(high, best)
    if low > 0 and high > 30 * low:
        scale("log")
        limits(low / 1.5, high * 1.5)
    elif high > low:
        limits(low - 0.08 * (high - low), high + 0.08 * (high - low))


FIGURES: tuple[Callable[[Fitted], Figure], ...] = (
    *(loss_against_compute, isoflop, allocation, contours, curve),
    *(observed_predicted, residuals, profiles, bootstrap),
)


def draw_all(fit: Fitted, folder: pathlib.Path) -> list[tuple[pathlib.Path, str]]:
    """Write every figure that the law and the data support: (file, caption) of each."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for draw in FIGURES:
        try:
            figure = draw(fit)
        except LawError:  # this law or table has no such figure
            continue
        finally:
            pyplot.close("all")
        path = folder / f"{draw.__name__}.svg"
        figure.savefig(path, dpi=150, metadata={"Date": None})
        drawn.append((path, " ".join((draw.__doc__ or "").split())))
    return drawn
