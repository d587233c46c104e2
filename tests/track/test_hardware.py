"""The hardware table and MFU; memory counts."""

import pytest

from scaling.track import hardware


def test_every_entry_is_plausible() -> None:
    for kind, device in hardware.DEVICES.items():
        assert 2e13 < device.flops < 5e15, kind
        assert 2e11 < device.bandwidth < 1e13, kind
        assert 8e9 <= device.memory < 4e11, kind
        assert 15 < device.flops / device.bandwidth < 600, kind
        assert device.usable is None or 0.9 < device.usable / device.memory < 1.02, kind
        assert device.source
        assert device.date


def test_mfu_by_hand() -> None:
    # Half the peak of four v5e chips; a TPU7x chip is two devices.
    assert hardware.mfu(2 * 197e12, "TPU v5 lite", 4) == pytest.approx(0.5)
    assert hardware.mfu(2307e12 / 2, "TPU7x", 2) == pytest.approx(0.5)
    assert hardware.mfu(1e12, "cpu", 8) is None
    with pytest.raises(hardware.HardwareError, match=r"MFU of 110\.0% .*NVIDIA H200"):
        hardware.mfu(989e12 * 1.1, "NVIDIA H200", 1)
    # A count of all pairs may pass the peak where the work that must be done does not.
    assert hardware.mfu(989e12 * 1.1, "NVIDIA H200", 1, 989e12 * 0.6) == pytest.approx(1.1)
    with pytest.raises(hardware.HardwareError, match=r"MFU of 101\.0%"):
        hardware.mfu(989e12 * 1.8, "NVIDIA H200", 1, 989e12 * 1.01)
