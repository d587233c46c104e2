"""Float64 without touching the process: scoped precision, the CPU device, a few worker threads.

Training code in the same process keeps its own (32-bit) defaults: `x64()` is a thread-local
context, entered around every trace and call here and left afterwards. Fits run on the CPU unless
`use_device` says otherwise; small dense float64 problems are latency-bound, and TPUs lack float64.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from scaling.track.provenance import cores

T = TypeVar("T")
Item = TypeVar("Item")
_PLATFORM = "cpu"


def use_device(platform: str) -> None:
    """Run later fits on "cpu" (default) or "gpu"; raises RuntimeError where it is absent."""
    if platform not in ("cpu", "gpu"):
        raise ValueError(f"device {platform!r} is not one of cpu, gpu (TPUs have no float64)")
    jax.devices(platform)
    global _PLATFORM
    _PLATFORM = platform


def platform() -> str:
    """The platform that fits run on."""
    return _PLATFORM


@contextlib.contextmanager
def x64() -> Iterator[None]:
    """Scope in which new JAX values are float64 and live on the fitting device."""
    try:
        device = jax.local_devices(backend=_PLATFORM)[0]
    except RuntimeError:  # JAX_PLATFORMS names an accelerator only
        device = jax.local_devices()[0]
    # Fitting code relies on numpy broadcasting of scalars and rows; training code may forbid it.
    with jax.enable_x64(True), jax.default_device(device), jax.numpy_rank_promotion("allow"):
        yield


def array_module(value: object) -> ModuleType:
    """`jax.numpy` for arrays of JAX and what it traces, else numpy."""
    return jnp if isinstance(value, jax.Array) else np


def parallel(function: Callable[[Item], T], items: Sequence[Item]) -> list[T]:
    """`[function(i) for i in items]`, each inside `x64()`; on the CPU a thread a core, 16 at most."""
    # XLA leaves small programs on one core each.
    threads = max(1, min(cores() or 1, 16)) if _PLATFORM == "cpu" else 1

    def call(item: Item) -> T:
        with x64():
            return function(item)

    if len(items) <= 1 or threads == 1:
        return [call(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(call, items))
