"""The device mesh: devices laid out on the named axes of `parallel.axes`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from scaling.experiment import MeshConfig
from scaling.parallel.axes import AXES, axes_with, mesh_shape


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Any:
    """The mesh (`jax.sharding.Mesh`) of a config, with axes `AXES` of type Auto.

    On TPU the order of devices follows the topology. On several slices `replica` (or else `data`)
    goes across them. Elsewhere the order is that of `jax.devices()`, by process, so that the
    later axes stay inside a process. `devices` are those to use instead of all, for instance those of a
    topology that is not here.

    Raises:
      ConfigError: the sizes do not fit the devices.
      ValueError: they do not fit the slices.
    """
    import jax

    devices = list(jax.devices() if devices is None else devices)
    shape = mesh_shape(config, len(devices))
    types = (jax.sharding.AxisType.Auto,) * len(AXES)
    return jax.sharding.Mesh(_arrange(shape, devices), AXES, axis_types=types)


def _arrange(shape: tuple[int, ...], devices: list[Any]) -> np.ndarray:
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
