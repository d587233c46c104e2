"""Names of the hardware that a plan is for, and the devices behind them.

    v5e-256   v6e-64      number of chips
    v5p-128   v4-32       number of TensorCores, two per chip, as in Google Cloud: 64 and 16 chips
    v7x-128               the same, 64 chips; JAX sees each core as a device
    v5p:4x4x8             chips along the torus
    cpu-8                 fake CPU devices, in this process
    gpu                   the GPUs of this machine

`prepare` must run before anything touches a JAX backend: the TPU compiler of libtpu works without a
TPU, but looks for one unless told not to.
"""

import contextlib
import dataclasses
import importlib.util
import math
import os
import re
import sys
from typing import Any

from scaling.configs.errors import ConfigError, suggest


@dataclasses.dataclass(frozen=True)
class Family:
    """One generation of TPU.

    Attributes:
      libtpu: its name for libtpu.
      kind: `device_kind` of its devices, the key of `track.hardware.DEVICES`.
      dims: dimensions of its torus.
      count: what N in the name FAMILY-N counts of a chip: 1 (chips) or 2 (cores).
      devices: JAX devices on a chip.
      most: chips in the largest slice.
      options: for libtpu, besides the name.
    """

    libtpu: str
    kind: str
    dims: int
    count: int
    devices: int
    most: int
    options: tuple[tuple[str, Any], ...] = ()


# Largest slices: docs.cloud.google.com/tpu/docs (v4, v5e, v5p, v6e, tpu7x), read 2026-11.
FAMILIES: dict[str, Family] = {
    "v4": Family("v4", "TPU v4", 3, 2, 1, 4096, (("chip_config_name", "megacore"),)),
    "v5e": Family("v5e", "TPU v5 lite", 2, 1, 1, 256),
    "v5p": Family("v5p", "TPU v5", 3, 2, 1, 6144),
    "v6e": Family("v6e", "TPU v6 lite", 2, 1, 1, 256),
    "v7x": Family("tpu7x", "TPU7x", 3, 2, 2, 9216),
}
ALIASES = {"v5litepod": "v5e", "tpu7x": "v7x", "v5lite": "v5e", "v6": "v6e", "trillium": "v6e"}

NO_LIBTPU = (
    "the TPU compiler is not installed: pip install 'scaling[tpu]' (or 'jax[tpu]' for the installed "
    "version of jax; no TPU is needed)"
)


@dataclasses.dataclass(frozen=True)
class Target:
    """The hardware of a plan.

    Attributes:
      name: as the user wrote it, with `xN` for several slices.
      chips: all chips of all slices.
      slices: groups of chips that only the data-centre network joins.
      shape: chips along the torus of a slice; () where there is none.
      family: key of `FAMILIES`, or None.
    """

    name: str
    platform: str
    chips: int
    slices: int = 1
    shape: tuple[int, ...] = ()
    family: str | None = None

    @property
    def num_devices(self) -> int:
        """JAX devices of all slices (0 for `gpu`: known when JAX has started)."""
        return self.chips * (FAMILIES[self.family].devices if self.family else 1)


def parse(name: str, slices: int = 1) -> Target:
    """What a topology name stands for; starts nothing. ConfigError lists the names."""
    text = name.strip().lower()
    if text == "gpu" or re.fullmatch(r"cpu-\d{1,4}", text):
        if slices > 1:
            raise ConfigError("--slices", f"{slices} slices of {name}", "only TPUs have slices")
        if text == "gpu":
            return Target("gpu", "gpu", 0)
        if not 1 <= int(text[4:]) <= 512:
            raise ConfigError("--topology", f"{name} has no sensible size", "give cpu-1 to cpu-512")
        return Target(text, "cpu", int(text[4:]))
    match = re.fullmatch(r"([a-z0-9]+?)(?:-(\d{1,6})|:(\d+(?:x\d+){1,2}))", text)
    family = ALIASES.get(match[1], match[1]) if match else ""
    if match is None or family not in FAMILIES:
        known = names()
        what = f"{name!r} is not known"
        remedy = suggest(text, known, what="names") + "\n  " + listing()
        raise ConfigError("--topology", what, remedy)
    shape = _shape_of(name, family, match[2], match[3])
    chips = math.prod(shape) * slices
    shown = text if slices == 1 else f"{text}x{slices}"
    return Target(shown, "tpu", chips, slices, shape, family)


def names() -> list[str]:
    """Common names, smallest first in every family; explicit tori go beside them."""
    common = [f"{key}-{n * f.count}" for key, f in FAMILIES.items() for n in _sizes(f)]
    return [*common, "v5p:4x4x8 (chips along the torus)", "cpu-8", "gpu"]


def listing() -> str:
    """The names for people: one line per family."""
    lines = ["the names are:"]
    for key, family in FAMILIES.items():
        sizes = ", ".join(str(n * family.count) for n in _sizes(family))
        lines.append(f"{key}-N with N = {sizes} ({_counted(family)}), or {_example(key)}")
    return "\n  ".join([*lines, "cpu-N, gpu"])


def _counted(family: Family) -> str:
    return "chips" if family.count == 1 else "TensorCores, two per chip"


