"""From run directories, finished or not, to the table that `scaling.fit` reads.

One row for each cell with its last state, and further rows for points inside a run (`point`):

    final            the end of a completed run: what laws are fitted to
    curve, stable    points inside a run that its schedule makes valid, see `scaling.track.points`
    partial          the last evaluation of a run that has not ended

`trunk` names the run whose first part a branch shares: their points are not independent, and a
bootstrap resamples them together.
"""

import csv
import io
import pathlib
from collections.abc import Iterator
from typing import Any

from scaling.sweeps.design import Cell
from scaling.sweeps.ledger import Ledger, State
from scaling.sweeps.sweep_dir import ENDS, SweepDir, open_sweep
from scaling.sweeps.worker import TRIES
from scaling.track import files, points
from scaling.track.stream import StreamError, read_metrics

COLUMNS = (
    *("params", "tokens", "loss", "flops", "seed", "run_id", "status", "trunk", "step", "point"),
    *("non_embedding", "six_nd", "seconds"),
)


def table(path: str | pathlib.Path, tries: int = TRIES) -> list[dict[str, Any]]:
    """The rows of a sweep's table; ConfigError where there is none, LedgerError as of `Ledger`."""
    sweep = open_sweep(path)
    return [
        row
        for cell_id, state in Ledger(sweep).states(tries).items()
        for row in _rows(sweep, sweep.cell(cell_id), state)
    ]


def write(path: str | pathlib.Path, tries: int = TRIES) -> pathlib.Path:
    """Writes table.csv of a sweep, atomically; returns its path."""
    rows = table(path, tries)
    text = io.StringIO()
    names = dict.fromkeys([*COLUMNS, *(name for row in rows for name in row)])
    writer = csv.DictWriter(text, list(names), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    target = pathlib.Path(path).absolute() / "table.csv"
    files.write_text(target, text.getvalue())
    return target


def _rows(sweep: SweepDir, cell: Cell, state: State) -> Iterator[dict[str, Any]]:
    config: Any = cell.config
    summary, cost = sweep.summary(cell.id), sweep.costs[cell.id]
    branch = sweep.branches.get(cell.id)
    shared = {
        "params": cost.params,
        "seed": config.seed,
        "run_id": cell.id,
        "trunk": branch.trunk if branch else "",
        # An axis never hides a column of the table.
        **{name: value for name, value in cell.axes.items() if name not in COLUMNS},
    }

    def row(step: int, loss: float | None, point: str, seen: int | None) -> dict[str, Any]:
        units = step * cost.step_units if seen is None else seen  # None: an older version's run
        return {
            **shared,
            "tokens": units,
            "flops": units * cost.unit_flops,
            "six_nd": units * 6.0 * cost.params,
            "loss": loss,
            "step": step,
            "status": state,
            "point": point,
        }

    key, unit = f"eval/{cost.objective}", f"data/{cost.unit}"
    evals = [] if state == "pending" else _evals(sweep.cell_dir(cell.id), key, unit)
    last = summary.get("step", 0)
    for step, loss, seen in evals:
        if step < last and (kind := points.kind(config, step)):
            yield row(step, loss, kind, seen)
    if state in ENDS:
        end = sweep.loss(cell.id, summary) if state == "completed" else None
        yield row(last, end, "final", summary.get("units")) | {
            "non_embedding": summary.get("params", {}).get("non_embedding"),
            "seconds": round(sum(summary.get("seconds", {}).values()), 2),
        }
    else:
        yield row(*evals[-1][:2], "partial", evals[-1][2]) if evals else row(0, None, "partial", 0)


def _evals(run: pathlib.Path, key: str, unit: str) -> list[tuple[int, float, int | None]]:
    """(step, value, what was seen by then) of every line of a run's stream that has the key."""
    try:
        lines = read_metrics(run)
    except (OSError, StreamError):
        return []
    return [(line["step"], line[key], line.get(unit)) for line in lines if key in line]
