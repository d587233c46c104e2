"""Throughput in the metrics stream, by a clock that only moves when told."""

import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from scaling.tasks.flops import FlopCounts
from scaling.track.goodput import Goodput
from scaling.train.speed import Speed

PEAK = 989e12  # of one H200


def test_speed_leaves_pauses_out_and_counts_exact_flops(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    ledger = Goodput(None)

    def spend(**seconds: float) -> None:
        nonlocal now
        for bucket, length in seconds.items():
            with ledger.spend(bucket):
                now += length

    # At 64 tokens a second on two devices: 1.25 of the peak by all pairs, which is no fault where
    # those that the mask leaves make 0.75 of it.
    flops = dict.fromkeys(FlopCounts.__dataclass_fields__, PEAK)
    flops |= {"exact": 1.25 * 2 * PEAK / 64, "exact_causal": 0.75 * 2 * PEAK / 64}
    task = SimpleNamespace(unit="tokens", flops=FlopCounts(**flops))
    place = {"platform": "cpu", "process_index": jax.process_index()}
    device = SimpleNamespace(device_kind="NVIDIA H200", **place)

    spend(train=5, eval=7, checkpoint=2, data_wait=1)  # before the interval
    speed = Speed(task, np.array([device, device]), lambda step: step * 8 * 16, ledger)
    speed.restart(10)
    spend(train=4, eval=3, data_wait=2, checkpoint=1, other=2)
    expected = {
        "perf/tokens_per_second": 4 * 8 * 16 / 8.0,
        "perf/step_seconds": 2.0,
        "perf/mfu": 1.25,
        "perf/data_wait_fraction": 0.25,
    }
    found = speed.measure(14)
    assert {name: found[name] for name in expected} == pytest.approx(expected)

    # What was paused and waited before is not taken off again.
    spend(train=8)
    expected = {
        "perf/tokens_per_second": 2 * 8 * 16 / 8.0,
        "perf/step_seconds": 4.0,
        "perf/mfu": 0.625,
        "perf/data_wait_fraction": 0.0,
    }
    found = speed.measure(16)
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert speed.measure(16) == {}, "no step, no rate"
