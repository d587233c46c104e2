"""The device mesh: config section `mesh`, and devices laid out on named axes.

    replica  across slices or racks: slow links, so only the gradient sum crosses them
    data     the batch is split, parameters are whole
    fsdp     the batch and the parameters are split; parameters are gathered layer by layer
    tensor   heads, hidden units and vocabulary are split; the fastest links

The last axis varies fastest over devices, so `tensor` gets neighbours. Everything iterates over the
axes and their roles: a new axis (sequence, expert, stage) is one line in `ROLES`, one field of
`MeshConfig`, and its lines in the rule table of `logical`.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np

from scaling.configs.types import NonNegativeInt, Range

Role = Literal["batch", "parameters"]

# What each axis may split, slowest links first.
ROLES: dict[str, tuple[Role, ...]] = {
    "replica": ("batch",),
    "data": ("batch",),
    "fsdp": ("batch", "parameters"),
    "tensor": ("parameters",),
}
AXES = tuple(ROLES)

AxisSize = Annotated[int, Range(low=-1)]


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Section `mesh`: how many devices along each axis, and what goes where.

    Attributes:
      replica: copies of everything across slices.
      data: parts of the batch; -1 takes all devices that the other axes leave.
      fsdp: parts of the batch and of the parameters.
      tensor: parts of heads, hidden units and vocabulary.
      rules: (logical name, mesh axis | tuple of mesh axes | None) pairs that replace or extend
        `parallel.logical.DEFAULT_RULES`.
      waivers: patterns (as of a shell: `*/head/kernel`) of parameter paths that may stay
        replicated where they do not divide, or however large they are.
      shard_bytes: parameters without axis names are split over `fsdp` from this size on.
    """

    replica: AxisSize = 1
    data: AxisSize = -1
    fsdp: AxisSize = 1
    tensor: AxisSize = 1
    rules: tuple[tuple[str, str | tuple[str, ...] | None], ...] = ()
    waivers: tuple[str, ...] = ()
    shard_bytes: NonNegativeInt = 2**20


def axes_with(*roles: Role) -> tuple[str, ...]:
    """Axes that have all of these roles, in the order of `AXES`."""
    return tuple(axis for axis, has in ROLES.items() if set(roles) <= set(has))


def mesh_shape(config: MeshConfig, num_devices: int) -> tuple[int, ...]:
    """Sizes of `AXES` on `num_devices` devices, with the one -1 filled in.

    Raises:
      ValueError: sizes below 1, two -1, or a product that is not the number of devices; names
        the sizes and proposes a shape.
    """
    # An axis that the section does not know has one part.
    sizes = {axis: int(getattr(config, axis, 1)) for axis in AXES}
    shown = ", ".join(f"{axis}={size}" for axis, size in sizes.items())
    filled = [axis for axis, size in sizes.items() if size == -1]
    if len(filled) > 1 or any(size < 1 and size != -1 for size in sizes.values()):
        raise ValueError(
            f"mesh ({shown}): every size is at least 1, and at most one of them is -1 (the rest)"
        )
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if filled and num_devices % fixed == 0:
        sizes[filled[0]] = num_devices // fixed
    elif filled or fixed != num_devices:
        raise ValueError(
            f"mesh ({shown}) needs {'a multiple of ' if filled else ''}{fixed} devices and there "
            f"are {num_devices}; a shape that fits: {_proposal(sizes, num_devices)}"
        )
    return tuple(sizes.values())


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Any:
    """The mesh of a config, with axes `AXES` of type Auto.

    On TPU the order of devices follows the topology. On several slices `replica` (or else `data`)
    goes across them. Elsewhere the order is that of `jax.devices()`, by process, so that the
    later axes stay inside a process.

    Args:
      config: sizes; also a resolved config section.
      devices: what to use instead of all devices, for instance those of a topology that is not
        here.

    Returns:
      jax.sharding.Mesh.

    Raises:
      ValueError: the sizes do not fit the devices or slices.
    """
    import jax

    devices = list(jax.devices() if devices is None else devices)
    shape = mesh_shape(config, len(devices))
    types = (jax.sharding.AxisType.Auto,) * len(AXES)
    return jax.sharding.Mesh(_arrange(shape, devices), AXES, axis_types=types)


def _arrange(shape: tuple[int, ...], devices: list[Any]) -> np.ndarray:
    """Devices as an array of `shape`."""
    from jax.experimental import mesh_utils

    slices = len({getattr(device, "slice_index", 0) or 0 for device in devices})
    if slices > 1:
        across = _slice_shape(shape, slices)
        within = tuple(size // outer for size, outer in zip(shape, across, strict=True))
        return mesh_utils.create_hybrid_device_mesh(
            within, across, devices=devices, allow_split_physical_axes=True
        )
    if devices[0].platform == "tpu":
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    array = np.empty(len(devices), object)
    array[:] = devices
    return array.reshape(shape)


def _slice_shape(shape: tuple[int, ...], slices: int) -> tuple[int, ...]:
    """Which axis runs across slices: the first that splits the batch alone and can."""
    alone = [axis for axis in axes_with("batch") if axis not in axes_with("parameters")]
    for axis in alone:
        i = AXES.index(axis)
        if shape[i] % slices == 0:
            return tuple(slices if j == i else 1 for j in range(len(shape)))
    shown = ", ".join(f"{axis}={size}" for axis, size in zip(AXES, shape, strict=True))
    raise ValueError(
        f"mesh ({shown}) on {slices} slices: none of {alone} is a multiple of the number "
        f"of slices, and the other axes must stay inside one; set mesh.replica={slices}"
    )


def _proposal(sizes: dict[str, int], num_devices: int) -> str:
    """The nearest shape that fits: keeps sizes, the fastest links first, as far as they divide."""
    left, fitted = num_devices, dict.fromkeys(AXES, 1)
    for axis in [axis for axis in reversed(AXES) if axis != "data"]:
        fitted[axis] = math.gcd(left, max(1, sizes[axis]))
        left //= fitted[axis]
    fitted["data"] = left
    return ", ".join(f"{axis}={size}" for axis, size in fitted.items())
