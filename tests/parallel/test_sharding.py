"""Placement of parameters and train states on fake devices."""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import PartitionSpec as P

from scaling.experiment import MeshConfig
from scaling.parallel.mesh import make_mesh
from scaling.parallel.sharding import (
    ShardingError,
    axis_names,
    param_shardings,
    path_name,
    state_shardings,
    unbox,
)


class State(flax.struct.PyTreeNode):
    step: jax.Array
    params: Any
    opt_state: Any
    ema: Any
    model_state: Any
    frozen: Any = flax.struct.field(default_factory=dict)


class Block(nn.Module):
    width: int
    hidden: int

    @nn.compact
    def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
        init = nn.with_partitioning(nn.initializers.lecun_normal(), ("embed", "mlp"))
        back = nn.with_partitioning(nn.initializers.lecun_normal(), ("mlp", "embed"))
        y = nn.Dense(self.hidden, kernel_init=init, use_bias=False, name="up")(x)
        y = nn.Dense(self.width, kernel_init=back, use_bias=False, name="down")(nn.relu(y))
        return x + y, None


class Net(nn.Module):
    width: int = 16
    hidden: int = 32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Dense(self.width, name="plain")(x)
        blocks = nn.scan(
            Block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=3,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        x, _ = blocks(self.width, self.hidden, name="blocks")(x, None)
        return nn.BatchNorm(use_running_average=False, name="norm")(x)


def boxed(net: nn.Module | None = None, features: int = 24) -> Any:
    net = net or Net()
    return jax.eval_shape(net.init, jax.random.key(0), jnp.ones((2, features)))


def test_named_and_default_shardings() -> None:
    config = MeshConfig(data=2, fsdp=2, tensor=2, shard_bytes=1024)
    shardings, names = param_shardings(boxed(), make_mesh(config), config), axis_names(boxed())
    params = shardings["params"]
    assert names["params"]["blocks"]["up"]["kernel"] == ("layers", "embed", "mlp")
    assert params["blocks"]["up"]["kernel"].spec == P(None, "fsdp", "tensor")
    assert params["blocks"]["down"]["kernel"].spec == P(None, "tensor", "fsdp")
    # Without names: 24 x 16 float32 is large enough here, 24 is the largest dimension.
    assert names["params"]["plain"]["kernel"] is None
    assert params["plain"]["kernel"].spec == P("fsdp", None)
    assert params["plain"]["bias"].spec == P()
    assert shardings["batch_stats"]["norm"]["mean"].spec == P()
    assert jax.tree.structure(params) == jax.tree.structure(unbox(boxed())["params"])


def test_default_uses_tensor_only_without_fsdp_and_skips_what_does_not_divide() -> None:
    tree = {
        "w": jax.ShapeDtypeStruct((9, 8), "float32"),
        "odd": jax.ShapeDtypeStruct((9, 7), "float32"),
    }
    for config, axis in ((MeshConfig(tensor=4), "tensor"), (MeshConfig(fsdp=2, tensor=2), "fsdp")):
        config = MeshConfig(fsdp=config.fsdp, tensor=config.tensor, shard_bytes=1)
        shardings = param_shardings(tree, make_mesh(config), config)
        assert shardings["w"].spec == P(None, axis)
        assert shardings["odd"].spec == P()


def test_indivisible_dimension_is_an_error_that_names_everything() -> None:
    config = MeshConfig(data=1, tensor=8)
    tree = boxed(Net(hidden=36))
    with pytest.raises(ShardingError) as error:
        param_shardings(tree, make_mesh(config), config)
    for words in (
        "params/blocks/down/kernel",
        "dimension 1 ('mlp')",
        "36",
        "tensor of size 8",
        "mesh.allow_replicated",
    ):
        assert words in str(error.value)


def test_waiver_keeps_the_dimension_whole() -> None:
    config = MeshConfig(data=1, fsdp=2, tensor=4, allow_replicated=("*/up/kernel", "*/down/*"))
    shardings = param_shardings(boxed(Net(hidden=30)), make_mesh(config), config)
    assert shardings["params"]["blocks"]["up"]["kernel"].spec == P(None, "fsdp", None)


def test_wrong_number_of_names_is_an_error() -> None:
    config = MeshConfig()
    tree = {"w": nn.Partitioned(jax.ShapeDtypeStruct((4, 4), "float32"), ("embed",))}
    with pytest.raises(ShardingError, match="w: 1 axis names"):
        param_shardings(tree, make_mesh(config), config)
    tree = {"w": nn.Partitioned(jax.ShapeDtypeStruct((4,), "float32"), ("embet",))}
    with pytest.raises(ShardingError, match=r"w: logical axis 'embet'.*nearest is 'embed'"):
        param_shardings(tree, make_mesh(config), config)


@pytest.mark.parametrize("name", ["adam", "adafactor", "partition"])
def test_state_follows_its_parameters(name: str) -> None:
    config = MeshConfig(data=2, fsdp=2, tensor=2, shard_bytes=1024)
    mesh = make_mesh(config)
    variables = unbox(boxed())
    shardings = param_shardings(boxed(), mesh, config)
    optimizer = {
        "adam": optax.adam(1e-3),
        "adafactor": optax.scale_by_factored_rms(min_dim_size_to_factor=8),
        "partition": optax.multi_transform(
            {"a": optax.adam(1e-3), "b": optax.sgd(1e-3, momentum=0.9)},
            lambda p: jax.tree_util.tree_map_with_path(
                lambda path, _: "a" if "up" in path_name(path) else "b", p
            ),
        ),
    }[name]
    params = variables["params"]
    state = State(
        step=jax.ShapeDtypeStruct((), jnp.int32),
        params=params,
        opt_state=jax.eval_shape(optimizer.init, params),
        ema=params,
        model_state={"batch_stats": variables["batch_stats"]},
    )
    placed = state_shardings(state, shardings, mesh)
    assert jax.tree.structure(placed) == jax.tree.structure(state)
    assert placed.params == shardings["params"]
    assert placed.ema == shardings["params"]
    assert placed.step.spec == P()
    assert placed.model_state["batch_stats"]["norm"]["mean"].spec == P()
    up = {
        path_name(path): s.spec
        for path, s in jax.tree_util.tree_flatten_with_path(placed.opt_state)[0]
        if path_name(path).endswith("up/kernel")
    }
    if name == "adafactor":  # 3 x 16 x 32 is factored over its two largest dimensions.
        assert up["v_row/blocks/up/kernel"] == P(None, "fsdp")
        assert up["v_col/blocks/up/kernel"] == P(None, "tensor")
        assert up["v/blocks/up/kernel"] == P()
    else:
        assert len(up) == 2  # both moments
        assert set(up.values()) == {P(None, "fsdp", "tensor")}


def test_state_really_lands_there() -> None:
    config = MeshConfig(data=2, fsdp=2, tensor=2, shard_bytes=1024)
    mesh = make_mesh(config)
    shardings = param_shardings(boxed(), mesh, config)
    init = jax.jit(lambda key: unbox(Net().init(key, jnp.ones((2, 24)))), out_shardings=shardings)
    kernel = init(jax.random.key(0))["params"]["blocks"]["up"]["kernel"]
    assert kernel.addressable_shards[0].data.shape == (3, 8, 16)
