"""What a forecast takes from the JSON that `python -m scaling.plan --json` writes."""

import dataclasses
import math
from typing import Any, Self

from scaling.configs import ConfigError
from scaling.planning.quantities import Quantity
from scaling.track import files
from scaling.track.run_dir import UsedDevices


@dataclasses.dataclass(frozen=True)
class PlanRecord:
    """A plan of the run that is forecast.

    Attributes:
      chips: what chip-hours count; a chip may be several devices.
      price: money per chip-hour; None where it knows none.
      quantities: memory peak and step time, with no interval: neither has a record of errors of its
        own. The range of the step time is the roofline's, from full overlap to none.
    """

    origin: dict[str, str]
    fingerprint: str
    device: UsedDevices
    chips: int
    price: float | None
    quantities: dict[str, Quantity]

    @classmethod
    def read(cls, path: str) -> Self:
        """Reads a plan; ConfigError where there is no such file, or it is not a plan of one config."""
        try:
            plan = files.read_json(path)
            return cls(
                origin={"path": path, "sha256": files.sha256(path)},
                fingerprint=plan["run_id"],
                device=UsedDevices(plan["device_kind"], int(plan["devices"])),
                chips=int(plan["target"]["chips"]) or int(plan["devices"]),
                price=((plan.get("cost") or {}).get("price") or {}).get("dollars"),
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
