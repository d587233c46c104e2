"""The isoFLOP grid of the README: the design as promised, and the law from the table that it left."""

import csv
import json
import subprocess
import sys

import pytest
from helpers import ROOT

from scaling import data
from scaling.sweeps import budgets, cost, design

FILE = ROOT / "experiments" / "sweeps" / "isoflop_tiny.py"
TABLE = FILE.with_suffix(".csv")


@pytest.fixture(scope="module")
def sweep():
    return design.load_sweep(str(FILE))


def test_the_grid_is_what_it_says(sweep):
    cells, notes = design.cells(sweep)
    by_budget = {}
    for cell in cells:
        spent = cost.measure(cell.config)
        assert spent.flops == pytest.approx(cell.axes["budget"], rel=0.05)
        by_budget.setdefault(cell.axes["budget"], set()).add(spent.params)
    assert len(by_budget) >= 4
    assert max(by_budget) >= 16 * min(by_budget)
    assert all(len(sizes) >= 5 for sizes in by_budget.values())
    assert not notes
    rows = [
        {"budget": cell.axes["budget"], "params": cost.measure(cell.config).params, "loss": None}
        for cell in cells
    ]
    assert not budgets.grid_warnings(rows, sweep.optimum, "its rule")


def test_the_table_is_of_this_grid(sweep):
    cells, _ = design.cells(sweep)
    with open(TABLE, newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["point"] == "final"]
    assert [(float(row["budget"]), int(row["params"]), int(row["tokens"])) for row in rows] == [
        (cell.axes["budget"], cost.measure(cell.config).params, cost.measure(cell.config).units)
        for cell in cells
    ]
    for budget in {row["budget"] for row in rows}:
        own = sorted((r for r in rows if r["budget"] == budget), key=lambda r: int(r["params"]))
        losses = [float(row["loss"]) for row in own]
        assert losses.index(min(losses)) not in (0, len(losses) - 1), "the minimum is at the edge"


def fitted(out, *more):
    words = [sys.executable, "-m", "scaling.fit", f"--runs={TABLE}", "--law=chinchilla"]
    words += [f"--out={out}", "--cost=table", "--profiles=no", "--bootstrap=500", *more]
    subprocess.run(words, check=True, capture_output=True, cwd=ROOT)
    return json.loads((out / "fit.json").read_text())


@pytest.mark.slow
def test_the_law_finds_the_entropy_and_the_largest_budget(sweep, tmp_path):
    cells, _ = design.cells(sweep)
    rate = data.describe(cells[0].config).entropy_rate
    low, high = fitted(tmp_path / "all")["intervals"]["E"]
    assert low < rate < high
    with open(TABLE, newline="") as file:
        rows = list(csv.DictReader(file))
    largest = max(float(row["budget"]) for row in rows)
    best = min(
        (r for r in rows if float(r["budget"]) == largest), key=lambda row: float(row["loss"])
    )
    found = fitted(
        tmp_path / "less",
        f"--exclude=budget>={largest}",
        f"--predict=params={best['params']},tokens={best['tokens']}",
    )
    came, forecast = float(best["loss"]), found["forecasts"][0]
    low, high = forecast["run_interval"]
    assert abs(forecast["value"] - came) < 0.04 * came
    assert low < came < high
