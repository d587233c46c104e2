"""What a person sees while a sweep runs: a live table on a terminal, a line an event elsewhere.

Everything shown is read from the sweep's directory, so cells of other launchers appear too.
"""

import json
import os
import pathlib
import sys
import time
from typing import Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table

from scaling.sweeps import ledger as ledger_lib
from scaling.sweeps import output
from scaling.sweeps.design import label
from scaling.sweeps.sweep_dir import SweepDir
from scaling.track.progress import duration


class Display:
    """Follows a sweep's ledger; a context manager that leaves the terminal in order."""

    def __init__(self, sweep: SweepDir, tries: int, out: TextIO | None = None) -> None:
        self.sweep, self.tries = sweep, tries
        self._console = Console(file=out or sys.stdout)
        self._ledger = ledger_lib.Ledger(sweep.path / "ledger.jsonl")
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
        """A line that stays."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        self._console.file.flush()

    def update(self) -> int:
        """Shows what has happened; returns how many lines the ledger has gained.

        Raises:
          LedgerError: the ledger is damaged.
        """
        records = self._ledger.read()
        new = records[self._seen :]
        self._seen = len(records)
        found = ledger_lib.states(self.sweep, self.tries)
        for record in new:
            self._tell(record, found)
        if self._live:
            self._live.update(self._table(found))
        return len(new)

    def _tell(self, record: dict[str, Any], found: dict[str, ledger_lib.State]) -> None:
        event, cell = record["event"], record["cell"]
        if (event == "running" and self._live) or cell not in self.sweep.axes:
            return
        done = sum(one in ledger_lib.ENDS for one in found.values())
        text = f"[{done}/{len(found)}] {event}: {cell} ({label(self.sweep.axes[cell])})"
        if isinstance(record.get("loss"), float):
            text += f" loss {record['loss']:.4f}"
        if record.get("seconds") is not None:
            text += f", {duration(record['seconds'])}"
        if record.get("reason"):
            text += f": {record['reason']}"
        self.say(text)
        if event == "failed":
            log = self.sweep.log(cell, record["attempt"])
            self.say("\n".join(f"    {line}" for line in output.tail(log, 6).splitlines()))
            self.say(f"    all of it: {log}")

    def _table(self, found: dict[str, ledger_lib.State]) -> Table:
        spent = duration(time.monotonic() - self._started)
        table = Table(title=f"{self.sweep.name}: {ledger_lib.counts(found)}; {spent}")
        for name in ("cell", "axes", "step", "loss"):
            table.add_column(name)
        for cell, state in found.items():
            if state == "running":
                step, loss = _newest(self.sweep.cell_dir(cell) / "metrics.jsonl")
                total = self.sweep.costs[cell].units // self.sweep.costs[cell].step_units
                axes = label(self.sweep.axes[cell])
                table.add_row(cell, axes, f"{step}/{total}", "" if loss is None else f"{loss:.4f}")
        return table


def _newest(stream: pathlib.Path) -> tuple[int, float | None]:
    """(step, training loss) of the last line of a stream that has one."""
    try:
        with open(stream, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
            lines = file.read().split(b"\n")[:-1]
    except OSError:
        return 0, None
    for line in reversed(lines):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record.get("train/loss"), float):
            return int(record["step"]), record["train/loss"]
    return 0, None
