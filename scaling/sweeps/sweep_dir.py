"""The directory of a sweep: which cells it consists of, and where everything about them lies.

sweep.json      name of the design and its cells (id, axes, cost, trunk)
cells/<id>/     run directories, as `scaling.main` makes them; config.json lies there from the start,
                so `python -m scaling.main --config=cells/<id>/config.json --workdir=cells/<id>` is
                the same run by hand
leases/         which process runs which cell       ledger.jsonl  how every attempt ended
logs/           <id>.<attempt>.log                  table.csv     see `collect`
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from scaling import configs
from scaling.configs import ConfigError
from scaling.sweeps import trunks
from scaling.sweeps.cost import Cost, HeldOut, data_key, measure
from scaling.sweeps.design import Cell, label
from scaling.sweeps.trunks import Branch
from scaling.track import files
from scaling.track.run_dir import CONFIG, RunDirError, read_run

SWEEP = "sweep.json"
End = Literal["completed", "diverged", "pruned"]  # statuses after which nothing more is to be done
ENDS: tuple[End, ...] = get_args(End)


@dataclasses.dataclass(frozen=True)
class SweepDir:
    """A sweep on disk.

    Attributes:
      path: the directory, absolute.
      axes: {cell id: its columns}, in the order of the design.
      costs: {cell id: what it costs}.
      branches: {cell id: the trunk that it branches off, and where}, see `trunks`.
      held_out: {`cost.data_key` of a cell: its held-out examples}, where they were counted.
    """

    path: pathlib.Path
    name: str
    axes: Mapping[str, Mapping[str, Any]]
    costs: Mapping[str, Cost]
    branches: Mapping[str, Branch]
    held_out: Mapping[str, HeldOut] = dataclasses.field(default_factory=dict)

    @property
    def ids(self) -> tuple[str, ...]:
        """All cells, in the order of the design."""
        return tuple(self.axes)

    @property
    def leases(self) -> pathlib.Path:
        """The folder of all leases."""
        return self.path / "leases"

    def cell_dir(self, cell_id: str) -> pathlib.Path:
        """The run directory of a cell."""
        return self.path / "cells" / cell_id

    def log(self, cell_id: str, attempt: int) -> pathlib.Path:
        """The output of an attempt."""
        return self.path / "logs" / f"{cell_id}.{attempt}.log"

    def cell(self, cell_id: str) -> Cell:
        """A cell with its config, as it lies on disk; ConfigError if it is not there or damaged."""
        if cell_id not in self.axes:
            what = f"{cell_id!r} is not a cell of {self.path}"
            raise ConfigError("--cells", what, f"see {self.path / SWEEP}")
        text = (self.cell_dir(cell_id) / CONFIG).read_text(encoding="utf-8")
        return Cell(cell_id, configs.from_json(text), self.axes[cell_id])

    def summary(self, cell_id: str) -> dict[str, Any]:
        """summary.json of a cell; empty where there is none, or a damaged one."""
        try:
            return read_run(self.cell_dir(cell_id)).summary
        except RunDirError:
            return {}

    def loss(self, cell_id: str, summary: Mapping[str, Any]) -> float | None:
        """The objective of a cell by its summary.json; None if it is not there."""
        return summary.get("eval", {}).get(self.costs[cell_id].objective)

    def ended(self, cell_id: str) -> End | None:
        """How a cell ended; None while it has not."""
        status = self.summary(cell_id).get("status")
        return status if status in ENDS else None


def open_sweep(path: str | pathlib.Path) -> SweepDir:
    """The sweep that lives in a directory; ConfigError if there is none, or it is damaged."""
    folder = pathlib.Path(path).absolute()
    file = folder / SWEEP
    if not file.is_file():
        remedy = "name the directory of a sweep, or start one with --sweep=FILE"
        raise ConfigError("--workdir", f"{folder} holds no {SWEEP}", remedy)
    try:
        record = files.read_json(file)
        cells = {cell["id"]: cell for cell in record["cells"]}
        axes = {key: cell["axes"] for key, cell in cells.items()}
        costs = {key: Cost(**cell["cost"]) for key, cell in cells.items()}
        branches = {
            key: Branch(cell["trunk"], cell["branch_step"])
            for key, cell in cells.items()
            if cell["trunk"]
        }
        return SweepDir(folder, record["name"], axes, costs, branches, record.get("held_out", {}))
    except (ValueError, KeyError, TypeError) as error:
        remedy = "delete it and start the same sweep again: finished cells stay finished"
        raise ConfigError("--workdir", f"{file} is damaged ({error})", remedy) from error


def check_claim(path: str | pathlib.Path, cells: Sequence[Cell]) -> list[str]:
    """Checks that a directory is free for a design, or already its own; returns notes.

    A design that has grown since keeps its directory. Writes nothing.

    Raises:
      ConfigError: the directory belongs to another sweep, or to something else.
    """
    folder = pathlib.Path(path).absolute()
    ids = {cell.id for cell in cells}
    if (folder / SWEEP).exists():
        old = open_sweep(folder)
        gone = [cell for cell in old.ids if cell not in ids]
        if gone:
            what = (
                f"{folder} belongs to another sweep: {len(gone)} of the {len(old.ids)} cells of "
                f"{old.name!r} there, such as {gone[0]} ({label(old.axes[gone[0]])}), are not in "
                f"this design of {len(ids)}"
            )
            remedy = "use another --workdir; a design may grow in its directory, but not lose cells"
            raise ConfigError("--workdir", what, remedy)
        if len(ids) > len(old.ids):
            return [f"the design has grown from {len(old.ids)} to {len(ids)} cells"]
    elif folder.exists():
        ours = ("cells", "leases", "logs", "ledger.jsonl", "table.csv", "search.")
        others = sorted(file.name for file in folder.iterdir() if not file.name.startswith(ours))
        if others:
            what = f"{folder} holds {', '.join(others[:4])} and is not the directory of a sweep"
            raise ConfigError("--workdir", what, "use an empty --workdir")
    return []


def preview(
    path: str | pathlib.Path,
    name: str,
    cells: Sequence[Cell],
    held_out: Mapping[str, HeldOut] | None = None,
) -> SweepDir:
    """The sweep that `claim` would make of a directory; writes nothing. `held_out` as in SweepDir."""
    counted = held_out or {}
    return SweepDir(
        pathlib.Path(path).absolute(),
        name,
        {cell.id: dict(cell.axes) for cell in cells},
        {cell.id: measure(cell.config, counted.get(data_key(cell.config))) for cell in cells},
        trunks.plan(cells),
        counted,
    )


def claim(
    path: str | pathlib.Path,
    name: str,
    cells: Sequence[Cell],
    held_out: Mapping[str, HeldOut] | None = None,
) -> SweepDir:
    """Makes a directory that of a design, and writes down its cells and their configs; as `preview`."""
    check_claim(path, cells)
    sweep = preview(path, name, cells, held_out)
    for part in ("cells", "leases", "logs"):
        (sweep.path / part).mkdir(parents=True, exist_ok=True)
    for cell in trunks.with_branch_points(cells):
        _write_config(sweep, cell)
    rows = []
    for cell_id, axes in sweep.axes.items():
        branch = sweep.branches.get(cell_id, Branch("", 0))
        cost = dataclasses.asdict(sweep.costs[cell_id])
        place = {"trunk": branch.trunk, "branch_step": branch.step}
        rows.append({"id": cell_id, "axes": axes, "cost": cost, **place})
    files.write_json(sweep.path / SWEEP, {"name": name, "cells": rows, "held_out": sweep.held_out})
    return sweep


def _write_config(sweep: SweepDir, cell: Cell) -> None:
    """config.json of a run that has not ended; settings without effect on it may have changed."""
    path, text = sweep.cell_dir(cell.id) / CONFIG, configs.to_json(cell.config)
    if path.exists() and (sweep.ended(cell.id) or path.read_text(encoding="utf-8") == text):
        return
    files.write_text(path, text)
