"""Updates on a mesh equal those on one device, state laid out by the parameters' names."""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.configs import Component
from scaling.experiment import OptimConfig
from scaling.optim.build import build_optimizer
from scaling.parallel import (
    MeshConfig,
    make_mesh,
    param_shardings,
    state_shardings,
)
from scaling.parallel.audit import audit

NAMES = {"up": ("layers", "embed", "mlp"), "table": ("vocab", "embed"), "norm": ("norm",)}
SHAPES = {"up": (3, 8, 12), "table": (16, 8), "norm": (8,)}


class Whole(flax.struct.PyTreeNode):
    params: Any
    opt_state: Any
    model_state: Any = flax.struct.field(default_factory=dict)
    frozen: Any = flax.struct.field(default_factory=dict)


@pytest.mark.parametrize("name", ["adamw", "muon", "adafactor"])
def test_update_on_a_mesh_equals_one_device(name: str) -> None:
    config = MeshConfig(data=2, fsdp=2, tensor=2, large_bytes=64)
    mesh = make_mesh(config)
    keys = {"min_dim_size_to_factor": 8, "momentum": 0.9} if name == "adafactor" else {}
    arguments = {"clip_norm": 1.0, **keys}
    section = OptimConfig(name=name, arguments=arguments, schedule=Component("constant"))
    rng = np.random.default_rng(0)
    params = {k: rng.normal(size=s).astype(np.float32) for k, s in SHAPES.items()}
    grads = {k: rng.normal(size=s).astype(np.float32) for k, s in SHAPES.items()}
    optimizer = build_optimizer(section, 10, NAMES)
    values = {k: jnp.float32(v) for k, v in optimizer.hparams.items()}

    def two_updates(params: Any, state: Any, grads: Any) -> Any:
        for step in range(2):
            norms = optimizer.norms(grads)
            updates, state = optimizer.update(grads, norms, state, params, jnp.int32(step), values)
            params = jax.tree.map(jnp.add, params, updates)
        return params, state

    alone, _ = jax.jit(two_updates)(params, optimizer.init(params), grads)

    boxed = {
        k: nn.Partitioned(jax.ShapeDtypeStruct(SHAPES[k], jnp.float32), n) for k, n in NAMES.items()
    }
    places = param_shardings(boxed, mesh, config)
    whole = Whole(params=params, opt_state=jax.eval_shape(optimizer.init, params))
    shardings = state_shardings(whole, {"params": places}, mesh)
    audit(whole, shardings, mesh, config)  # nothing of 64 bytes or more is copied
    init = jax.jit(optimizer.init, out_shardings=shardings.opt_state)
    step = jax.jit(
        two_updates,
        in_shardings=(places, shardings.opt_state, places),
        out_shardings=(places, shardings.opt_state),
    )
    put = jax.device_put(params, places), jax.device_put(grads, places)
    together, _ = step(put[0], init(put[0]), put[1])
    for key in SHAPES:
        np.testing.assert_allclose(together[key], alone[key], rtol=2e-4, atol=1e-5)
