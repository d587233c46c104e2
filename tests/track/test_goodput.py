"""The ledger: buckets add up to the wall, over attempts and after kills."""

import pathlib
import time

import pytest

from scaling.track.goodput import Goodput


class Clock:
    """Time that only moves when told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "time", lambda: self.now + 1e9)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def spend(ledger: Goodput, clock: Clock, bucket: str, seconds: float) -> None:
    with ledger.spend(bucket):
        clock.now += seconds


def test_every_second_counts_once(clock: Clock) -> None:
    ledger = Goodput(None)
    clock.now += 1
    with ledger.spend("train"):
        clock.now += 4
        spend(ledger, clock, "data_wait", 2)
        clock.now += 1
    ledger.move(1.5, "train", "compile")
    assert ledger.report() | {"train": 0} == {
        "init": 0, "compile": 1.5, "train": 0, "data_wait": 2, "eval": 0, "checkpoint": 0,
        "other": 1, "idle": 0, "lost": 0,
    }  # fmt: skip
    assert ledger.seconds["train"] == 3.5
    assert ledger.goodput() == pytest.approx(3.5 / 8)
    with pytest.raises(ValueError, match="no bucket 'trian'"):
        spend(ledger, clock, "trian", 1)


def test_lost_and_idle_after_a_kill(tmp_path: pathlib.Path, clock: Clock) -> None:
    first = Goodput(tmp_path)
    spend(first, clock, "train", 10)
    first.mark(100)
    spend(first, clock, "train", 6)
    first.flush()
    clock.now += 50  # killed, and started again 50 s later

    second = Goodput(tmp_path)
    second.resumed(100)
    spend(second, clock, "train", 4)
    seconds = second.report()
    assert (seconds["train"], seconds["lost"], seconds["idle"]) == (14, 6, 50)
    assert second.goodput() == pytest.approx(14 / 70)
    assert sum(seconds.values()) == pytest.approx(70)
    second.flush()

    third = Goodput(tmp_path)
    third.resumed(0)
    assert third.report()["lost"] == 20


def test_a_damaged_ledger_starts_again(tmp_path: pathlib.Path) -> None:
    (tmp_path / "goodput.json").write_text("{")
    assert Goodput(tmp_path).goodput() == 0.0


def test_flushes_by_itself(tmp_path: pathlib.Path, clock: Clock) -> None:
    ledger = Goodput(tmp_path, flush_seconds=20)
    spend(ledger, clock, "train", 19)
    assert not (tmp_path / "goodput.json").exists()
    spend(ledger, clock, "train", 2)
    assert Goodput(tmp_path).report()["train"] == 21
