"""What a forecast takes from the JSON that `python -m scaling.plan --json` writes."""

import dataclasses
import math
from typing import Any, Self

from scaling.configs import ConfigError
from scaling.planning.quantities import Quantity
from scaling.track import files
from scaling.track.run_dir import UsedDevices


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
    """A plan of the run that is forecast.

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
