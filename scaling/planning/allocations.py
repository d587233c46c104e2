"""The largest arrays of a step on one device, under the names that the model gives them.

Two kinds are known before any compiler runs: the state (exactly: shape and sharding) and what the
layers keep for the backward pass (from the traced step: results of the forward loop that the
backward loop reads). When a program is too large, these are the numbers to look at.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from scaling.parallel import axes as mesh_axes
from scaling.parallel.sharding import path_name

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Allocation:
    """One array, or what several arrays of one name come to.

    Attributes:
      name: `params/layers/mlp/up/kernel`, or `saved: layers/mlp/up` for an activation.
      shape: of the whole array.
      dtype: its type.
      bytes: on one device.
      exact: whether the sharding is known; else the batch is taken to be split and nothing more.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    bytes: float
    exact: bool


def tree_bytes(tree: PyTree) -> float:
    """Bytes of one device's part of abstract arrays with shardings."""
    return float(sum(_part_bytes(x) for x in jax.tree.leaves(tree)))


def rows(config: Any, mesh: jax.sharding.Mesh) -> float:
    """Examples of one device in one microbatch."""
    return config.train.batch_size / config.train.accumulate / batch_parts(config, mesh)


def batch_parts(config: Any, mesh: jax.sharding.Mesh) -> int:
    """Into how many parts the mesh splits a batch."""
    axes = mesh_axes.rules(config.mesh)["batch"]
    return math.prod(mesh.shape[axis] for axis in axes)


def largest(program: Any, *, overflow: bool = False, count: int = 12) -> list[Allocation]:
    """The largest arrays, largest first.

    Args:
      program: `train.program.Program`.
      overflow: also trace the step for the activations that it saves.
      count: how many.
    """
    found = [
        Allocation(path_name(path), tuple(x.shape), str(x.dtype), float(_part_bytes(x)), True)
        for path, x in jax.tree_util.tree_flatten_with_path(program.abstract)[0]
    ]
    if overflow:
        found += activations(program)
    return sorted(found, key=lambda one: (-one.bytes, one.name))[:count]


def activations(program: Any) -> list[Allocation]:
    """What loops over layers stack up in the forward pass, and products outside of them (logits)."""
    traced = program.step.trace(program.abstract, program.train_batch, program.abstract_hparams())
    split = batch_parts(program.config, program.mesh)
    return _stacked(traced.jaxpr.jaxpr, split) + _products(traced.jaxpr.jaxpr, split)


def _products(jaxpr: Any, split: int, path: str = "") -> list[Allocation]:
    """Results of products that stand in no loop over layers."""
    found = []
    for equation in jaxpr.eqns:
        name = f"{path}/{equation.source_info.name_stack}".strip("/")
        if equation.primitive.name == "dot_general" and "transpose" not in name:
            out = equation.outvars[0].aval
            size = math.prod(out.shape) * np.dtype(out.dtype).itemsize
            found.append(
                Allocation(
                    f"computed: {name}", tuple(out.shape), str(out.dtype), size / split, False
                )
            )
        elif equation.primitive.name != "scan":
            for inner in _inside(equation):
                found += _products(inner, split, name)
    return found


def _stacked(jaxpr: Any, split: int) -> list[Allocation]:
    found: dict[tuple[str, tuple[int, ...]], Allocation] = {}
    for loop in _loops(jaxpr):
        body = loop.params["jaxpr"].jaxpr
        made = {id(v): equation for equation in body.eqns for v in equation.outvars}
        for outer, inner in zip(loop.outvars, body.outvars, strict=True):
            shape, dtype = tuple(outer.aval.shape), outer.aval.dtype
            size = math.prod(shape) * np.dtype(dtype).itemsize
            carried = len(shape) == len(inner.aval.shape)  # stacked: one dimension more
            if carried or len(shape) < 3 or not jax.numpy.issubdtype(dtype, np.inexact):
                continue
            name = "saved: " + _name(made.get(id(inner)))
            found[name, shape] = Allocation(name, shape, str(dtype), size / split, False)
    return list(found.values())


def _loops(jaxpr: Any) -> Iterator[Any]:
    """Scans of a jaxpr that stack results, also inside calls, but not inside other scans' bodies."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan" and "transpose" not in str(
            equation.source_info.name_stack
        ):
            yield equation
        else:
            for inner in _inside(equation):
                yield from _loops(inner)


def _inside(equation: Any) -> Iterator[Any]:
    """The jaxprs that an equation calls."""
    for value in equation.params.values():
        inner = getattr(value, "jaxpr", value)
        if hasattr(inner, "eqns"):
            yield inner


def _name(equation: Any) -> str:
    """The model's path of an equation: `layers/mlp/up`."""
    if equation is None:
        return "input of each layer"
    stack = str(equation.source_info.name_stack)
    for part in ("checkpoint/", "rematted_computation/"):
        stack = stack.replace(part, "")
    return f"{stack} ({equation.primitive.name})" if stack else equation.primitive.name


def _part_bytes(x: Any) -> int:
    shape = x.sharding.shard_shape(x.shape) if x.sharding is not None else x.shape
    return math.prod(shape) * np.dtype(x.dtype).itemsize
