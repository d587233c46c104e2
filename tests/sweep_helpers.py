"""A sweep of runs so small that a test can run several, and ways to start it in processes."""

import json
import pathlib
import subprocess
import sys

from run_helpers import environment

from scaling.sweeps import Design, Sweep, sweep_dir
from scaling.sweeps.design import cells as make_cells
from scaling.sweeps.sweep_dir import SweepDir

BASE = {
    "task": {"name": "language_model"},
    "data": {
        "source": {
            "name": "synthetic_zipf",
            "base": 4,
            "digits": 1,
            "attributes": 1,
            "eval_examples": 16,
        },
        "seq_len": 8,
    },
    "model": {"name": "transformer", "num_layers": 1, "model_dim": 8, "num_heads": 1, "max_len": 8},
    "optim": {"name": "adamw", "schedule": {"name": "constant"}},
    "train": {"steps": 20, "batch_size": 8},
    "eval": {"batches": 1},
    "checkpoint": {"every": 10, "asynchronous": False},
    "track": {"every": 5, "tensorboard": False, "progress": "lines"},
}

FILE = """
from scaling.sweeps import *


def get_sweep(arg=""):
    return Sweep(base={base!r}, design={design})
"""


def sweep_file(folder: pathlib.Path, design: str, name: str = "tiny") -> pathlib.Path:
    """A sweep file with this design."""
    path = folder / f"{name}.py"
    path.write_text(FILE.format(base=BASE, design=design))
    return path


def claimed(folder: pathlib.Path, design: Design, base: dict = BASE) -> SweepDir:
    """The directory of a sweep that nobody has started."""
    cells, _ = make_cells(Sweep(base, design, folder.name))
    return sweep_dir.claim(folder, folder.name, cells)


def command(file: pathlib.Path, workdir: pathlib.Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "scaling.sweep", f"--sweep={file}"),
        *(f"--workdir={workdir}", *more),
    ]


def start(words: list[str], log: pathlib.Path, **env: str) -> subprocess.Popen:
    with open(log, "ab") as out:
        return subprocess.Popen(words, stdout=out, stderr=out, env=environment() | env)


def ledger(workdir: pathlib.Path) -> list[dict]:
    lines = (workdir / "ledger.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def ends(workdir: pathlib.Path, event: str = "completed") -> list[str]:
    """Cells with this event, once for each time."""
    return [one["cell"] for one in ledger(workdir) if one["event"] == event]


def check_once(workdir: pathlib.Path, count: int) -> None:
    """Every cell completed exactly once, and what it left is whole."""
    folders = sorted((workdir / "cells").iterdir())
    assert len(folders) == count
    assert sorted(ends(workdir)) == [folder.name for folder in folders]
    for folder in folders:
        assert json.loads((folder / "summary.json").read_text())["status"] == "completed"
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        steps = [line["step"] for line in lines]
        assert steps == sorted(steps)
        trained = [line["step"] for line in lines if "train/loss" in line]
        assert len(trained) == len(set(trained)), "a step was written twice"
