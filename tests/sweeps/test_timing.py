"""What a sweep costs in evaluation and time, before anything ran and after some of it did."""

import io
import json
import os
import sys
import threading

import pytest
from sweep_helpers import BASE, claimed

from scaling import configs
from scaling.sweeps import Sweep, axis, design, display, sweep_dir, timing
from scaling.sweeps.cost import data_key, measure
from scaling.sweeps.timing import Speed
from scaling.track import files

EVERY = {"eval": {"every": 5, "batches": 1}}


def config(**changes):
    return configs.resolve(configs.with_values(BASE | EVERY, changes))


@pytest.mark.parametrize(
    ("changes", "examples"),
    [
        ({}, 3 * 8 + 16),  # after steps 5, 10 and 15 a batch, after step 20 all there are
        ({"eval.every": 0}, 16),
        ({"eval.every": 0, "eval.final_units": 1}, 8),
        ({"eval.every": 0, "eval.final_units": 65}, 16),  # tokens: 8 in an example, 64 in a batch
        ({"eval.batch_size": 4, "eval.batches": None, "eval.final_units": 8}, 3 * 16 + 4),
        ({"eval.also": {"score": {"every": 10}}}, 3 * 8 + 16 + 2 * 16),
    ],
)
def test_every_evaluation_is_counted(changes, examples):
    cost = measure(config(**changes), {"eval": 16})
    assert cost.eval_flops == pytest.approx(cost.unit_flops / 3 * 8 * examples)
    assert cost.whole_flops == pytest.approx(cost.unit_flops / 3 * 8 * 16)
    assert measure(config(**changes)).eval_flops is None, "nobody has counted them"


def test_rates_are_interpolated_between_the_sizes_that_were_timed():
    cost = measure(config(), {"eval": 16})
    size = cost.params
    around = [Speed(size // 100, 1e6, 1e7, 2.0), Speed(size * 100, 1e8, 1e9, 4.0)]
    expected = 3.0 + cost.flops / 1e7 + cost.eval_flops / 1e8
    assert timing.seconds(cost, around) == pytest.approx(expected, rel=0.01)
    alone = timing.seconds(cost, around[:1])
    assert alone == pytest.approx(2.0 + cost.flops / 1e6 + cost.eval_flops / 1e7)
    assert timing.seconds(cost, []) is None


def test_finished_members_of_a_population_share_its_time(tmp_path):
    sweep = claimed(tmp_path / "s", axis("seed", (0, 1)))
    spent = {"train": 10.0, "eval": 4.0, "init": 1.0, "compile": 2.0, "checkpoint": 1.0}
    for cell in sweep.ids:
        summary = {"status": "completed", "seconds": spent, "population": {"members": 2}}
        files.write_json(sweep.cell_dir(cell) / "summary.json", summary)
    for speed in timing.seen(sweep):
        assert speed.train == pytest.approx(sweep.costs[sweep.ids[0]].flops / 5.0)
        # Nobody has counted these evaluations, so their time is a part of the start.
        assert (speed.evaluate, speed.start) == (None, 4.0)


def look(folder, design_, base=BASE):
    declared = Sweep(base, design_)
    cells, _ = design.cells(declared)
    place = sorted(os.sched_getaffinity(0))[:1], {}
    sweep, speeds, basis = timing.look(folder, "tiny", cells, lambda: place)
    return cells, sweep, speeds, display.overview(sweep, declared, 3, speeds, basis)


def test_before_anything_ran_two_cells_are_timed_and_evaluation_is_in_the_table(tmp_path):
    cells, sweep, speeds, table = look(tmp_path / "s", axis("model.model_dim", (8, 12, 16)))
    sizes = [sweep.costs[cell.id].params for cell in cells]
    assert [speed.params for speed in speeds] == [sizes[0], sizes[2]]
    assert all(speed.train > 0 and speed.evaluate > 0 and speed.start > 0 for speed in speeds)
    assert sweep.held_out == {data_key(cells[0].config): {"eval": 16}}
    assert "eval FLOPs" in table
    assert "left about" in table
    assert "timed alone on 1 core" in table
    flops, evaluated = (
        sum(getattr(cost, key) for cost in sweep.costs.values()) for key in ("flops", "eval_flops")
    )
    assert f"evaluation {evaluated:.3g} FLOPs more ({evaluated / flops:.0%})" in table
    assert not (tmp_path / "s").exists()


def test_without_its_data_a_sweep_has_a_table_that_says_what_it_lacks(tmp_path):
    source = {"name": "files", "paths": (str(tmp_path / "absent.txt"),)}
    base = BASE | {"data": {"source": source, "seq_len": 8}}
    _, sweep, speeds, table = look(tmp_path / "s", axis("seed", (0,)), base)
    assert speeds == []
    assert all(cost.eval_flops is None for cost in sweep.costs.values())
    assert "evaluation and time are not in this table: DataError: no file matches" in table


def test_what_was_counted_is_kept_with_the_sweep(tmp_path, monkeypatch):
    """A second start counts nothing again, and times nothing where cells have finished."""
    cells, _ = design.cells(Sweep(BASE, axis("seed", (0, 1))))
    counted = {data_key(cells[0].config): {"eval": 16}}
    monkeypatch.setattr(timing, "probe", lambda *_: timing.Probe(counted, [], "not timed"))
    sweep, _, _ = timing.look(tmp_path, "tiny", cells, lambda: ([], {}))
    sweep_dir.claim(tmp_path, "tiny", cells, sweep.held_out)
    summary = {"status": "completed", "seconds": {"train": 1.0, "eval": 2.0}}
    files.write_json(sweep.cell_dir(cells[0].id) / "summary.json", summary)
    monkeypatch.setattr(timing, "probe", None)
    again, (speed,), basis = timing.look(tmp_path, "tiny", cells, lambda: ([], {}))
    assert again.held_out == counted
    assert speed.evaluate == pytest.approx(again.costs[cells[0].id].eval_flops / 2.0)
    assert "finished" in basis
    assert sweep_dir.open_sweep(tmp_path).costs == again.costs


def test_the_timing_process_ends_with_the_sweep_that_started_it(monkeypatch):
    gone = threading.Event()
    monkeypatch.setattr(timing.os, "_exit", lambda code: gone.set())
    monkeypatch.setattr(timing, "answer", lambda question: gone.wait(10))
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps({"parent": os.getppid() + 1})))
    timing.main()
    assert gone.is_set()
