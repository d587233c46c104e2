"""Throughput between two lines of the metrics stream, evaluation and saving left out."""

import time
from collections.abc import Callable

import jax
import numpy as np

from scaling.tasks.base import Task
from scaling.track import memory
from scaling.track.goodput import Goodput
from scaling.track.hardware import mfu


class Speed:
    """The rates of one run, or of a population as a whole."""

    def __init__(
        self, task: Task, devices: np.ndarray, units: Callable[[int], int], ledger: Goodput
    ) -> None:
        """Measures on these devices; `units(step)` says what the run has seen by a step."""
        self.task, self.devices, self.units = task, devices, units
        self.ledger = ledger
        self.restart(0)

    def restart(self, step: int) -> None:
        """Starts an interval at `step`."""
        self.step, self.start = step, time.perf_counter()
        self.paused, self.waited = self._pauses(), self.ledger.seconds["data_wait"]

    def measure(self, step: int) -> dict[str, float | None]:
        """The rates of the interval that ends at `step`, and starts the next one."""
        seconds = time.perf_counter() - self.start - (self._pauses() - self.paused)
        waited = self.ledger.seconds["data_wait"] - self.waited
        steps, task = step - self.step, self.task
        seen = self.units(step) - self.units(self.step)
        self.restart(step)
        if steps <= 0 or seconds <= 0:
            return {}
        units = seen / seconds
        devices, flops = self.devices, task.flops
        kind, count = devices.flat[0].device_kind, devices.size
        return {
            f"perf/{task.unit}_per_second": units,
            "perf/step_seconds": seconds / steps,
            "perf/mfu": mfu(units * flops.exact, kind, count, units * flops.exact_causal),
            "perf/data_wait_fraction": waited / seconds,
            "perf/wall_seconds": sum(self.ledger.seconds.values()),
            "perf/device_seconds": self.ledger.seconds["train"] * count,
            **_memory(devices),
        }

    def _pauses(self) -> float:
        return self.ledger.seconds["eval"] + self.ledger.seconds["checkpoint"]


def _memory(devices: np.ndarray) -> dict[str, float]:
    """Resident memory of this host, and of its fullest device where the backend counts it."""
    local = [d for d in devices.flat if d.process_index == jax.process_index()]
    on_device = memory.device_bytes(local)
    values: dict[str, float] = {"perf/host_memory_bytes": memory.host_bytes()}
    if on_device:
        values["perf/device_memory_peak_bytes"] = on_device["peak"]
    return values
