"""Meshes of fake CPU devices, and of made-up slices."""

import types

import jax
import numpy as np
import pytest

from scaling.experiment import MeshConfig
from scaling.parallel import mesh as mesh_lib
from scaling.parallel.axes import AXES, mesh_shape
from scaling.parallel.mesh import make_mesh


@pytest.mark.parametrize(
    ("config", "devices", "shape"),
    [
        (MeshConfig(), 8, (1, 8, 1, 1)),
        (MeshConfig(fsdp=4), 8, (1, 2, 4, 1)),
        (MeshConfig(fsdp=2, tensor=2), 8, (1, 2, 2, 2)),
        (MeshConfig(data=1, fsdp=-1), 8, (1, 1, 8, 1)),
        (MeshConfig(replica=2, data=1, fsdp=2, tensor=2), 8, (2, 1, 2, 2)),
        (MeshConfig(), 1, (1, 1, 1, 1)),
    ],
)
def test_shape(config: MeshConfig, devices: int, shape: tuple[int, ...]) -> None:
    assert mesh_shape(config, devices) == shape


@pytest.mark.parametrize(
    ("config", "devices", "words"),
    [
        (MeshConfig(data=3), 8, ("data=3", "there are 8", "data=8, fsdp=1, tensor=1")),
        (MeshConfig(fsdp=4, tensor=3), 8, ("multiple of 12", "8", "data=2, fsdp=4, tensor=1")),
        (MeshConfig(data=-1, fsdp=-1), 8, ("mesh.fsdp", "and so is mesh.data")),
        (MeshConfig(tensor=0), 8, ("mesh.tensor: 0", "at least 1")),
        (MeshConfig(data=16), 8, ("data=16", "data=8")),
    ],
)
def test_shape_that_does_not_fit(config: MeshConfig, devices: int, words: tuple[str, ...]) -> None:
    with pytest.raises(ValueError) as error:
        mesh_shape(config, devices)
    for word in words:
        assert word in str(error.value)


def test_mesh_keeps_device_order_and_has_auto_axes() -> None:
    mesh = make_mesh(MeshConfig(fsdp=2, tensor=2))
    assert mesh.axis_names == AXES
    assert [d.id for d in mesh.devices.flat] == list(range(8))
    assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}


def test_mesh_of_some_devices() -> None:
    mesh = make_mesh(MeshConfig(), jax.devices()[:2])
    assert dict(mesh.shape) == {"replica": 1, "data": 2, "fsdp": 1, "tensor": 1}


def slice_device(i: int, slice_index: int) -> types.SimpleNamespace:
    return types.SimpleNamespace(
        id=i, slice_index=slice_index, process_index=slice_index, platform="cpu", device_kind="x"
    )


@pytest.mark.parametrize("config", [MeshConfig(replica=2, fsdp=2), MeshConfig(fsdp=4)])
def test_slices_are_crossed_by_the_outer_axis_only(config: MeshConfig) -> None:
    devices = [slice_device(i, i // 4) for i in range(8)]
    shape = mesh_shape(config, 8)
    array = mesh_lib._arrange(shape, devices)
    assert array.shape == shape
    slices = np.vectorize(lambda d: d.slice_index)(array).reshape(2, -1)
    assert (slices == [[0] * 4, [1] * 4]).all()


def test_model_axes_across_slices_are_refused() -> None:
    devices = [slice_device(i, i // 4) for i in range(8)]
    with pytest.raises(ValueError, match=r"set mesh\.replica=2"):
        mesh_lib._arrange((1, 1, 8, 1), devices)
