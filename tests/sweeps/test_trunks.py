"""Branches against independent runs, what sharing saves, and what cannot share."""

import dataclasses
import json
import pathlib
import shutil

import pytest
from helpers import tiny_language_model
from run_helpers import TINY, corpus, stream, summary

from scaling import configs
from scaling.main import main
from scaling.sweeps import trunks
from scaling.sweeps.cost import measure
from scaling.sweeps.design import Cell
from scaling.sweeps.trunks import Branch, TrunkError
from scaling.train.checkpoints import Checkpoints

WSD = (
    *("optim.schedule.name=wsd", "optim.schedule.warmup_steps=5", "track.progress=off"),
    *("eval.every=8", "checkpoint.every=0", "checkpoint.keep_last=1", "model.num_layers=1"),
)

OTHER_SCHEDULE = {
    "table": {"optimizer": {"name": "sgd"}, "axes": ("vocab",), "schedule": {"name": "cosine"}}
}


def cell(**overrides: object) -> Cell:
    config = tiny_language_model(
        **{"optim.schedule.name": "wsd", "optim.schedule.warmup_steps": 10, **overrides}
    )
    return Cell(configs.fingerprint(config), config, {})


def lengths(*steps: int, **overrides: object) -> list[Cell]:
    return [cell(**{"train.steps": count, **overrides}) for count in steps]


def test_the_longest_is_the_trunk_of_its_family():
    cells = lengths(100, 200, 400) + lengths(200, 400, **{"optim.learning_rate": 0.1})
    found = trunks.plan(cells)
    short, middle, trunk, other, its_trunk = (one.id for one in cells)
    assert found == {
        short: Branch(trunk, 80),
        middle: Branch(trunk, 160),
        other: Branch(its_trunk, 160),
    }
    kept = {one.id: one.config.checkpoint.keep_steps for one in trunks.with_branch_points(cells)}
    assert kept == {short: (), middle: (), trunk: (80, 160), other: (), its_trunk: (160,)}
    assert [configs.fingerprint(one.config) for one in trunks.with_branch_points(cells)] == [
        one.id for one in cells
    ]


def test_a_grid_of_four_lengths_costs_at_most_six_tenths():
    """4 lengths, each half as long again as the last, x 3 widths; the decay a fifth of each."""
    cells = [
        one
        for width in (32, 64, 96)
        for one in lengths(
            400, 600, 900, 1350, **{"model.model_dim": width, "model.vocab_size": 257}
        )
    ]
    costs = {one.id: measure(one.config) for one in cells}
    independent = sum(cost.flops for cost in costs.values())
    saved = sum(
        branch.step * costs[name].unit_flops * costs[name].step_units
        for name, branch in trunks.plan(cells).items()
    )
    assert (independent - saved) / independent == pytest.approx(0.532, abs=0.001)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"optim.schedule.name": "cosine", "optim.schedule.warmup_steps": 5}, "under wsd"),
        ({"optim.schedule.warmup_steps": None}, "warmup_steps"),
        ({"optim.groups": OTHER_SCHEDULE}, "optim.groups.table.schedule.name=cosine"),
    ],
)
def test_schedules_that_depend_on_the_length_are_refused(overrides, words):
    cells = lengths(100, 200, **overrides)
    assert trunks.plan(cells) == {}
    with pytest.raises(TrunkError, match=words):
        trunks.branch_point(cells[0].config, cells[1].config)
    noted = trunks.notes(cells)
    assert bool(noted) == (cells[0].config.optim.schedule.name == "wsd")
    assert all("1 cells differ" in note and words in note for note in noted)


def test_a_trunk_that_decays_first_is_refused():
    short = cell(**{"train.steps": 180, "optim.schedule.decay_steps": 10})
    long = cell(**{"train.steps": 200, "optim.schedule.decay_steps": 100})
    with pytest.raises(TrunkError, match=r"in step 101 their learning rates differ"):
        trunks.branch_point(short.config, long.config)
    assert trunks.plan([short, long]) == {}
    other = cell(**{"train.steps": 200, "optim.b2": 0.5})
    with pytest.raises(TrunkError, match=r"optim\.b2"):
        trunks.branch_point(short.config, other.config)


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> pathlib.Path:
    return corpus(tmp_path_factory.mktemp("trunks"))


def train(text: pathlib.Path, workdir: pathlib.Path, steps: int, *more: str) -> None:
    flags = [f"--config.{one}" for one in (*WSD, f"train.steps={steps}", *more)]
    assert main([f"--config={TINY}:{text}", f"--workdir={workdir}", *flags]) == 0


def place(text: pathlib.Path, workdir: pathlib.Path, steps: int) -> None:
    """A cell's directory before its run."""
    config = configs.load_resolved(f"{TINY}:{text}", [*WSD, f"train.steps={steps}"])
    workdir.mkdir(parents=True)
    (workdir / "config.json").write_text(configs.to_json(config))


def test_a_branch_equals_the_independent_run_bit_for_bit(text, tmp_path):
    trunk, branch, alone = (tmp_path / name for name in ("trunk", "branch", "alone"))
    train(text, trunk, 60, "checkpoint.keep_steps=(24,32)")
    assert Checkpoints(trunk, read_only=True).steps() == [24, 32, 60]
    place(text, branch, 30)
    with pytest.raises(TrunkError, match="at step 24, not at 32"):
        trunks.seed(branch, trunk, 32)
    assert trunks.ready(trunk, 24)
    assert trunks.seed(branch, trunk, 24)
    assert not trunks.seed(branch, trunk, 24), "it has begun"
    begun = stream(branch)
    train(text, branch, 30)
    train(text, alone, 30)
    assert begun == stream(alone)[: len(begun)], "examples, rates and losses of the shared part"
    assert json.loads(begun[-1])["step"] == 24
    assert stream(branch) == stream(alone)
    assert summary(branch)["eval"] == summary(alone)["eval"]
    assert summary(branch)["flops"] == summary(alone)["flops"]
    attempts = json.loads((branch / "provenance.json").read_text())["attempts"]
    assert attempts[0]["trunk"]["step"] == 24
    assert len(attempts) == 2
    place(text, tmp_path / "late", 30)
    shutil.rmtree(trunk / "checkpoints" / "00000024")
    assert not trunks.ready(trunk, 24)
    with pytest.raises(TrunkError, match="keep_steps"):
        trunks.seed(tmp_path / "late", trunk, 24)


def test_points_already_kept_stay(text):
    short, long = lengths(100, 200)
    config = configs.replace(long.config, {"checkpoint.keep_steps": (7,)})
    found = trunks.with_branch_points([short, dataclasses.replace(long, config=config)])
    assert found[1].config.checkpoint.keep_steps == (7, 80)
