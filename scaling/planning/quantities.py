"""Forecast numbers: value, intervals that it should fall into, unit, source; and those of a plan."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np

from scaling.configs import ConfigError
from scaling.laws.resample import Draws
from scaling.track import files
from scaling.track.run_dir import UsedDevices

Interval = tuple[float, float]
# Central intervals that are stored, so that calibration can be drawn and not only counted.
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


@dataclasses.dataclass(frozen=True)
class Quantity:
    """One number of a forecast.

    Attributes:
      intervals: level -> prediction interval; empty where nothing is known about the error.
      range: an estimate's own span of assumptions, to which no probability belongs.
    """

    value: float
    unit: str
    source: str
    intervals: Mapping[float, Interval] = dataclasses.field(default_factory=dict)
    range: Interval | None = None

    @classmethod
    def from_draws(
        cls, value: float, outcomes: np.ndarray, draws: Draws, unit: str, source: str
    ) -> Self:
        """Intervals are expanded percentiles of `outcomes`, float[R], possible outcomes of the run."""
        intervals = {level: draws.interval(outcomes, level) for level in LEVELS}
        # A point fit beyond a percentile of its own resamples is possible; a value outside of its
        # 50 % interval would only confuse.
        intervals = {k: (min(low, value), max(high, value)) for k, (low, high) in intervals.items()}
        return cls(float(value), unit, source, intervals)

    def through(self, function: Callable[[float], float], unit: str, source: str) -> "Quantity":
        """The quantity that is a monotone `function` of this one."""

        def move(ends: Interval) -> Interval:
            low, high = sorted(function(end) for end in ends)
            return low, high

        moved = {level: move(ends) for level, ends in self.intervals.items()}
        span = None if self.range is None else move(self.range)
        return Quantity(function(self.value), unit, source, moved, span)

    def record(self) -> dict[str, Any]:
        """For forecast.json: value, interval50, interval95, unit, source, and all levels."""
        span = {} if self.range is None else {"range": list(self.range)}
        return span | {
            "value": self.value,
            "interval50": self._interval(0.5),
            "interval95": self._interval(0.95),
            "unit": self.unit,
            "source": self.source,
            "levels": {f"{level:g}": list(ends) for level, ends in self.intervals.items()},
        }

    def _interval(self, level: float) -> list[float] | None:
        return list(self.intervals[level]) if level in self.intervals else None


@dataclasses.dataclass(frozen=True)
class Machine:
    """What a forecast knows of the machine beside the law.

    Attributes:
      device: what `step_time` and all that follows from it hold for.
      chips: what is paid for; a chip may be several devices. None without a device.
      price: money per chip-hour, in `currency`.
    """

    device: UsedDevices | None = None
    chips: int | None = None
    price: float | None = None
    currency: str = "USD"


@dataclasses.dataclass(frozen=True)
class PlanRecord:
    """A plan of the run that is forecast: the JSON that `python -m scaling.plan --json` wrote.

    Attributes:
      quantities: memory peak and step time, with no interval: neither has a record of errors of its
        own. The range of the step time is the roofline's, from full overlap to none.
    """

    origin: dict[str, str]
    fingerprint: str
    machine: Machine
    quantities: dict[str, Quantity]

    @classmethod
    def read(cls, path: str) -> Self:
        """Reads a plan; ConfigError where there is no such file, or it is not a plan of one config."""
        try:
            plan = files.read_json(path)
            devices = int(plan["devices"])
            return cls(
                origin={"path": path, "sha256": files.sha256(path)},
                fingerprint=plan["run_id"],
                machine=Machine(
                    UsedDevices(plan["device_kind"], devices),
                    int(plan["target"]["chips"]) or devices,
                    ((plan.get("cost") or {}).get("price") or {}).get("dollars"),
                ),
                quantities=_quantities(plan),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            what = f"{path} is not a plan ({error!r})"
            remedy = "make it with python -m scaling.plan --config=... --topology=... --json=FILE"
            raise ConfigError("--plan", what, remedy) from error

    def check(self, fingerprint: str) -> None:
        """Raises ConfigError unless the plan is of this config."""
        if self.fingerprint != fingerprint:
            what = (
                f"{self.origin['path']} is of another config (fingerprint {self.fingerprint}, this "
                f"one is {fingerprint})"
            )
            raise ConfigError("--plan", what, "plan this config")


def _quantities(plan: dict[str, Any]) -> dict[str, Quantity]:
    known, topology = {}, plan["target"]["name"]
    if memory := plan["memory"]:
        known["memory_peak"] = Quantity(float(memory["peak"]), "bytes", f"compiled for {topology}")
    if estimate := plan["estimate"]:
        low, high = float(estimate["low"]), float(estimate["high"])
        source = f"roofline of {topology}, full overlap to none"
        known["step_time"] = Quantity(math.sqrt(low * high), "seconds", source, range=(low, high))
    return known
