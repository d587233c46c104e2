"""What the files of a run directory say of its machine and its speed."""

import dataclasses
import json
import pathlib

import numpy as np

from scaling.track.stream import StreamError, read_metrics


@dataclasses.dataclass(frozen=True)
class Device:
    """What a run used: the kind of device, as JAX calls it, and how many of them."""

    kind: str
    count: int


def device_of(workdir: pathlib.Path) -> Device | None:
    """The devices of a run's last start, if they are of one kind."""
    try:
        record = json.loads((workdir / "provenance.json").read_text(encoding="utf-8"))
        kinds = record["attempts"][-1]["devices"]["kinds"]
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None
    return Device(*next(iter(kinds.items()))) if len(kinds) == 1 else None


def median_of(workdir: pathlib.Path, key: str) -> float | None:
    """The median of a number over a run's stream, its first line (which warms up) left out."""
    try:
        values = [line[key] for line in read_metrics(workdir) if key in line]
    except (OSError, StreamError):
        return None
    steady = [v for v in values[1:] if isinstance(v, float)]
    return float(np.median(steady)) if steady else None
