"""From run directories, finished or not, to the table that `scaling.fit` reads.

One row a cell with its last state, and further rows for points inside a run (`point` says which):

    final            the end of a completed run: what laws are fitted to
    curve, stable    points inside a run that its schedule makes valid, see `scaling.track.points`
    partial          where a run stands that has not ended

`trunk` names the run whose first part a branch shares: their points are not independent, and a
bootstrap resamples them together.
"""

import csv
import io
import pathlib
from collections.abc import Iterator
from typing import Any

from scaling.sweeps import ledger
from scaling.sweeps.design import Cell
from scaling.sweeps.sweep_dir import SweepDir, open_sweep
from scaling.track import files, points
from scaling.track.run_dir import RunDirError, read_summary
from scaling.track.stream import StreamError, read_metrics

COLUMNS = (
    *("params", "tokens", "loss", "flops", "seed", "run_id", "status", "trunk", "step", "point"),
    *("non_embedding", "six_nd", "seconds"),
)


def table(path: str | pathlib.Path, tries: int = 3) -> list[dict[str, Any]]:
    """The rows of a sweep's table.

    Raises:
      ConfigError: there is no sweep in that directory.
      LedgerError: its ledger is damaged.
    """
    sweep = open_sweep(path)
    states = ledger.states(sweep, tries)
    rows = []
    for cell_id in sweep.ids:
        cell = sweep.cell(cell_id)
        base = _base(sweep, cell)
        rows += [base | row for row in _points(sweep, cell, states[cell_id])]
    return rows


def write(path: str | pathlib.Path, tries: int = 3) -> pathlib.Path:
    """Writes table.csv of a sweep, atomically; returns its path."""
    rows = table(path, tries)
    names = list(dict.fromkeys([*COLUMNS, *(name for row in rows for name in row)]))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    target = pathlib.Path(path).absolute() / "table.csv"
    files.write_text(target, text.getvalue())
    return target


def _base(sweep: SweepDir, cell: Cell) -> dict[str, Any]:
    """What all rows of a cell share. Axes never hide a column of the table."""
    axes = {k: v for k, v in cell.axes.items() if k not in COLUMNS}
    cost = sweep.costs[cell.id]
    trunk = sweep.branches[cell.id].trunk if cell.id in sweep.branches else ""
    own = {"params": cost.params, "seed": cell.config.seed, "run_id": cell.id, "trunk": trunk}
    return {**own, **axes}


def _points(sweep: SweepDir, cell: Cell, state: str) -> Iterator[dict[str, Any]]:
    run = sweep.cell_dir(cell.id)
    cost = sweep.costs[cell.id]
    try:
        summary = read_summary(run) or {}
    except RunDirError:
        summary = {}
    six_nd = 6.0 * cost.params

    def at(step: int, loss: Any, point: str) -> dict[str, Any]:
        units = step * cost.step_units
        return {
            "tokens": units, "flops": units * cost.unit_flops, "six_nd": units * six_nd,
            "loss": loss, "step": step, "status": state, "point": point,
        }  # fmt: skip

    evals = [] if state == "pending" else _evals(run)
    last = summary.get("step", 0)
    for step, loss in evals:
        if step < last and (kind := points.kind(cell.config, step)):
            yield at(step, loss, kind)
    if state in ledger.ENDS:
        more = {
            "non_embedding": summary.get("params", {}).get("non_embedding"),
            "seconds": round(sum(summary.get("seconds", {}).values()), 2),
        }
        end = summary.get("eval", {}).get("loss") if state == "completed" else None
        yield at(last, end, "final") | more
    else:
        yield at(evals[-1][0] if evals else 0, evals[-1][1] if evals else None, "partial")


def _evals(run: pathlib.Path) -> list[tuple[int, float]]:
    """(step, loss) of every evaluation in a run's stream."""
    try:
        return [
            (line["step"], line["eval/loss"]) for line in read_metrics(run) if "eval/loss" in line
        ]
    except (OSError, StreamError):
        return []
