"""Memory in use."""

import jax

from scaling.track import memory


def test_memory() -> None:
    assert 1e7 < memory.host_bytes() <= memory.host_peak_bytes() * 1.01 < 1e12
    assert memory.device_bytes(jax.devices()) is None

    class Fake:
        platform = "gpu"

        def __init__(self, stats: dict[str, int] | None) -> None:
            self._stats = stats

        def memory_stats(self) -> dict[str, int] | None:
            return self._stats

    one = Fake({"bytes_in_use": 5, "peak_bytes_in_use": 9, "bytes_limit": 10})
    two = Fake({"bytes_in_use": 7, "peak_bytes_in_use": 8, "bytes_limit": 10})
    assert memory.device_bytes([one, two]) == {"in_use": 5, "peak": 9, "limit": 10}
    assert memory.device_bytes([Fake(None)]) is None
