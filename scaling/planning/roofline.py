"""Step time from counts and peak rates: a range, an estimate, never a promise.

The low end has every unit at its peak and everything overlapped: the slowest unit decides. The high
end overlaps nothing and runs the units at the fractions of `SLOW`. Nothing here was checked against
a running TPU; `RECORD` says how far such estimates were from published figures.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from scaling.planning.collectives import Traffic
from scaling.planning.topology import Target
from scaling.planning.work import Work
from scaling.track.hardware import Device

RECORD = (
    "an estimate: a point prediction by cycle counts and link rates was 6, 21, 28 and 6 % slower than "
    "four published MaxText runs (v5e, v5p) and put two of them in the wrong order; compare variants "
    "of one model on one chip with it, and promise no MFU by it"
)

# Fractions of the peak at the slow end. Matrix units: the worst of the TPU compiler's own cycle
# estimates for plain bfloat16 products was 70 % (v6e; 83 to 89 % elsewhere). Memory: its estimates
# for element-wise work come to half of the bandwidth. Attention kernels and links: assumed.
SLOW = {"matmul": 0.7, "attention": 0.5, "memory": 0.5, "link": 0.5}

# Bytes/s of one chip to other slices, one way: 6.4 Tbit/s for a pod of 256 chips
# (docs.cloud.google.com/tpu/docs/v5e, read 2026-11). Assumed for the other families too.
NETWORK = 6.4e12 / 8 / 256


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Seconds of one step.

    Attributes:
      low: all overlapped, every unit at its peak.
      high: nothing overlapped, units at the fractions of `SLOW`.
      parts: seconds of each unit at its peak: matmul, attention, memory, and `link AXES` for every
        set of mesh axes that collectives run along (`network` for those across slices).
      bound: the part that decides the low end.
    """

    low: float
    high: float
    parts: dict[str, float]
    bound: str


def estimate(
    work: Work, traffic: Sequence[Traffic], device: Device, target: Target, mesh: Mapping[str, int]
) -> Estimate:
    """The range of the step time, from the counts, collectives and peak rates of one device."""
    parts = {
        "matmul": work.matmul_flops / device.flops,
        "attention": work.attention_flops / device.flops,
        "memory": work.memory_bytes / device.bandwidth,
    }
    for one in traffic:
        key = "network" if one.across else f"link {one.axes}"
        rate = NETWORK if one.across else _link_rate(one, device, target, mesh)
        parts[key] = parts.get(key, 0.0) + (one.wire_bytes / rate if rate else 0.0)
    links = sum(seconds for name, seconds in parts.items() if name.startswith(("link", "network")))
    units = {
        "matrix": parts["matmul"] + parts["attention"],
        "memory": parts["memory"],
        "links": links,
    }
    bound = max(units, key=lambda name: units[name])
    high = (
        parts["matmul"] / SLOW["matmul"]
        + parts["attention"] / SLOW["attention"]
        + parts["memory"] / SLOW["memory"]
        + links / SLOW["link"]
    )
    return Estimate(low=units[bound], high=high, parts=parts, bound=bound)


def _link_rate(
    one: Traffic, device: Device, target: Target, mesh: Mapping[str, int]
) -> float | None:
    """Bytes/s that a device can send along the links that a group of this size spans.

    A group as large as the slice uses every dimension of the torus; a smaller one its share of the
    dimensions, by logarithm, and at least one.
    """
    if device.link is None:
        return None
    one_way = device.link / 2
    dims = len(target.shape)
    chips = math.prod(target.shape) if target.shape else math.prod(mesh.values())
    if dims < 2 or one.group >= chips or chips < 2:
        return one_way
    share = max(1, round(dims * math.log(max(2, one.group)) / math.log(chips))) / dims
    return one_way * share
