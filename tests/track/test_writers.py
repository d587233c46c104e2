"""The fan-out: TensorBoard is read back, W&B is called as it wants, absent packages are named."""

import math
import pathlib
import sys
import types
from typing import Any

import numpy as np
import pytest

from scaling.experiment import TrackConfig
from scaling.track.stream import read_metrics
from scaling.track.writers import Tracker, TrackError


def test_tensorboard_reads_back_and_hides_lost_attempts(tmp_path: pathlib.Path) -> None:
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    with Tracker(tmp_path, TrackConfig(), 0) as tracker:
        for step in (1, 2, 3):
            tracker.write(step, {"train/loss": np.float32(step), "note": "text", "flag": True})
        tracker.sync()
    with Tracker(tmp_path, TrackConfig(), 1) as tracker:
        assert tracker.notes
        tracker.write(2, {"train/loss": 20.0})
        tracker.write(3, {"train/loss": math.nan})
        tracker.rewind(2)
        tracker.write(3, {"train/loss": 30.0})
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert events.Tags()["scalars"] == ["train/loss"]
    found = {e.step: e.value for e in events.Scalars("train/loss")}
    assert found == {1: 1.0, 2: 20.0, 3: 30.0}
    assert [row["train/loss"] for row in read_metrics(tmp_path)] == [1.0, 20.0, 30.0]


def test_only_process_0_writes(tmp_path: pathlib.Path) -> None:
    with Tracker(tmp_path, TrackConfig(wandb="offline"), 0, main=False) as tracker:
        tracker.write(1, {"a": 1})
        tracker.sync()
        tracker.rewind(0)
    assert list(tmp_path.iterdir()) == []


def test_wandb_is_named_when_absent(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(TrackError, match=r"wandb cannot be imported.*scaling\[wandb\].*wandb=off"):
        Tracker(tmp_path, TrackConfig(wandb="offline", tensorboard=False), 0)
    assert list(tmp_path.iterdir()) == []


def test_wandb_calls(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    class Run:
        def define_metric(self, *names: str, **options: str) -> None:
            calls.append(("define", names, options))

        def log(self, row: dict) -> None:
            calls.append(("log", row))

        def finish(self) -> None:
            calls.append("finish")

    def init(**options: Any) -> Run:
        calls.append(options)
        return Run()

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    track = TrackConfig(wandb="offline", tensorboard=False, wandb_project="p")
    for _ in range(2):
        with Tracker(tmp_path, track, 0, "name", {"a": 1}) as tracker:
            tracker.write(3, {"train/loss": 1.0, "note": "x"})
    first, *middle, last = calls[: len(calls) // 2]
    assert (first["mode"], first["project"], first["resume"]) == ("offline", "p", "allow")
    assert first["id"] == calls[len(calls) // 2]["id"]
    assert middle[-1] == ("log", {"train/loss": 1.0, "step": 3})
    assert last == "finish"
