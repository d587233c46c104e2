"""Optuna proposes cells, is told what became of them, prunes, and goes on after a kill."""

import json
import pathlib
import sys

import pytest
from run_helpers import TINY, corpus, kill, last_step, run, start, stream, summary, wait_until
from sweep_helpers import BASE

from scaling import configs
from scaling.sweeps import search as lib
from scaling.sweeps import study
from scaling.sweeps.design import Cell
from scaling.sweeps.search import Choice, Float, Integer, Search, SearchError
from scaling.train.population_key import population_key

RATE = {"optim.learning_rate": Float(1e-4, 1e-1, log=True)}


@pytest.fixture(scope="module")
def base():
    return BASE | {
        "model": {"name": "transformer", "num_layers": 1, "model_dim": 8, "num_heads": 2},
        "eval": {"every": 10, "batches": 1},
        "checkpoint": {"every": 0, "keep_last": 1, "asynchronous": False},
        "track": {"tensorboard": False, "progress": "off"},
    }


def pretend(folder: pathlib.Path, cell: Cell, losses: dict[int, float], status: str) -> None:
    """What a run would leave."""
    run = folder / "cells" / cell.id
    run.mkdir(parents=True)
    lines = [{"step": step, "eval/loss": loss} for step, loss in losses.items()]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "summary.json").write_text(json.dumps({"status": status}))


def trials(folder: pathlib.Path, search: Search) -> list:
    return study.open_study(folder, search).get_trials()


def test_a_batch_fills_a_population_and_is_told_once(base, tmp_path):
    search = Search(base, RATE | {"optim.b2": Float(0.9, 0.99)}, startup=2)
    cells = lib.propose(tmp_path, search, 4)
    assert len({cell.id for cell in cells}) == 4
    assert len({population_key(cell.config) for cell in cells}) == 1
    assert all(1e-4 <= cell.config.optim.learning_rate <= 1e-1 for cell in cells)
    assert [cell.axes["trial"] for cell in cells] == [0, 1, 2, 3]
    for cell, status in zip(cells, ("completed", "completed", "diverged", None), strict=True):
        if status:
            pretend(tmp_path, cell, {10: 3.0, 20: 2.0 + cell.axes["trial"]}, status)
    assert lib.tell(tmp_path, search) == {0: "completed", 1: "completed", 2: "diverged"}
    assert lib.tell(tmp_path, search) == {}
    states = [trial.state.name for trial in trials(tmp_path, search)]
    assert states == ["COMPLETE", "COMPLETE", "PRUNED", "RUNNING"]
    said = lib.progress(study.open_study(tmp_path, search), 4)
    assert said == "3 of 4 trials ended, 2 completed"
    found = lib.best(tmp_path, search)
    assert (found["trial"], found["value"], found["cell"]) == (0, 2.0, cells[0].id)


def test_what_was_running_is_proposed_again_and_the_rest_is_reproducible(base, tmp_path):
    search = Search(base, RATE)
    first = lib.propose(tmp_path / "a", search, 3)
    again = lib.propose(tmp_path / "a", search, 5)
    assert [cell.id for cell in again[:3]] == [cell.id for cell in first]
    assert len(again) == 5
    lib.propose(tmp_path / "b", search, 3)
    assert [cell.id for cell in lib.propose(tmp_path / "b", search, 5)] == [c.id for c in again]


def test_a_trial_cut_off_while_it_was_proposed_is_failed(base, tmp_path):
    search = Search(base, RATE)
    study.open_study(tmp_path, search).ask()
    assert len(lib.propose(tmp_path, search, 1)) == 1
    assert [trial.state.name for trial in trials(tmp_path, search)] == ["FAIL", "RUNNING"]


def test_a_grid_is_tried_once(base, tmp_path):
    space = {"optim.b1": Choice((0.8, 0.9)), "model.num_layers": Choice((1, 2, 3))}
    search = Search(base, space, sampler="grid")
    cells = lib.propose(tmp_path, search, 4) + lib.propose(tmp_path, search, 100)
    assert len({cell.id for cell in cells}) == 6
    with pytest.raises(SearchError, match="Choice"):
        lib.propose(tmp_path / "other", Search(base, RATE, sampler="grid"), 1)


def test_samplers_learn(base, tmp_path):
    """TPE finds the minimum of a parabola in ln(rate) better than chance does."""
    import math

    def loss(cell: Cell) -> float:
        return (math.log(cell.config.optim.learning_rate) - math.log(3e-3)) ** 2

    means = {}
    for sampler in ("tpe", "random"):
        search = Search(base, RATE, sampler=sampler, startup=8)
        for _ in range(4):
            for cell in lib.propose(tmp_path / sampler, search, 8):
                pretend(tmp_path / sampler, cell, {20: loss(cell)}, "completed")
            lib.tell(tmp_path / sampler, search)
        best = sorted(trial.value for trial in trials(tmp_path / sampler, search))[:16]
        means[sampler] = sum(best) / len(best)
    assert means["tpe"] < means["random"]


