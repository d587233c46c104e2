"""What a person sees of a sweep: before it starts, a table of its cells; while it runs, a live table
on a terminal, or elsewhere a line for each event.

Everything shown is read from the sweep's directory, so cells of other launchers appear too.
"""

import json
import os
import pathlib
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table

from scaling.sweeps import budgets, timing
from scaling.sweeps.design import Sweep, label, show
from scaling.sweeps.ledger import Ledger, State, counts
from scaling.sweeps.sweep_dir import ENDS, SweepDir
from scaling.sweeps.timing import Speed
from scaling.track.progress import aligned, duration, quantity

SHOWN = 60  # cells; of a longer table the middle is left out


# --- before it starts ------------------------------------------------------------------------


def overview(
    sweep: SweepDir, declared: Sweep, tries: int, speeds: Sequence[Speed] = (), basis: str = ""
) -> str:
    """The table of all cells with totals and warnings, whether they are on disk yet or not.

    `speeds` are those of cells that ran or were timed, and `basis` says in words what they rest on.
    """
    states = Ledger(sweep).states(tries)
    seconds = {cell: timing.seconds(cost, speeds) for cell, cost in sweep.costs.items()}
    columns = list(dict.fromkeys(name for axes in sweep.axes.values() for name in axes))
    unit = next(iter(sweep.costs.values())).unit
    rows = [
        [
            *(show(sweep.axes[cell].get(name, "")) for name in columns),
            *(f"{cost.params:,}", quantity(cost.units), f"{cost.flops:.3g}"),
            "" if cost.eval_flops is None else f"{cost.eval_flops:.3g}",
            *("" if spent is None else duration(spent), f"{quantity(cost.kept_bytes)}B"),
            states[cell],
        ]
        for (cell, cost), spent in zip(sweep.costs.items(), seconds.values(), strict=True)
    ]
    if len(rows) > SHOWN:
        half = SHOWN // 2
        gap = [f"... {len(rows) - 2 * half} more", *[""] * (len(rows[0]) - 1)]
        rows = [*rows[:half], gap, *rows[-half:]]
    header = [*columns, "params", unit, "FLOPs", "eval FLOPs", "time", "kept", "state"]
    left = [cell for cell in sweep.ids if states[cell] not in ENDS]
    lines = [aligned([header, *rows]), _totals(sweep, left, seconds, basis)]
    lines.append(f"{len(sweep.ids)} cells: {counts(states)}")
    return "\n".join([*lines, *warnings(sweep, declared)])


def warnings(sweep: SweepDir, declared: Sweep) -> list[str]:
    """About isoFLOP budgets whose minimum is at the edge; the best rates of a grid of rates."""
    rows = [
        {
            **{key: sweep.axes[cell].get(key) for key in ("budget", "model_dim", "learning_rate")},
            "params": sweep.costs[cell].params,
            "loss": sweep.loss(cell, summary) if summary.get("status") == "completed" else None,
        }
        for cell, summary in ((cell, sweep.summary(cell)) for cell in sweep.ids)
    ]
    rule = "the sweep's rule" if declared.optimum else "Chinchilla's rule"
    optimum = declared.optimum or budgets.chinchilla()
    lines = [f"warning: {text}" for text in budgets.grid_warnings(rows, optimum, rule)]
    return lines + list(filter(None, [budgets.best_rates(rows)]))


