"""Global batches from host rows: every process reads only the rows that its devices hold."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from scaling.experiment import MeshConfig
from scaling.parallel import axes, logical

Fetch = Callable[[int, int], Mapping[str, np.ndarray]]


def batch_sharding(mesh: jax.sharding.Mesh, config: MeshConfig | None = None) -> NamedSharding:
    """Rows over the mesh axes of the logical name `batch`; other dimensions whole."""
    return NamedSharding(mesh, logical.spec(("batch",), axes.rules(config)))


def put_batch(
    fetch: Fetch, spec: Mapping[str, jax.ShapeDtypeStruct], mesh: jax.sharding.Mesh
) -> dict[str, jax.Array]:
    """Puts one global batch on the devices of the mesh.

    Only explicit transfers, so it works under `jax.transfer_guard("disallow")`. On CPU a device
    array may share memory with what `fetch` returned: it must be a fresh array.

    Args:
      fetch: (start, stop) -> rows start:stop of the global batch, by key. Called once for each
        contiguous range of rows that this process holds, for every process the same rows of the
        same batch.
      spec: shapes and types of the global batch; its shardings, if it has any, else
        `batch_sharding(mesh)`.

    Raises:
      ValueError: rows that do not divide the mesh, a key that is missing, or an array of another
        shape or type than its spec.
    """
    default = batch_sharding(mesh)
    sizes = {key: s.shape[0] for key, s in spec.items()}
    if len(set(sizes.values())) != 1:
        raise ValueError(f"put_batch: the keys of a batch have different numbers of rows: {sizes}")
    shardings = {key: s.sharding or default for key, s in spec.items()}
    places: dict[str, dict[Any, Any]] = {}
    for key, s in spec.items():
        partition = shardings[key].spec
        logical.check_divides(f"batch key {key!r} (train.batch_size)", s.shape, partition, mesh)
        places[key] = dict(shardings[key].addressable_devices_indices_map(s.shape))
    blocks = [
        (start, stop, fetch(start, stop))
        for start, stop in _runs(
            {_rows(i, sizes[k]) for k, p in places.items() for i in p.values()}
        )
    ]
    for _, _, rows in blocks:
        _check(rows, spec)

    def piece(key: str, index: tuple[slice, ...]) -> np.ndarray:
        first, last = _rows(index, sizes[key])
        start, rows = next((a, r) for a, b, r in blocks if a <= first and last <= b)
        return rows[key][(slice(first - start, last - start), *index[1:])]

    batch: dict[str, jax.Array] = {}
    for key, s in spec.items():
        devices = list(places[key])
        shards = jax.device_put([piece(key, places[key][d]) for d in devices], devices)
        batch[key] = jax.make_array_from_single_device_arrays(s.shape, shardings[key], shards)
    return batch


def _rows(index: tuple[slice, ...], size: int) -> tuple[int, int]:
    start, stop, _ = index[0].indices(size)
    return start, stop


def _runs(ranges: set[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges of rows with touching ones joined."""
    runs: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if runs and start <= runs[-1][1]:
            runs[-1] = (runs[-1][0], max(stop, runs[-1][1]))
        else:
            runs.append((start, stop))
    return runs


def _check(rows: Mapping[str, np.ndarray], spec: Mapping[str, Any]) -> None:
    """The fetched rows against the spec, except their number."""
    for key, s in spec.items():
        if key not in rows:
            raise ValueError(f"put_batch: the batch has no {key!r}, only {sorted(rows)}")
        x = rows[key]
        if x.shape[1:] != s.shape[1:] or x.dtype != s.dtype:
            raise ValueError(
                f"put_batch: {key!r} has rows {x.dtype}{list(x.shape[1:])}, "
                f"expected {np.dtype(s.dtype)}{list(s.shape[1:])}"
            )
