"""The JSON that `python -m scaling.plan --json` writes, as far as a forecast needs it."""

import dataclasses
import hashlib
import json
import math
import pathlib
from typing import Any, Self

from scaling.configs import ConfigError
from scaling.planning.quantities import Interval, Quantity
from scaling.track.run_dir import Device


@dataclasses.dataclass(frozen=True)
class PlanRecord:
    """A plan of the run that is forecast.

    Attributes:
      origin: {path, sha256} of the file.
      topology: what it was compiled for, in words.
      fingerprint: of the config it was made for.
      device: what it was compiled for.
      chips: what chip-hours count; a chip may be several devices.
      memory_peak: bytes on the fullest device, by the compiler.
      step_seconds: roofline range, from full overlap to none; None where it gives no time.
      price: money per chip-hour; None where it knows none.
    """

    origin: dict[str, str]
    topology: str
    fingerprint: str
    device: Device
    chips: int
    memory_peak: float | None
    step_seconds: Interval | None
    price: float | None

    @classmethod
    def read(cls, path: str) -> Self:
        """Reads a plan.

        Raises:
          ConfigError: there is no such file, or it is no plan of one config.
        """
        try:
            raw = pathlib.Path(path).read_bytes()
            plan: dict[str, Any] = json.loads(raw)
            origin = {"path": path, "sha256": hashlib.sha256(raw).hexdigest()}
            return cls._of(plan, origin)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                "--plan", f"{path} is no plan ({error!r})",
                "make it with python -m scaling.plan --config=... --topology=... --json=FILE",
            ) from error  # fmt: skip

    @classmethod
    def _of(cls, plan: dict[str, Any], origin: dict[str, str]) -> Self:
        # See `compile.to_json` for the fields, and `plan.plan` for `cost`.
        target, estimate, cost = plan["target"], plan["estimate"], plan.get("cost") or {}
        price = (cost.get("price") or {}).get("dollars")
        return cls(
            origin=origin,
            topology=target["name"],
            fingerprint=plan["run_id"],
            device=Device(plan["device_kind"], int(plan["devices"])),
            chips=int(target["chips"]) or int(plan["devices"]),
            memory_peak=plan["memory"]["peak"] if plan["memory"] else None,
            step_seconds=(estimate["low"], estimate["high"]) if estimate else None,
            price=price,
        )

    def check(self, fingerprint: str) -> None:
        """Raises ConfigError unless the plan is of this config."""
        if self.fingerprint != fingerprint:
            raise ConfigError(
                "--plan", f"{self.origin['path']} is of another config (fingerprint "
                f"{self.fingerprint}, this one is {fingerprint})", "plan this config",
            )  # fmt: skip

    def quantities(self) -> dict[str, Quantity]:
        """Memory peak and step time, with no interval: neither has a record of errors of its own."""
        found = {}
        if self.memory_peak is not None:
            found["memory_peak"] = Quantity(
                float(self.memory_peak), "bytes", f"compiled for {self.topology}"
            )
        if self.step_seconds is not None:
            low, high = self.step_seconds
            found["step_time"] = Quantity(
                math.sqrt(low * high), "seconds", f"roofline of {self.topology}, full overlap to none",
                range=(low, high),
            )  # fmt: skip
        return found
