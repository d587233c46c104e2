"""Mesh axes: their roles, their sizes in a config, and which array dimensions each splits. No JAX.

    replica  across slices or racks: slow links, so only the gradient sum crosses them
    data     the batch is split, parameters are whole
    fsdp     the batch and the parameters are split; parameters are gathered layer by layer
    tensor   heads, hidden units and vocabulary are split; the fastest links

The last axis varies fastest over devices, so `tensor` gets neighbours. Everything iterates over the
axes and their roles: a new axis (sequence, expert, stage) is one line in `ROLES`, one field of
`MeshConfig`, and its lines in `DEFAULT_RULES`. What does not fit is a ConfigError.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from scaling.configs.dump import get
from scaling.configs.errors import ConfigError, suggest
from scaling.experiment import Experiment, MeshConfig

Role = Literal["batch", "parameters"]
Rules = Mapping[str, tuple[str, ...]]

# What each axis may split, slowest links first.
ROLES: dict[str, tuple[Role, ...]] = {
    "replica": ("batch",),
    "data": ("batch",),
    "fsdp": ("batch", "parameters"),
    "tensor": ("parameters",),
}
AXES = tuple(ROLES)


def axes_with(*roles: Role) -> tuple[str, ...]:
    """Axes that have all of these roles, in the order of `AXES`."""
    return tuple(axis for axis, has in ROLES.items() if set(roles) <= set(has))


# Logical name of a dimension -> the mesh axes that split it.
DEFAULT_RULES: Rules = {
    # Batches and activations.
    "batch": axes_with("batch"),
    "length": (),
    "head_dim": (),
    # Parameters. Activations reuse the names: with `batch` on fsdp, `embed` is free of it there.
    "layers": (),
    "experts": (),
    "stage": (),
    "embed": ("fsdp",),
    "mlp": ("tensor",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "vocab": ("tensor",),
    "positions": (),
    "conv_in": (),
    "conv_out": ("fsdp",),
    "classes": (),
    "norm": (),
}


def rules(mesh: MeshConfig | None = None) -> Rules:
    """The rule table: the defaults with `mesh.rules` on top."""
    table = dict(DEFAULT_RULES)
    for name, axes in mesh.rules if mesh is not None else ():
        axes = (axes,) if isinstance(axes, str) else tuple(axes or ())
        for axis in axes:
            if axis not in AXES:
                what = f"{name!r} -> {axis!r} is not a mesh axis"
                raise ConfigError("mesh.rules", what, suggest(axis, AXES, what="axes"))
        table[name] = axes
    return table


def sizes(mesh: MeshConfig) -> dict[str, int]:
    """Sizes as the config states them, -1 included; an axis that it does not know has one part."""
    return {axis: int(getattr(mesh, axis, 1)) for axis in AXES}


def check(config: Experiment) -> None:
    """What can be held without the number of devices: sizes, rules, batches and heads."""
    check_sizes(config.mesh)
    stated = sizes(config.mesh)
    check_batches(config, stated)
    table = rules(config.mesh)
    for key, name in (("model.num_heads", "heads"), ("model.num_kv_heads", "kv_heads")):
        heads = get(config, key)
        axes = [axis for axis in table[name] if stated[axis] > 1]
        parts = math.prod(stated[axis] for axis in axes)
        if heads is not None and heads % parts:
            raise ConfigError(
                key,
                f"{heads} heads do not divide over {_product(axes, stated)} devices",
                f"give mesh.{axes[0]} a divisor of {heads}, or keep them whole on each device: "
                f"--config.mesh.rules='(({name},None),)'",
            )


def check_sizes(mesh: MeshConfig) -> None:
    """Every axis has at least one device, and at most one axis takes the rest."""
    stated = sizes(mesh)
    for axis, size in stated.items():
        if size == 0 or size < -1:
            raise ConfigError(f"mesh.{axis}", f"{size} is not a size", "give at least 1, or -1")
    rest = [axis for axis, size in stated.items() if size == -1]
    if len(rest) > 1:
        what = f"is -1 (the remaining devices), and so is mesh.{rest[0]}"
        remedy = f"give one of them a size, such as --config.mesh.{rest[0]}=1"
        raise ConfigError(f"mesh.{rest[1]}", what, remedy)


def check_devices(config: Experiment, num_devices: int) -> None:
    """What needs the number of devices: the mesh fits them and the batch fits the mesh."""
    shape = mesh_shape(config.mesh, num_devices)
    check_batches(config, dict(zip(AXES, shape, strict=True)))


def check_batches(config: Experiment, sizes: Mapping[str, int]) -> None:
    """Batches against mesh sizes; a size of -1 is not known yet and counts as 1."""
    axes = [axis for axis in rules(config.mesh)["batch"] if sizes[axis] > 1]
    parts = math.prod(sizes[axis] for axis in axes)
    over = f"{_product(axes, sizes)} devices" if axes else ""
    batch, accumulate = config.train.batch_size, config.train.accumulate
    if batch % (parts * accumulate):
        into = f"train.accumulate={accumulate}" if accumulate > 1 else ""
        what = f"{batch} does not divide by {' times '.join(part for part in (into, over) if part)}"
        raise ConfigError("train.batch_size", what, f"give a multiple of {parts * accumulate}")
    scored = {"eval.batch_size": config.eval.batch_size}
    for name, entry in (config.eval.also or {}).items():
        scored[f"eval.also.{name}.batch_size"] = entry.batch_size
    for key, rows in scored.items():
        if rows is not None and rows % parts:
            raise ConfigError(
                key, f"{rows} does not divide by {over}", f"give a multiple of {parts}"
            )


def mesh_shape(mesh: MeshConfig, num_devices: int) -> tuple[int, ...]:
    """Sizes of `AXES` on `num_devices` devices, with the one -1 filled in; an error proposes a shape."""
    check_sizes(mesh)
    shape = sizes(mesh)
    shown = ", ".join(f"{axis}={size}" for axis, size in shape.items())
    filled = [axis for axis, size in shape.items() if size == -1]
    fixed = math.prod(size for size in shape.values() if size != -1)
    if filled and num_devices % fixed == 0:
        shape[filled[0]] = num_devices // fixed
    elif filled or fixed != num_devices:
        what = (
            f"{shown} needs {'a multiple of ' if filled else ''}{fixed} devices and there are "
            f"{num_devices}"
        )
        raise ConfigError("mesh", what, f"a shape that fits: {_proposal(shape, num_devices)}")
    return tuple(shape.values())


def _proposal(sizes: Mapping[str, int], num_devices: int) -> str:
    """The nearest shape that fits: keeps sizes, the fastest links first, as far as they divide."""
    left, fitted = num_devices, dict.fromkeys(AXES, 1)
    for axis in [axis for axis in reversed(AXES) if axis != "data"]:
        fitted[axis] = math.gcd(left, max(1, sizes[axis]))
        left //= fitted[axis]
    fitted["data"] = left
    return ", ".join(f"{axis}={size}" for axis, size in fitted.items())


def _product(axes: Sequence[str], sizes: Mapping[str, int]) -> str:
    """The axes with their sizes: `mesh.data=2 x mesh.fsdp=4`."""
    return " x ".join(f"mesh.{axis}={sizes[axis]}" for axis in axes)
