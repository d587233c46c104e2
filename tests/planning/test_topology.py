import importlib.util
import subprocess
import sys

import pytest

from scaling.configs import ConfigError
from scaling.planning import topology


@pytest.mark.parametrize(
    ("name", "shape", "chips", "devices"),
    [
        ("v5e-256", (16, 16), 256, 256),
        ("v5e-8", (2, 4), 8, 8),
        ("v6e-64", (8, 8), 64, 64),
        ("v5p-128", (4, 4, 4), 64, 64),
        ("v5p-1024", (8, 8, 8), 512, 512),
        ("v4-32", (2, 2, 4), 16, 16),
        ("v5p-8", (2, 2, 1), 4, 4),
        ("v7x-128", (4, 4, 4), 64, 128),
        ("V5P:4x4x8", (4, 4, 8), 128, 128),
        ("v5litepod-16", (4, 4), 16, 16),
        ("cpu-8", (), 8, 8),
    ],
)
def test_names(name, shape, chips, devices):
    target = topology.parse(name)
    assert (target.shape, target.chips, target.num_devices) == (shape, chips, devices)


def test_slices_multiply():
    target = topology.parse("v5p:4x8x8", 2)
    assert (target.chips, target.slices, target.name) == (512, 2, "v5p:4x8x8x2")


@pytest.mark.parametrize(
    ("name", "slices", "words"),
    [
        ("v5e256", 1, ["v5e-256", "v6e-N", "cpu-N"]),
        ("h100", 1, ["v4-N", "gpu"]),
        ("v5e-12", 1, ["no v5e slice of 12 chips", "v5e-16"]),
        ("v5p-3", 1, ["TensorCores"]),
        ("v5p:4x4", 1, ["3-dimensional"]),
        ("cpu-0", 1, ["cpu-1"]),
        ("cpu-8", 2, ["only TPUs"]),
    ],
)
def test_what_is_not_known_is_refused_with_the_names(name, slices, words):
    with pytest.raises(ConfigError) as error:
        topology.parse(name, slices)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_without_libtpu_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    with pytest.raises(ConfigError, match=r"scaling\[tpu\]"):
        topology.prepare(topology.parse("v5e-8"))


def test_devices_of_slices_that_are_not_here():
    """In a process of its own: libtpu is loaded once and reads its variables then."""
    pytest.importorskip("libtpu", reason="the extra tpu is not installed")
    code = """
from scaling.planning import topology
for name, slices in [("v5e-16", 1), ("v5e-1", 1), ("v4-16", 1), ("v7x-16", 1), ("v6e-8", 2)]:
    target = topology.parse(name, slices)
    topology.prepare(target)
    found = topology.devices(target)
    assert len(found) == target.num_devices, (name, len(found))
    assert found[0].device_kind == topology.FAMILIES[target.family].kind
    assert len({getattr(one, "slice_index", 0) or 0 for one in found}) == slices
try:
    topology.devices(topology.parse("v5e:3x5"))
except topology.ConfigError as error:
    assert "libtpu refuses" in str(error)
else:
    raise AssertionError("v5e:3x5 was accepted")
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
