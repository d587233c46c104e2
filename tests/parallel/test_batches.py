"""Global batches: the right rows, fetched once, by explicit transfers only."""

import jax
import numpy as np
import pytest

from scaling.experiment import MeshConfig
from scaling.parallel.batches import batch_sharding, put_batch
from scaling.parallel.mesh import make_mesh

FULL = {
    "x": np.arange(16 * 3, dtype=np.int32).reshape(16, 3),
    "weights": np.linspace(0, 1, 16, dtype=np.float32),
}


def structs(rows: int = 16) -> dict[str, jax.ShapeDtypeStruct]:
    return {k: jax.ShapeDtypeStruct((rows, *v.shape[1:]), v.dtype) for k, v in FULL.items()}


@pytest.mark.parametrize(
    "config",
    [
        MeshConfig(),
        MeshConfig(fsdp=2, tensor=2),
        MeshConfig(tensor=8),
        MeshConfig(replica=2, fsdp=2),
        MeshConfig(fsdp=8),
    ],
)
def test_rows_arrive_once_on_every_mesh(config: MeshConfig) -> None:
    mesh = make_mesh(config)
    calls = []

    def fetch(start: int, stop: int) -> dict[str, np.ndarray]:
        calls.append((start, stop))
        return {k: v[start:stop].copy() for k, v in FULL.items()}

    with jax.transfer_guard("disallow"):
        batch = put_batch(fetch, structs(), mesh)
    assert calls == [(0, 16)]
    for key, expected in FULL.items():
        np.testing.assert_array_equal(jax.device_get(batch[key]), expected)
        assert batch[key].sharding == batch_sharding(mesh)


@pytest.mark.parametrize(
    ("rows", "change", "words"),
    [
        (12, {}, "'x'.*is 12, which mesh axis .* of size 8"),
        (16, {"weights": None}, "no 'weights'"),
        (16, {"x": FULL["x"].astype(np.int64)}, "int64.*expected int32"),
        (16, {"x": FULL["x"][:, :2]}, r"int32\[2\], expected int32\[3\]"),
    ],
)
def test_wrong_batches_are_refused(rows: int, change: dict, words: str) -> None:
    data = {k: v for k, v in (FULL | change).items() if v is not None}
    with pytest.raises(ValueError, match=words):
        put_batch(
            lambda a, b: {k: v[a:b] for k, v in data.items()},
            structs(rows),
            make_mesh(MeshConfig()),
        )