def _totals(
    sweep: SweepDir, left: Sequence[str], seconds: Mapping[str, float | None], basis: str
) -> str:
    costs = sweep.costs.values()
    flops = sum(cost.flops for cost in costs)
    text = (
        f"total {quantity(sum(cost.units for cost in costs))} {next(iter(costs)).unit}, "
        f"{flops:.3g} FLOPs, {quantity(sum(cost.kept_bytes for cost in costs))}B kept; "
        f"left {sum(sweep.costs[cell].flops for cell in left):.3g} FLOPs"
    )
    shared = sum(
        branch.step * sweep.costs[cell].step_units * sweep.costs[cell].unit_flops
        for cell, branch in sweep.branches.items()
    )
    if shared:
        text += f"; shared trunks save {shared:.3g} of these FLOPs ({shared / flops:.0%})"
    evaluated = sum(cost.eval_flops or 0.0 for cost in costs)
    if evaluated:
        whole = sum(cost.whole_flops or 0.0 for cost in costs)
        text += (
            f"\nevaluation {evaluated:.3g} FLOPs more ({evaluated / flops:.0%}); one pass over all "
            f"held-out data in each cell is {whole:.3g}"
        )
        if evaluated > flops / 4:
            text += ": eval.final_units and eval.batches say how much of it is taken"
    known = [s for cell in left if (s := seconds[cell]) is not None]
    if known:
        text += f"\nleft about {duration(sum(known))} of one worker"
    return text + (f" ({basis})" if known and basis else f"\n{basis}" if basis else "")


# --- while it runs ---------------------------------------------------------------------------


class Display:
    """Follows a sweep's ledger; a context manager that leaves the terminal in order."""

    def __init__(self, sweep: SweepDir, tries: int, out: TextIO | None = None) -> None:
        self.sweep, self.tries = sweep, tries
        self._console = Console(file=out or sys.stdout)
        self._ledger = Ledger(sweep)
        self._seen = len(self._ledger.read())
        self._started = time.monotonic()
        self._live: Live | None = None

    def __enter__(self) -> "Display":
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=2, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()
            self._live = None

    def say(self, text: str) -> None:
        """Prints a line that stays."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        self._console.file.flush()

    def update(self) -> int:
        """Shows what has happened; returns how many lines the ledger has gained."""
        records = self._ledger.read()
        new, self._seen = records[self._seen :], len(records)
        states = self._ledger.states(self.tries)
        for record in new:
            self._tell(record, states)
        if self._live:
            self._live.update(self.table(states))
        return len(new)

    def _tell(self, record: Mapping[str, Any], states: Mapping[str, State]) -> None:
        event, cell = record["event"], record["cell"]
        if (event == "running" and self._live) or cell not in self.sweep.axes:
            return
        ended = sum(state in ENDS for state in states.values())
        text = f"[{ended}/{len(states)}] {event}: {cell} ({label(self.sweep.axes[cell])})"
        if isinstance(record.get("loss"), float):
            text += f" loss {record['loss']:.4f}"
        if record.get("seconds") is not None:
            text += f", {duration(record['seconds'])}"
        if record.get("reason"):
            text += f": {record['reason']}"
        self.say(text)
        if event in ("failed", "lost"):
            log = self.sweep.log(cell, record["attempt"])
            self.say(textwrap.indent(f"{tail(log, 6)}\nall of it: {log}", "    "))

    def table(self, states: Mapping[str, State]) -> Table:
        """The cells that run now, with their steps and losses, under the totals."""
        spent = duration(time.monotonic() - self._started)
        table = Table(title=f"{self.sweep.name}: {counts(states)}; {spent}")
        for name in ("cell", "axes", "step", "loss"):
            table.add_column(name)
        for cell, state in states.items():
            if state == "running":
                step, loss = _newest(self.sweep.cell_dir(cell) / "metrics.jsonl")
                total = self.sweep.costs[cell].units // self.sweep.costs[cell].step_units
                axes = label(self.sweep.axes[cell])
                table.add_row(cell, axes, f"{step}/{total}", "" if loss is None else f"{loss:.4f}")
        return table


def _newest(stream: pathlib.Path) -> tuple[int, float | None]:
    """(step, training loss) of the last line of a stream that has one."""
    for line in reversed(tail(stream, lines=50).splitlines()):
        try:
            record = json.loads(line)
        except ValueError:  # the first or the last line may be a part of one
            continue
        loss = record.get("train/loss", record.get("train/objective"))
        if isinstance(loss, float):
            return int(record["step"]), loss
    return 0, None


def tail(file: pathlib.Path, lines: int = 15) -> str:
    """The last lines of a text file; empty when there is none."""
    try:
        with open(file, "rb") as opened:
            opened.seek(max(0, os.fstat(opened.fileno()).st_size - 8192))
            text = opened.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
