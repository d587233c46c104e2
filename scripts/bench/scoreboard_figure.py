"""The scoreboard as a picture: forecast against outcome, calibration, errors in order."""

import pathlib
from typing import Any

import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes

from scaling.laws.figures import FAINT, INK, MARKERS, OKABE_ITO, panels

MAIN = "loss"


def draw(record: dict[str, Any], out: pathlib.Path, name: str = "scoreboard") -> list[pathlib.Path]:
    """Writes `name`.svg and `name`.png into `out`; `record` is `scoreboard.score`'s.

    Raises:
      OSError: the files cannot be written.
    """
    figure, axes = panels((9.6, 3.3), columns=3)
    rows = [r for r in record["rows"] if r["quantity"] == MAIN and r["happened"] is not None]
    _against(axes[0, 0], rows)
    _calibration(axes[0, 1], record["quantities"])
    _errors(axes[0, 2], rows)
    paths = [out / f"{name}.svg", out / f"{name}.png"]
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(paths[0], metadata={"Date": None})
    figure.savefig(paths[1], dpi=150)
    pyplot.close(figure)
    return paths


def _against(axis: Axes, rows: list[dict[str, Any]]) -> None:
    """What happened over what was predicted, with both intervals; the diagonal is a perfect score."""
    axis.set(title="Loss: forecast and outcome", xlabel="happened", ylabel="predicted")
    if not rows:
        axis.text(0.5, 0.5, "no loss was graded", transform=axis.transAxes, ha="center")
        return
    happened = np.array([row["happened"] for row in rows])
    span = [happened.min(), happened.max()]
    pad = 0.05 * (span[1] - span[0]) or 0.05 * span[1]
    ends = [span[0] - pad, span[1] + pad]
    axis.plot(ends, ends, color=FAINT, lw=1, zorder=1)
    for inside, colour, marker, label in (
        (True, OKABE_ITO[0], "o", "inside 95 %"),
        (False, OKABE_ITO[1], "X", "outside 95 %"),
    ):
        chosen = [row for row in rows if bool(row["inside95"]) is inside]
        if not chosen:
            continue
        x = [row["happened"] for row in chosen]
        axis.vlines(x, *_ends(chosen, "interval95"), color=colour, lw=0.9, alpha=0.6)
        axis.vlines(x, *_ends(chosen, "interval50"), color=colour, lw=2.4, alpha=0.6)
        axis.plot(x, [row["predicted"] for row in chosen], marker, ms=4, color=colour, label=label)
    axis.set_xlim(*ends)
    axis.legend(loc="upper left")


def _ends(rows: list[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    pairs = [row[key] or (row["predicted"],) * 2 for row in rows]
    return [p[0] for p in pairs], [p[1] for p in pairs]


def _calibration(axis: Axes, quantities: dict[str, Any]) -> None:
    """Share of outcomes inside an interval over the level that it claims."""
    axis.plot([0, 1], [0, 1], color=FAINT, lw=1, zorder=1)
    drawn = [(name, one["calibration"]) for name, one in quantities.items()]
    drawn = [(name, levels) for name, levels in drawn if any(levels.values())]
    # Rate, chip-hours and cost are the step time in other units: one line says it all.
    derived = {"chip_hours", "cost", "tokens_per_second", "examples_per_second"}
    drawn = [pair for pair in drawn if pair[0] not in derived]
    for slot, (name, levels) in enumerate(drawn):
        known = [(float(level), one) for level, one in levels.items() if one]
        x = [level for level, _ in known]
        share = [one["share"] for _, one in known]
        colour = OKABE_ITO[slot % len(OKABE_ITO)]
        if name == MAIN:
            low, high = np.array([one["interval95"] for _, one in known]).T
            axis.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)
        label = f"{name.replace('_', ' ')} (n = {known[-1][1]['of']})"
        axis.plot(x, share, color=colour, marker=MARKERS[slot % len(MARKERS)], ms=3.5, label=label)
    axis.set(
        title="Calibration",
        xlabel="level of the interval",
        ylabel="share of outcomes inside",
        xlim=(0, 1),
        ylim=(0, 1.03),
    )
    if drawn:
        axis.legend(loc="lower right")


def _errors(axis: Axes, rows: list[dict[str, Any]]) -> None:
    """Relative errors in the order of the forecasts, with the 95 % interval around the outcome."""
    axis.axhline(0, color=FAINT, lw=1, zorder=1)
    for place, row in enumerate(rows, 1):
        scale = 100 / abs(row["happened"])
        colour = OKABE_ITO[0] if row["inside95"] else OKABE_ITO[1]
        if row["interval95"]:
            low, high = ((end - row["happened"]) * scale for end in row["interval95"])
            axis.plot([place, place], [low, high], color=colour, lw=0.9, alpha=0.6)
        error = (row["predicted"] - row["happened"]) * scale
        axis.plot(place, error, "o" if row["inside95"] else "X", ms=4, color=colour)
    if rows:
        bias = 100 * float(np.mean([row["relative_error"] for row in rows]))
        axis.axhline(bias, color=INK, lw=0.9, ls="--")
        axis.set_title(f"Error, 95 % interval; bias {bias:+.2f} %")
    axis.set(xlabel="forecast, in order of time", ylabel="predicted less happened (%)")
