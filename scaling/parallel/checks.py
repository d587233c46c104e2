"""What must hold between the mesh and other sections of a config.

A check looks only at keys that are there, so that it holds for components of the user's own too.
`check_devices` needs the number of devices and runs once they are known.
"""

import math
from typing import Any

from scaling.configs.dump import get
from scaling.configs.errors import ConfigError
from scaling.parallel import logical
from scaling.parallel.mesh import AXES, mesh_shape


def check_devices(config: Any, num_devices: int) -> None:
    """The rules that need the number of devices: the mesh fits them and the batch fits the mesh.

    Args:
      config: resolved.
      num_devices: all devices of all processes.

    Raises:
      ConfigError: it does not fit; names sizes that do.
    """
    try:
        shape = mesh_shape(config.mesh, num_devices)
    except ValueError as error:
        raise ConfigError("mesh", str(error)) from error
    _check_batches(config, dict(zip(AXES, shape, strict=True)))


def mesh_has_sizes(config: Any) -> None:
    """Every axis has at least one device, and at most one axis takes the rest."""
    sizes = _mesh_sizes(config)
    for axis, size in sizes.items():
        if size == 0 or size < -1:
            raise ConfigError(f"mesh.{axis}", f"{size} is no size", "give at least 1, or -1")
    rest = [axis for axis, size in sizes.items() if size == -1]
    if len(rest) > 1:
        raise ConfigError(
            f"mesh.{rest[1]}",
            f"is -1 (the remaining devices), and so is mesh.{rest[0]}",
            f"give one of them a size, such as --config.mesh.{rest[0]}=1",
        )


def mesh_rules_name_axes(config: Any) -> None:
    """`mesh.rules` sends names to axes that the mesh has."""
    _logical_rules(config)


def batch_divides(config: Any) -> None:
    """The batch divides by the data axes that are known, and its microbatches do too."""
    _check_batches(config, _mesh_sizes(config))


def heads_divide_over_devices(config: Any) -> None:
    """Whole heads on each device of the axes that split them."""
    sizes, rules = _mesh_sizes(config), _logical_rules(config)
    for key, name in (("model.num_heads", "heads"), ("model.num_kv_heads", "kv_heads")):
        heads = get(config, key)
        axes = [axis for axis in rules.get(name, ()) if sizes.get(axis, 1) > 1]
        parts = math.prod(sizes[axis] for axis in axes)
        if heads is not None and heads % parts:
            raise ConfigError(
                key,
                f"{heads} heads do not divide over {_product(axes, sizes)} devices",
                f"give mesh.{axes[0]} a divisor of {heads}, or keep them whole on each device: "
                f"--config.mesh.rules='(({name},None),)'",
            )


def _mesh_sizes(config: Any) -> dict[str, int]:
    """Sizes as the config states them, -1 included."""
    mesh = get(config, "mesh") or {}
    return {axis: mesh[axis] for axis in AXES if axis in mesh}


def _logical_rules(config: Any) -> Any:
    """Logical name -> mesh axes, with `mesh.rules` laid over the defaults."""
    if get(config, "mesh.rules") is None:
        return {}
    try:
        return logical.rules(config.mesh)
    except ValueError as error:
        raise ConfigError("mesh.rules", str(error).removeprefix("mesh.rules: ")) from error


def _check_batches(config: Any, sizes: dict[str, int]) -> None:
    """Batches against mesh sizes; a size of -1 is not known yet and counts as 1."""
    axes = [axis for axis in _logical_rules(config).get("batch", ()) if sizes.get(axis, 1) > 1]
    parts = math.prod(sizes[axis] for axis in axes)
    over = f"{_product(axes, sizes)} devices" if axes else ""
    batch, accumulate = get(config, "train.batch_size"), get(config, "train.accumulate", 1)
    if batch is not None and batch % (parts * accumulate):
        into = f"train.accumulate={accumulate}" if accumulate > 1 else ""
        raise ConfigError(
            "train.batch_size",
            f"{batch} does not divide by {' times '.join(one for one in (into, over) if one)}",
            f"give a multiple of {parts * accumulate}",
        )
    batch = get(config, "eval.batch_size")
    if batch is not None and batch % parts:
        raise ConfigError(
            "eval.batch_size", f"{batch} does not divide by {over}", f"give a multiple of {parts}"
        )


def _product(axes: list[str], sizes: dict[str, int]) -> str:
    """The axes with their sizes: `mesh.data=2 x mesh.fsdp=4`."""
    return " x ".join(f"mesh.{axis}={sizes[axis]}" for axis in axes)
