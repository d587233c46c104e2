"""The directory of a sweep: what it consists of, and whose it is.

sweep.json      name, fingerprint and cells (id, axes, cost, trunk) of the design
cells/<id>/     run directories, as `scaling.main` makes them; config.json lies there from the start,
                so `python -m scaling.main --config=cells/<id>/config.json --workdir=cells/<id>` is
                the same run by hand
leases/         who runs which cell                 ledger.jsonl  what became of every attempt
logs/           <id>.<attempt>.log                  table.csv     see `collect`
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scaling import configs
from scaling.configs import ConfigError
from scaling.sweeps import trunks
from scaling.sweeps.cost import Cost, measure
from scaling.sweeps.design import Cell, label
from scaling.sweeps.trunks import Branch
from scaling.track import files
from scaling.track.run_dir import RunDirError, read_summary

SWEEP = "sweep.json"


@dataclasses.dataclass(frozen=True)
class SweepDir:
    """A sweep on disk.

    Attributes:
      path: the directory, absolute.
      name: of the sweep.
      axes: {cell id: its columns}, in the order of the design.
      costs: {cell id: what it costs}.
      branches: {cell id: the trunk that it branches off, and where}, see `trunks`.
    """

    path: pathlib.Path
    name: str
    axes: Mapping[str, Mapping[str, Any]]
    costs: Mapping[str, Cost]
    branches: Mapping[str, Branch]

    @property
    def ids(self) -> tuple[str, ...]:
        """All cells, in the order of the design."""
        return tuple(self.axes)

    def cell_dir(self, cell_id: str) -> pathlib.Path:
        """The run directory of a cell."""
        return self.path / "cells" / cell_id

    def log(self, cell_id: str, attempt: int) -> pathlib.Path:
        """What an attempt prints."""
        return self.path / "logs" / f"{cell_id}.{attempt}.log"

    def cell(self, cell_id: str) -> Cell:
        """A cell with its config, as it lies on disk.

        Raises:
          ConfigError: there is no such cell, or its config.json is damaged.
        """
        if cell_id not in self.axes:
            raise ConfigError(
                "--cells", f"{cell_id!r} is no cell of {self.path}", f"see {self.path / SWEEP}"
            )
        text = (self.cell_dir(cell_id) / "config.json").read_text(encoding="utf-8")
        return Cell(cell_id, configs.from_json(text), self.axes[cell_id])


def open_sweep(path: str | pathlib.Path) -> SweepDir:
    """The sweep that lives in a directory.

    Raises:
      ConfigError: none does, or sweep.json is damaged.
    """
    folder = pathlib.Path(path).absolute()
    file = folder / SWEEP
    if not file.is_file():
        raise ConfigError(
            "--workdir", f"{folder} holds no {SWEEP}",
            "name the directory of a sweep, or start one with --sweep=FILE",
        )  # fmt: skip
    try:
        record = files.read_json(file)
        axes = {cell["id"]: cell["axes"] for cell in record["cells"]}
        costs = {cell["id"]: Cost(**cell["cost"]) for cell in record["cells"]}
        branches = {
            cell["id"]: Branch(cell["trunk"], cell["branch_step"])
            for cell in record["cells"]
            if cell.get("trunk")
        }
        return SweepDir(folder, record["name"], axes, costs, branches)
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            "--workdir", f"{file} is damaged ({error})",
            "delete it and start the same sweep again: finished cells stay finished",
        ) from error  # fmt: skip


def check_claim(path: str | pathlib.Path, cells: Sequence[Cell]) -> list[str]:
    """Whether a directory may become, or is, that of a design; what is worth telling about it.

    A design that has grown since keeps its directory. Writes nothing.

    Raises:
      ConfigError: the directory belongs to another sweep, or to something else.
    """
    folder = pathlib.Path(path).absolute()
    wanted = {cell.id for cell in cells}
    if (folder / SWEEP).exists():
        old = open_sweep(folder)
        gone = [one for one in old.ids if one not in wanted]
        if gone:
            raise ConfigError(
                "--workdir",
                f"{folder} belongs to another sweep: {len(gone)} of the {len(old.ids)} cells of "
                f"{old.name!r} there, such as {gone[0]} ({label(old.axes[gone[0]])}), are not in "
                f"this design of {len(wanted)}",
                "use another --workdir; a design may grow in its directory, but not lose cells",
            )
        if len(wanted) > len(old.ids):
            return [f"the design has grown from {len(old.ids)} to {len(wanted)} cells"]
    elif folder.exists() and any(folder.iterdir()):
        ours = ("cells", "leases", "logs", "ledger.jsonl", "table.csv", "search.")
        found = sorted(one.name for one in folder.iterdir() if not one.name.startswith(ours))[:4]
        if found:
            raise ConfigError(
                "--workdir", f"{folder} holds {', '.join(found)} and is not the directory of a sweep",
                "use an empty --workdir",
            )  # fmt: skip
    return []


def preview(path: str | pathlib.Path, name: str, cells: Sequence[Cell]) -> SweepDir:
    """What `claim` would make of a directory; writes nothing."""
    return SweepDir(
        pathlib.Path(path).absolute(),
        name,
        {cell.id: dict(cell.axes) for cell in cells},
        {cell.id: measure(cell.config) for cell in cells},
        trunks.plan(cells),
    )


def claim(path: str | pathlib.Path, name: str, cells: Sequence[Cell]) -> SweepDir:
    """Makes a directory that of a design, and writes down its cells and their configs.

    Raises:
      ConfigError: see `check_claim`.
      OSError: it cannot be written to.
    """
    check_claim(path, cells)
    folder = pathlib.Path(path).absolute()
    for part in ("cells", "leases", "logs"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    sweep = preview(folder, name, cells)
    for cell in trunks.with_branch_points(cells):
        _write_config(sweep.cell_dir(cell.id), cell)
    listed = []
    for one, axes in sweep.axes.items():
        branch = sweep.branches.get(one, Branch("", 0))
        cost = dataclasses.asdict(sweep.costs[one])
        place = {"trunk": branch.trunk, "branch_step": branch.step}
        listed.append({"id": one, "axes": axes, "cost": cost, **place})
    record = {"name": name, "fingerprint": design_fingerprint(sweep.ids), "cells": listed}
    files.write_json(folder / SWEEP, record)
    return sweep


def design_fingerprint(ids: Iterable[str]) -> str:
    """16 hex digits that two designs share if they have the same cells."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()[:16]


def _write_config(folder: pathlib.Path, cell: Cell) -> None:
    """config.json of a run that has not ended; settings without effect on it may have changed."""
    path, text = folder / "config.json", configs.to_json(cell.config)
    if path.exists() and (_ended(folder) or path.read_text(encoding="utf-8") == text):
        return
    folder.mkdir(parents=True, exist_ok=True)
    files.write_text(path, text)


def _ended(folder: pathlib.Path) -> bool:
    try:
        status = (read_summary(folder) or {}).get("status")
    except RunDirError:
        return False
    return status not in (None, "preempted", "failed")
