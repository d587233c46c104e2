"""What the files of a run directory say of its machine and its speed."""

import dataclasses
import json
import pathlib

import numpy as np

from scaling.track.stream import StreamError, read_metrics


@dataclasses.dataclass(frozen=True)
class Device:
    """What a run used.

    Attributes:
      kind: of device, as JAX calls it.
      count: how many of them.
      cores: that the process may use, where the device is the CPU, which is as fast as they are
        many; None for other devices, and where nobody knows.
    """

    kind: str
    count: int
    cores: int | None = None

    def __str__(self) -> str:
        on = "" if self.cores is None else f" with {self.cores} core{'s' * (self.cores > 1)}"
        return f"{self.count} x {self.kind}{on}"


def device_of(workdir: pathlib.Path) -> Device | None:
    """The devices of a run's last start, if they are of one kind."""
    try:
        record = json.loads((workdir / "provenance.json").read_text(encoding="utf-8"))
        devices = record["attempts"][-1]["devices"]
        kinds = devices["kinds"]
        cores = devices.get("cores") if devices["platform"] == "cpu" else None
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None
    if len(kinds) != 1:
        return None
    ((kind, count),) = kinds.items()
    return Device(kind, count, cores)


def median_of(workdir: pathlib.Path, key: str) -> float | None:
    """The median of a number over a run's stream, its first line (which warms up) left out."""
    try:
        values = [line[key] for line in read_metrics(workdir) if key in line]
    except (OSError, StreamError):
        return None
    steady = [v for v in values[1:] if isinstance(v, float)]
    return float(np.median(steady)) if steady else None
