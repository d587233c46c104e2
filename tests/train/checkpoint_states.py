"""States with every kind of leaf, and what the tests of checkpoints do with them."""

import pathlib
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from scaling.train.checkpoint_reading import is_key
from scaling.train.checkpoints import CheckpointInfo, Checkpoints


class Moments(NamedTuple):
    mu: Any
    nu: Any


class State(flax.struct.PyTreeNode):
    step: Any
    params: Any
    opt_state: Any
    model_state: Any
    ema: Any
    key: Any


def make_state(scale: float = 1.0, seed: int = 0) -> State:
    """A state with every kind of leaf: bfloat16, empty, scalar, host array, number, typed key."""
    w = (jnp.arange(128, dtype=jnp.float32).reshape(16, 8) * scale).at[0, 0].set(seed)
    return State(
        step=jnp.asarray(seed, jnp.int32),
        params={"layers_0": {"kernel": w, "bias": w[0].astype(jnp.bfloat16)}, "empty": w[:0]},
        opt_state=(Moments(mu=[w + 1], nu=w[0] * 2), {}, None),
        model_state={"mean": np.arange(3, dtype=np.float64) * scale, "count": 3},
        ema=None,
        key=jax.random.split(jax.random.key(seed), 4),
    )


def host_leaves(tree: Any) -> list[np.ndarray]:
    return [
        np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf)
        for leaf in jax.tree.leaves(tree)
    ]


def assert_same(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(host_leaves(a), host_leaves(b), strict=True):
        assert x.dtype == y.dtype
        assert x.shape == y.shape
        assert x.tobytes() == y.tobytes()


def put(saver: Checkpoints, step: int, state: Any = None, **metrics: float) -> None:
    saver.save(
        step, make_state(seed=step) if state is None else state, metrics, {"config.json": "{}"}
    )


def flip(path: pathlib.Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset % len(data)] ^= 0x40
    path.write_bytes(bytes(data))


def on_mesh(state: State, shape: tuple[int, int]) -> State:
    devices = np.array(jax.devices()[: shape[0] * shape[1]]).reshape(shape)
    mesh = Mesh(devices, ("data", "tensor"))

    def place(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array):
            return leaf
        spec = P("data", "tensor") if leaf.ndim == 2 and leaf.size else P()
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    return jax.tree.map(place, state)


def arrays_of(info: CheckpointInfo) -> dict[str, Any]:
    """A checkpoint as nested dictionaries of numpy arrays, with no template and no mesh."""
    return unflatten_dict(info.read_arrays(dict.fromkeys(info.leaves)), sep="/")
