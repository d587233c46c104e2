"""What a person sees of a sweep before it starts: a line a cell, totals, warnings."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from scaling.sweeps import budgets, ledger, sizes
from scaling.sweeps.cost import Cost
from scaling.sweeps.design import Sweep
from scaling.sweeps.sweep_dir import SweepDir
from scaling.track.progress import duration, quantity
from scaling.track.run_dir import RunDirError, read_summary

SHOWN = 60  # cells; of a longer table the middle is left out


def overview(sweep: SweepDir, declared: Sweep, tries: int) -> str:
    """The table of all cells with totals and warnings.

    Args:
      sweep: the cells with their costs, whether they are on disk yet or not.
      declared: what the file says, for the expected optimum.
      tries: attempts that may fail before a cell has failed.

    Raises:
      LedgerError: the ledger is damaged.
    """
    found = ledger.states(sweep, tries)
    summaries = {one: _summary(sweep, one) for one in sweep.ids}
    seconds = estimate(sweep, summaries)
    columns = list(dict.fromkeys(name for axes in sweep.axes.values() for name in axes))
    header = [*columns, "params", _unit(sweep), "FLOPs", "time", "kept", "state"]
    rows = [
        [
            *(_show(sweep.axes[one].get(name, "")) for name in columns),
            *_cost_columns(sweep.costs[one], seconds[one]),
            found[one],
        ]
        for one in sweep.ids
    ]
    left = [one for one in sweep.ids if found[one] not in ledger.ENDS]
    lines = [_aligned([header, *_middle_out(rows)]), _totals(sweep, left, seconds)]
    lines.append(f"{len(sweep.ids)} cells: {ledger.counts(found)}")
    return "\n".join([*lines, *warnings(sweep, declared, summaries)])


def warnings(sweep: SweepDir, declared: Sweep, summaries: Mapping[str, Any]) -> list[str]:
    """About isoFLOP budgets whose minimum would be at the edge; what a grid of rates has found."""
    rows = [
        {
            **{key: sweep.axes[one].get(key) for key in ("budget", "model_dim", "learning_rate")},
            "params": sweep.costs[one].params,
            "loss": _loss(summaries[one]),
        }
        for one in sweep.ids
    ]
    rule = "the sweep's rule" if declared.optimum else "Chinchilla's rule"
    optimum = declared.optimum or sizes.chinchilla()
    found = [f"warning: {text}" for text in budgets.grid_warnings(rows, optimum, rule)]
    return found + list(filter(None, [budgets.best_rates(rows)]))


def estimate(sweep: SweepDir, summaries: Mapping[str, Any]) -> dict[str, float | None]:
    """Seconds that each cell will take, from finished cells of the sweep; None without any.

    The rate is that of the finished cell nearest in parameters, since small models are far from a
    machine's peak; start and compile are the median of those seen.
    """
    rates: list[tuple[float, float]] = []
    starts: list[float] = []
    for one, summary in summaries.items():
        spent = (summary or {}).get("seconds", {})
        if _loss(summary) is not None and spent.get("train"):
            rates.append(
                (math.log(sweep.costs[one].params), sweep.costs[one].flops / spent["train"])
            )
            starts.append(sum(spent.get(k, 0.0) for k in ("init", "compile", "eval", "checkpoint")))
    if not rates:
        return dict.fromkeys(sweep.ids)
    start = statistics.median(starts)

    def seconds(cost: Cost) -> float:
        size = math.log(cost.params)
        return start + cost.flops / min(rates, key=lambda pair: abs(pair[0] - size))[1]

    return {one: seconds(sweep.costs[one]) for one in sweep.ids}


def _summary(sweep: SweepDir, cell: str) -> dict[str, Any] | None:
    try:
        return read_summary(sweep.cell_dir(cell))
    except RunDirError:
        return None


def _loss(summary: dict[str, Any] | None) -> float | None:
    done = summary if summary and summary.get("status") == "completed" else {}
    return done.get("eval", {}).get("loss")


def _unit(sweep: SweepDir) -> str:
    return next(iter(sweep.costs.values())).unit


def _cost_columns(cost: Cost, seconds: float | None) -> list[str]:
    spent = "" if seconds is None else duration(seconds)
    kept = quantity(cost.kept_bytes)
    return [f"{cost.params:,}", quantity(cost.units), f"{cost.flops:.3g}", spent, f"{kept}B"]


def _totals(sweep: SweepDir, left: Sequence[str], seconds: Mapping[str, float | None]) -> str:
    def total(of: Callable[[Cost], float], cells: Sequence[str]) -> float:
        return sum(of(sweep.costs[one]) for one in cells)

    known = [s for one in left if (s := seconds[one]) is not None]
    text = (
        f"total {quantity(total(lambda c: c.units, sweep.ids))} {_unit(sweep)}, "
        f"{total(lambda c: c.flops, sweep.ids):.3g} FLOPs, "
        f"{quantity(total(lambda c: c.kept_bytes, sweep.ids))}B kept; "
        f"left {total(lambda c: c.flops, left):.3g} FLOPs"
    )
    shared = sum(
        branch.step * sweep.costs[one].step_units * sweep.costs[one].unit_flops
        for one, branch in sweep.branches.items()
    )
    if shared:
        share = shared / total(lambda c: c.flops, sweep.ids)
        text += f"; shared trunks save {shared:.3g} of these FLOPs ({share:.0%})"
    return text + (f", about {duration(sum(known))} of one worker" if known else "")


def _show(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _middle_out(rows: list[list[str]]) -> list[list[str]]:
    if len(rows) <= SHOWN:
        return rows
    half = SHOWN // 2
    gap = [f"... {len(rows) - 2 * half} more", *[""] * (len(rows[0]) - 1)]
    return [*rows[:half], gap, *rows[-half:]]


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(f"{text:>{width}}" for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
