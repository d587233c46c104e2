"""Memory in use: of this process on the host, and of its devices."""

import resource
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    import jax


def host_bytes() -> int:
    """Resident memory of this process, in bytes."""
    return psutil.Process().memory_info().rss


def host_peak_bytes() -> int:
    """The most that was resident at any time in this process, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


def device_bytes(devices: "Sequence[jax.Device]") -> dict[str, int] | None:
    """The fullest of the local devices: {in_use, peak, limit} in bytes; None without counts (CPU)."""
    stats = [device.memory_stats() for device in devices if device.platform != "cpu"]
    known = [s for s in stats if s and "bytes_in_use" in s]
    if not known:
        return None
    fullest = max(known, key=lambda s: s.get("peak_bytes_in_use", s["bytes_in_use"]))
    usage = {
        "in_use": int(fullest["bytes_in_use"]),
        "peak": int(fullest.get("peak_bytes_in_use", fullest["bytes_in_use"])),
    }
    if fullest.get("bytes_limit"):
        usage["limit"] = int(fullest["bytes_limit"])
    return usage


def program_bytes(compiled: "jax.stages.Compiled") -> int | None:
    """The most bytes that a program needs on one device; None where the backend does not tell.

    Arguments and results (donated ones once) and temporaries.
    """
    stats = compiled.memory_analysis()
    if stats is None:
        return None
    held = stats.argument_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes
    return int(held + stats.temp_size_in_bytes)