def _example(key: str) -> str:
    return f"{key}:{'x'.join(['4'] * FAMILIES[key].dims)}"


def prepare(target: Target) -> None:
    """Sets what libtpu and JAX read once, at their start; ConfigError for a TPU without libtpu."""
    if target.platform == "gpu":
        return
    os.environ["JAX_PLATFORMS"] = "cpu"
    if target.platform == "tpu":
        if importlib.util.find_spec("libtpu") is None:
            raise ConfigError("--topology", f"{target.name} needs libtpu", NO_LIBTPU)
        for key, value in {
            "TPU_SKIP_MDS_QUERY": "1",  # no metadata server here
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # several compilers at once hold no device
            "TPU_WORKER_HOSTNAMES": "localhost",
            "TPU_ACCELERATOR_TYPE": "v5litepod-8",
            "TPU_MIN_LOG_LEVEL": "3",
            "TPU_STDERR_LOG_LEVEL": "3",
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }.items():
            os.environ.setdefault(key, value)
    elif "jax" not in sys.modules:
        flags = os.environ.get("XLA_FLAGS", "")
        flags = re.sub(r"--xla_force_host_platform_device_count=\d+", "", flags)
        count = f"--xla_force_host_platform_device_count={target.chips}"
        os.environ["XLA_FLAGS"] = f"{flags} {count}".strip()
    else:  # fake devices can be had until a backend starts: `devices` counts what is there
        import jax

        with contextlib.suppress(RuntimeError, ValueError):
            jax.config.update("jax_num_cpu_devices", target.chips)


def devices(target: Target) -> list[Any]:
    """The devices of a target, in JAX's order, or ConfigError; `prepare` came before."""
    import jax

    if target.platform == "gpu":
        if jax.default_backend() != "gpu":
            raise ConfigError(
                "--topology",
                f"gpu, but JAX came up on {jax.default_backend()}",
                "pip install 'scaling[gpu]' on a machine with a GPU; see python -m scaling.doctor",
            )
        return list(jax.devices())
    if target.platform == "cpu":
        cpus = jax.devices("cpu")
        if len(cpus) < target.chips:
            raise ConfigError(
                "--topology",
                f"{target.name}, but this process started with {len(cpus)} CPU devices",
                f"start it with XLA_FLAGS=--xla_force_host_platform_device_count={target.chips}",
            )
        return list(cpus[: target.chips])
    return _tpu_devices(target)


def _tpu_devices(target: Target) -> list[Any]:
    from jax.experimental import topologies

    assert target.family is not None
    family = FAMILIES[target.family]
    options = dict(family.options)
    if target.slices > 1:
        options["num_slices"] = target.slices
    options["wrap"] = _wraps(target.shape)
    if math.prod(target.shape) == 1:
        options["chips_per_host_bounds"] = [1, 1, 1]
    name = f"{family.libtpu}:{'x'.join(map(str, target.shape))}"
    try:
        slice_ = topologies.get_topology_desc(topology_name=name, platform="tpu", **options)
    except Exception as error:
        what = f"libtpu refuses {target.name} ({name}): {error}"
        remedy = "give a shape of even sides; " + suggest(target.name, names(), what="names")
        raise ConfigError("--topology", what, remedy) from error
    return list(slice_.devices)


def _wraps(shape: tuple[int, ...]) -> list[bool]:
    """Which sides of a slice close into rings: those of 16 in a plane; all sides, if each is a
    multiple of 4, in three dimensions.

    Without rings the compiler gathers parameters by all-reduce, at twice the bytes.
    """
    if len(shape) == 2:
        return [side == 16 for side in shape] + [False]
    return [all(side % 4 == 0 for side in shape)] * 3


def _shape_of(name: str, key: str, number: str | None, torus: str | None) -> tuple[int, ...]:
    family = FAMILIES[key]
    if torus is not None:
        shape = tuple(int(side) for side in torus.split("x"))
        if len(shape) == family.dims and 0 < math.prod(shape) <= family.most:
            return shape
        problem = f"is not a {family.dims}-dimensional torus of up to {family.most} chips"
    else:
        chips, over = divmod(int(number or 0), family.count)
        if not over and chips in _sizes(family):
            return _torus(chips, family.dims)
        problem = f"there is no {key} slice of {number} {_counted(family)}"
    sizes = ", ".join(f"{key}-{size * family.count}" for size in _sizes(family))
    remedy = f"the sizes are {sizes}; or write the torus, {_example(key)}"
    raise ConfigError("--topology", f"{name}: {problem}", remedy)


def _sizes(family: Family) -> list[int]:
    """Chips of the slices that have a name: powers of two up to the largest, 2 left out."""
    return [2**i for i in range(14) if 2**i <= family.most and i != 1]


def _torus(chips: int, dims: int) -> tuple[int, ...]:
    """The most cubic torus with sides that are powers of two; the long sides come last.

    One chip is 1x1; four chips lie in a plane (2x2x1), as they share a host.
    """
    if dims == 3 and chips == 4:
        return (2, 2, 1)
    power = chips.bit_length() - 1
    return tuple(2 ** ((power + i) // dims) for i in range(dims))
