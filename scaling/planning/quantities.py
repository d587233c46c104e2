"""A forecast number: a value, the intervals it should fall into, its unit and where it comes from."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np

from scaling.laws.resample import Draws

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
