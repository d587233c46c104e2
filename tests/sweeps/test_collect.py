"""The table: which points count, and what a fit makes of a sweep's directory."""

import csv
import json

import numpy as np
import pytest

from scaling import configs
from scaling.laws.law import LawError
from scaling.laws.readers import read_table
from scaling.sweeps import Sweep, axis, collect, design, ledger, product, sweep_dir
from scaling.track import files, points

BASE = {
    "task": {"name": "language_model"},
    "data": {"source": {"name": "synthetic_zipf", "base": 8, "digits": 2}, "seq_len": 24},
    "model": {"name": "transformer", "max_len": 64},
    "optim": {"name": "adamw"},
    "train": {"batch_size": 4},
}


def made(folder, schedule, steps=(40, 80)):
    base = configs.with_values(BASE, {"optim.schedule": schedule})
    grid = product(axis("optim.learning_rate", (0.1,)), axis("train.steps", steps, "length"))
    cells, _ = design.cells(Sweep(base, grid, "made"))
    return sweep_dir.claim(folder, "made", cells)


def finish(sweep, cell, status="completed", upto=None):
    """What a run with an evaluation every 10 steps leaves; the loss is 100 / step."""
    steps, cost = sweep.cell(cell).config.train.steps, sweep.costs[cell]
    lines = [{"step": s, "eval/loss": 100 / s} for s in range(10, (upto or steps) + 1, 10)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (sweep.cell_dir(cell) / "metrics.jsonl").write_text(text)
    if upto is None:
        record = {
            "status": status, "step": steps, "tokens": steps * cost.step_units,
            "params": {"total": cost.params, "non_embedding": 1, "active": cost.params},
            "flops": {"exact": cost.flops, "six_nd": 1.0}, "eval": {"loss": 100 / steps},
            "seconds": {"train": 2.0, "init": 1.0}, "run_id": cell, "seed": 0,
        }  # fmt: skip
        files.write_json(sweep.cell_dir(cell) / "summary.json", record)


def rows(sweep):
    with open(collect.write(sweep.path), newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("schedule", "kind", "steps"),
    [
        ({"name": "constant", "warmup_steps": 20}, "curve", [30]),
        ({"name": "constant"}, "curve", [10, 20, 30]),
        ({"name": "inverse_sqrt", "warmup_steps": 10}, "curve", [20, 30]),
        ({"name": "wsd", "warmup_steps": 5, "decay_steps": 15}, "stable", [10, 20]),
        ({"name": "cosine", "warmup_steps": 5}, "", []),
        ({"name": "linear"}, "", []),
        ({"name": "constant", "warmup_fraction": 0.1}, "", []),
    ],
)
def test_points_inside_a_run_count_where_the_schedule_allows(tmp_path, schedule, kind, steps):
    sweep = made(tmp_path / "s", schedule, (40,))
    finish(sweep, sweep.ids[0])
    table = rows(sweep)
    assert [int(one["step"]) for one in table if one["point"] == kind] == steps
    assert [int(one["step"]) for one in table if one["point"] == "final"] == [40]


def test_finished_partial_diverged_and_pending_cells_are_told_apart(tmp_path):
    sweep = made(tmp_path / "s", {"name": "linear"}, (40, 80, 120, 160))
    a, b, c, d = sweep.ids
    finish(sweep, a)
    finish(sweep, b, "diverged")
    finish(sweep, c, upto=60)
    ledger.Ledger(sweep).append(c, 1, "preempted")
    table = {one["run_id"]: one for one in rows(sweep)}
    assert [table[x]["status"] for x in (a, b, c, d)] == [
        *("completed", "diverged", "preempted", "pending")
    ]
    assert (table[b]["loss"], table[d]["loss"]) == ("", "")
    assert float(table[c]["loss"]) == pytest.approx(100 / 60)
    assert table[c]["point"] == "partial"
    assert float(table[a]["flops"]) == pytest.approx(sweep.costs[a].flops)
    assert table[a]["length"] == "40"


def test_the_loss_of_the_table_is_the_objective_of_the_task(tmp_path):
    sweep = made(tmp_path / "s", {"name": "constant"}, (40,))
    (cell,) = sweep.ids
    finish(sweep, cell)
    record = files.read_json(sweep.path / "sweep.json")
    record["cells"][0]["cost"]["objective"] = "error"
    files.write_json(sweep.path / "sweep.json", record)
    summary = files.read_json(sweep.cell_dir(cell) / "summary.json")
    files.write_json(sweep.cell_dir(cell) / "summary.json", summary | {"eval": {"error": 2.5}})
    stream = sweep.cell_dir(cell) / "metrics.jsonl"
    stream.write_text(stream.read_text().replace("eval/loss", "eval/error"))
    assert [float(row["loss"]) for row in rows(sweep)] == [10.0, 5.0, 100 / 30, 2.5]


def test_a_fit_reads_the_directory_itself(tmp_path):
    sweep = made(tmp_path / "s", {"name": "linear"}, (40, 80, 120))
    a, b, c = sweep.ids
    finish(sweep, a)
    finish(sweep, b, "diverged")
    finish(sweep, c)
    table = read_table(sweep.path, flops="exact", curves=True)
    assert len(table) == 2
    order = np.argsort(table.columns["length"])  # rows are in the order of the runs' names
    np.testing.assert_allclose(table.columns["length"][order], [40, 120])
    np.testing.assert_allclose(table.columns["loss"][order], [100 / 40, 100 / 120])
    assert any("diverged" in reason for _, reason in table.excluded)


def test_a_fit_takes_points_inside_runs_only_of_the_right_schedule(tmp_path):
    for name, expected in (("constant", 4), ("wsd", 1)):
        schedule = {"name": name, "warmup_steps": 0}
        sweep = made(tmp_path / name, schedule, (40,))
        finish(sweep, sweep.ids[0])
        assert len(read_table(sweep.path, curves=True)) == expected, name


def test_runs_of_one_trunk_are_one_cluster(tmp_path):
    sweep = made(tmp_path / "s", {"name": "linear"})
    for cell in sweep.ids:
        finish(sweep, cell)
    record = files.read_json(sweep.path / "sweep.json")
    record["cells"][0]["trunk"] = sweep.ids[1]
    files.write_json(sweep.path / "sweep.json", record)
    assert set(read_table(sweep.path).text["run_id"]) == {sweep.ids[1]}
    files.write_json(sweep.path / "sweep.json", {"cells": 3})
    with pytest.raises(LawError, match=r"sweep\.json is damaged"):
        read_table(sweep.path)


def test_kinds_hold_for_parsed_json_too():
    config = {"train": {"steps": 10}, "optim": {"schedule": {"name": "wsd", "warmup_steps": 2,
              "decay_steps": None, "decay_fraction": 0.2}}}  # fmt: skip
    assert [points.kind(config, step) for step in (2, 3, 8, 9)] == ["", "stable", "stable", ""]
