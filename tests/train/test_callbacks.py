"""Callbacks of a user's own, and the window of the profiler."""

import json
import sys
import types

import pytest
from run_helpers import TINY, corpus, stream

from scaling.main import main

SEEN: list = []


def counter(every: int = 1):
    def callback(event):
        shapes = None
        if event.variables is not None:
            shapes = event.variables()["params"]["head"].shape
        SEEN.append((event.kind, event.step, shapes))
        if event.kind == "step" and event.step % every == 0:
            return {"norm": event.values["train/grad_norm"]}
        return None

    return callback


@pytest.fixture
def mine(monkeypatch):
    module = types.ModuleType("mine")
    module.counter, module.nothing = counter, lambda: 3
    monkeypatch.setitem(sys.modules, "mine", module)
    SEEN.clear()


def launch(tmp_path, *flags, expect=0):
    short = ("train.steps=12", "eval.every=6", "track.progress=off", "checkpoint.every=6")
    flags = [f"--config.{flag}" for flag in (*short, *flags)]
    arguments = [f"--config={TINY}:{corpus(tmp_path)}", f"--workdir={tmp_path / 'run'}", *flags]
    assert main(arguments) == expect


def test_a_callback_sees_steps_evaluations_and_the_end(mine, tmp_path):
    named = ("track.callbacks.mine.name=mine:counter", "track.callbacks.mine.every=4")
    launch(tmp_path, *named, "track.profile.start=3", "track.profile.steps=2")
    steps = [step for kind, step, _ in SEEN if kind == "step"]
    assert steps == list(range(1, 13))
    evaluations = [(step, shapes) for kind, step, shapes in SEEN if kind == "evaluation"]
    assert evaluations == [(6, (32, 257)), (12, (32, 257))]
    assert SEEN[-1][:2] == ("end", 12)
    lines = [json.loads(line) for line in stream(tmp_path / "run")]
    assert [line["step"] for line in lines if "mine/norm" in line] == [4, 8, 12]
    assert list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))


def test_what_is_no_callback_is_refused_before_the_start(mine, tmp_path, capsys):
    launch(tmp_path, "track.callbacks.mine.name=mine:nothing", expect=2)
    assert "track.callbacks.mine: mine:nothing made int" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
