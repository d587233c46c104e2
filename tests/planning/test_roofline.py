import pytest

from scaling.planning import roofline, topology
from scaling.planning.collectives import Traffic
from scaling.planning.work import Work
from scaling.track import hardware

WORK = Work(matmul_flops=197e12, attention_flops=19.7e12, kernels={}, memory_bytes=819e9, opaque={})
DEVICE = hardware.DEVICES["TPU v5 lite"]
MESH = {"replica": 1, "data": 1, "fsdp": 256, "tensor": 1}


def gathered(axes="fsdp", group=256, across=False, wire=200e9):
    return Traffic("all-gather", axes, across, group, 1, wire, wire)


def estimate(*traffic, shape="v5e-256"):
    return roofline.estimate(WORK, traffic, DEVICE, topology.parse(shape), MESH)


def test_the_range_runs_from_all_overlapped_to_nothing():
    found = estimate(gathered())
    assert found.parts == pytest.approx(
        {"matmul": 1.0, "attention": 0.1, "memory": 1.0, "link fsdp": 1.0}
    )
    assert found.low == pytest.approx(1.1)  # one matrix unit does both
    assert found.bound == "matrix"
    assert found.high == pytest.approx(1 / 0.7 + 0.1 / 0.5 + 1 / 0.5 + 1 / 0.5)


def test_a_small_group_uses_its_share_of_the_torus():
    whole, part = estimate(gathered()), estimate(gathered(group=16))
    assert part.parts["link fsdp"] == pytest.approx(2 * whole.parts["link fsdp"])


def test_between_slices_the_network_counts():
    found = estimate(gathered(across=True, wire=roofline.NETWORK))
    assert found.parts["network"] == pytest.approx(1.0)


def test_the_record_of_such_estimates_is_stated():
    assert "6, 21, 28 and 6 %" in roofline.RECORD


def test_numbers_of_a_device_can_be_replaced():
    assert hardware.override("TPU v5 lite", {}) is DEVICE
    assert hardware.override("TPU v5 lite", {"flops": 1.0}).flops == 1.0
    assert hardware.override("cpu", {}) is None
    assert hardware.override("cpu", {"flops": 1.0}) is None
    own = hardware.override("cpu", {"flops": 1.0, "bandwidth": 2.0, "usable": 3.0})
    assert (own.flops, own.usable, own.link) == (1.0, 3.0, None)