@pytest.mark.parametrize("pruner", ["asha", "median"])
def test_the_worse_of_a_batch_are_pruned(base, tmp_path, pruner):
    search = Search(base, RATE, pruner=pruner, rung=10, startup=0)
    if pruner == "median":
        for cell in lib.propose(tmp_path, search, 3):
            pretend(tmp_path, cell, {10: 1.5, 20: 1.0}, "completed")
        lib.tell(tmp_path, search)
    cells = lib.propose(tmp_path, search, 4)
    watch = study.watcher(tmp_path, [cell.id for cell in cells])
    losses = {i: {"eval/loss": 1.0 + i} for i in range(4)}
    assert watch(10, losses) == ({2, 3} if pruner == "asha" else {1, 2, 3})
    assert watch(10, {0: losses[0]}) == set(), "after a resume the same is told again"
    if pruner == "asha":
        assert watch(15, {0: losses[3], 1: losses[1]}) == set(), "between rungs"
        assert watch(20, {0: losses[3], 1: losses[1]}) == {0}


@pytest.mark.parametrize("torn", [b'{"op_code": 4, "wor', b"{"])
def test_a_torn_last_record_of_the_journal_is_cut_off(base, tmp_path, torn):
    search = Search(base, RATE)
    first = lib.propose(tmp_path, search, 2)
    with open(tmp_path / "search.journal", "ab") as journal:
        journal.write(torn)
    for _ in range(2):  # the start after the kill, and every later one
        assert [cell.id for cell in lib.propose(tmp_path, search, 3)][:2] == [c.id for c in first]
    assert torn not in (tmp_path / "search.journal").read_bytes().splitlines()


def test_a_damaged_record_of_the_journal_is_named(base, tmp_path):
    search = Search(base, RATE)
    lib.propose(tmp_path, search, 1)
    lines = (tmp_path / "search.journal").read_bytes().splitlines(keepends=True)
    (tmp_path / "search.journal").write_bytes(b"".join([*lines[:2], b"{rubbish\n", *lines[2:]]))
    with pytest.raises(SearchError, match=r"search\.journal has a damaged line .*delete that line"):
        lib.propose(tmp_path, search, 1)


def test_without_a_pruner_nobody_watches(base, tmp_path):
    assert study.watcher(tmp_path, ["x"]) is None
    cells = lib.propose(tmp_path, Search(base, RATE), 1)
    assert study.watcher(tmp_path, [cells[0].id]) is None


def test_another_search_in_the_same_directory_is_refused(base, tmp_path):
    lib.propose(tmp_path, Search(base, RATE), 1)
    with pytest.raises(SearchError, match=r"learning_rate\.high"):
        lib.propose(tmp_path, Search(base, {"optim.learning_rate": Float(1e-4, 1.0, log=True)}), 1)
    with pytest.raises(SearchError, match="space"):
        lib.propose(tmp_path / "other", Search(base, {}), 1)
    with pytest.raises(SearchError, match="sampler='tpee' does not exist: give one of tpe, "):
        lib.propose(tmp_path / "other", Search(base, RATE, sampler="tpee"), 1)


def test_a_config_that_cannot_run_names_the_trial(base, tmp_path):
    search = Search(base, {"model.num_heads": Integer(5, 5)})
    with pytest.raises(configs.ConfigError, match=r"trial 0 \(num_heads=5\)"):
        lib.propose(tmp_path, search, 1)


def test_a_search_runs_prunes_and_goes_on(base, tmp_path, capsys):
    search = Search(base, RATE, pruner="asha", rung=10, startup=100)
    assert lib.run(tmp_path, search, trials=4, batch=4, name="tiny") == 0
    assert "best: trial" in capsys.readouterr().out
    found = trials(tmp_path, search)
    assert sorted(trial.state.name for trial in found) == ["COMPLETE"] * 2 + ["PRUNED"] * 2
    for trial in found:
        left = summary(tmp_path / "cells" / trial.user_attrs["cell"])
        assert left["population"]["members"] == 4
        assert left["step"] == (20 if trial.state.name == "COMPLETE" else 10)
        assert left["status"] == ("completed" if trial.state.name == "COMPLETE" else "pruned")
    kept = [trial.intermediate_values[10] for trial in found if trial.state.name == "COMPLETE"]
    assert max(kept) <= min(t.intermediate_values[10] for t in found if t.state.name == "PRUNED")
    assert lib.run(tmp_path, search, trials=8, batch=4, name="tiny") == 0
    assert len(trials(tmp_path, search)) == 8


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_search_ends_with_every_trial_run_once(tmp_path):
    text = corpus(tmp_path)
    file = tmp_path / "rates.py"
    file.write_text(
        "from scaling import configs\n"
        "from scaling.sweeps.search import Float, Search\n"
        "def get_search():\n"
        f"    base = configs.load({f'{TINY}:{text}'!r}, ['train.steps=60', 'track.progress=off'])\n"
        "    return Search(base, {'optim.learning_rate': Float(1e-4, 1e-1, log=True)}, startup=2)\n"
    )
    workdir, log = tmp_path / "search", tmp_path / "log"
    arguments = [
        *(sys.executable, "-m", "scaling.sweep", f"--search={file}"),
        *(f"--workdir={workdir}", "--trials=6", "--batch=3"),
    ]

    def steps() -> int:
        return sum(last_step(run) for run in workdir.glob("cells/*"))

    for goal in (30, 100, 200):
        process = start(arguments, log)
        assert wait_until(lambda goal=goal: steps() >= goal, process, 200), log.read_text()[-2000:]
        kill(process)
    assert "best: trial" in run(arguments)
    runs = list(workdir.glob("cells/*"))
    assert [summary(one)["status"] for one in runs] == ["completed"] * 6
    assert [len(stream(one)) for one in runs] == [62] * 6  # 60 steps, evaluations at 40 and 60
