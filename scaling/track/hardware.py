"""Peak rates of accelerators, as data with its source, and the model FLOP utilisation they give.

Rates are of one JAX device, which on TPU v2, v3 and 7x is one of the two cores of a chip (TPU v4 is
counted as megacore, one device a chip, as JAX runs it). The peak is the dense bfloat16 matrix rate,
without structured sparsity. A device that is not listed has no MFU: null, never a guess.
"""

import dataclasses

GiB = 2**30
_TPU = "docs.cloud.google.com/tpu/docs/"
_CACM = "Jouppi et al., CACM 63(7) 2020, table 1"
_NVIDIA = "NVIDIA data sheet, dense"


class HardwareError(ValueError):
    """A measured rate above what the hardware can do: the count or the clock is wrong."""


@dataclasses.dataclass(frozen=True)
class Device:
    """What one device can do at best.

    Attributes:
      flops: dense bfloat16 FLOP/s.
      bandwidth: bytes/s of its main memory (HBM or GDDR).
      memory: bytes of it, as sold.
      link: bytes/s over all chip-to-chip links, both directions together, as vendors count it
        (ICI, NVLink); None without such links.
      usable: bytes that the compiler lets a program use, where it was seen to say so.
    """

    flops: float
    bandwidth: float
    memory: float
    link: float | None
    source: str
    date: str
    usable: float | None = None


def _tpu(
    page: str, tflops: float, gbps: float, gib: float, link: float, cores: int, usable: float | None
) -> Device:
    source = page if " " in page else _TPU + page
    rates = (tflops * 1e12 / cores, gbps * 1e9 / cores, gib * GiB / cores, link * 1e9 / cores)
    return Device(*rates, source, "2026-11", None if usable is None else usable * GiB)


def _gpu(tflops: float, gbps: float, gb: float, link: float | None) -> Device:
    link_bytes = None if link is None else link * 1e9
    return Device(tflops * 1e12, gbps * 1e9, gb * 1e9, link_bytes, _NVIDIA, "2026-11")


# By `jax.Device.device_kind`; the peak of others, CPU included, is not known. A chip's numbers,
# divided by the devices on it. The last column, per device, is the limit that the TPU compiler of
# jax 0.10 names when a program is too large.
DEVICES: dict[str, Device] = {
    #                       source   TF    GB/s  GiB  link GB/s  devices  usable GiB
    "TPU v2":      _tpu(_CACM,        46,  700,  16,  496,  2, None),
    "TPU v3":      _tpu("v3",        123,  900,  32,  656,  2, None),
    "TPU v4":      _tpu("v4",        275, 1200,  32,  600,  1, 30.75),
    "TPU v5 lite": _tpu("v6e",       197,  819,  16,  400,  1, 15.75),
    "TPU v5":      _tpu("tpu7x",     459, 2765,  95, 1200,  1, 95.73),
    "TPU v6 lite": _tpu("v6e",       918, 1640,  32,  800,  1, 31.24),
    "TPU7x":       _tpu("tpu7x",    2307, 7380, 192, 1200,  2, 94.74),
    #                                    TF    GB/s   GB  link GB/s
    "NVIDIA A10":                   _gpu(125,   600,  24, None),
    "NVIDIA A100-PCIE-40GB":        _gpu(312,  1555,  40, 600),
    "NVIDIA A100-SXM4-40GB":        _gpu(312,  1555,  40, 600),
    "NVIDIA A100 80GB PCIe":        _gpu(312,  1935,  80, 600),
    "NVIDIA A100-SXM4-80GB":        _gpu(312,  2039,  80, 600),
    "NVIDIA A30":                   _gpu(165,   933,  24, 200),
    "NVIDIA L4":                    _gpu(121,   300,  24, None),
    "NVIDIA L40S":                  _gpu(362,   864,  48, None),
    "NVIDIA H100 PCIe":             _gpu(756,  2000,  80, 600),
    "NVIDIA H100 NVL":              _gpu(835,  3900,  94, 600),
    "NVIDIA H100 80GB HBM3":        _gpu(989,  3350,  80, 900),
    "NVIDIA H200":                  _gpu(989,  4800, 141, 900),
    "NVIDIA GH200 480GB":           _gpu(989,  4000,  96, 900),
    "NVIDIA B200":                  _gpu(2250, 8000, 180, 1800),
    "NVIDIA GB200":                 _gpu(2500, 8000, 186, 1800),
    "NVIDIA GeForce RTX 3090":      _gpu(71,    936,  24, None),
    "NVIDIA GeForce RTX 4090":      _gpu(165,  1008,  24, None),
}  # fmt: skip


def mfu(
    flops_per_second: float, device_kind: str, devices: int, least: float | None = None
) -> float | None:
    """Model FLOP utilisation: the rate achieved over the peak of all devices, None if not known.

    `flops_per_second` are model FLOPs (state the convention) over seconds, `least` those that cannot
    be done without, where the convention counts more: with attention over all pairs a kernel that
    skips masked pairs passes 1 on long sequences. `least` above the peak is a HardwareError.
    """
    device = DEVICES.get(device_kind)
    if device is None:
        return None
    least = flops_per_second if least is None else least
    needed = least / (device.flops * devices)
    if needed > 1:
        raise HardwareError(
            f"an MFU of {needed:.1%} is impossible: {least:.4g} FLOP/s on {devices} x "
            f"{device_kind} of {device.flops:.4g} FLOP/s each. The FLOP count is too high, the "
            "time too short (was the result waited for?), or the number of devices wrong."
        )
    return flops_per_second / (device.flops * devices)


def override(kind: str, changes: dict[str, float]) -> Device | None:
    """The entry of a device with the numbers in `changes` in place of its own; None if it has no peak.

    A device that is not listed gets an entry if the changes give `flops` and `bandwidth`.
    """
    known = DEVICES.get(kind)
    if known is not None:
        return dataclasses.replace(known, **changes) if changes else known  # type: ignore[arg-type]
    if not {"flops", "bandwidth"} <= set(changes):
        return None
    stated = {"memory": changes.get("usable", 0.0), "link": None} | changes
    return Device(source="given", date="", **stated)  # type: ignore[arg-type]
