"""The largest arrays of a step on one device, under the names that the model gives them.

Two kinds are known before any compiler runs: the state (exactly: shape and sharding) and what the
layers keep for the backward pass (from the traced step: results of the forward loop that the
backward loop reads). When a program is too large, these are the numbers to look at.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import cast

import jax
import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var

from scaling.parallel import axes as mesh_axes
from scaling.parallel.sharding import PyTree, path_name
from scaling.train.program import Program


@dataclasses.dataclass(frozen=True)
class Allocation:
    """One array, or what several arrays of one name come to.

    Attributes:
      name: `params/layers/mlp/up/kernel`, or `saved: layers/mlp/up` for an activation.
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


def batch_parts(program: Program) -> int:
    """Into how many parts the mesh splits a batch."""
    axes = mesh_axes.rules(program.config.mesh)["batch"]
    return math.prod(program.mesh.shape[axis] for axis in axes)


def largest(program: Program, *, overflow: bool = False, count: int = 12) -> list[Allocation]:
    """The largest `count` arrays, largest first; of an `overflow` also the activations that it saves."""
    arrays = [
        Allocation(path_name(path), tuple(x.shape), str(x.dtype), float(_part_bytes(x)), True)
        for path, x in jax.tree_util.tree_flatten_with_path(program.abstract)[0]
    ]
    if overflow:
        arrays += activations(program)
    return sorted(arrays, key=lambda one: (-one.bytes, one.name))[:count]


def activations(program: Program) -> list[Allocation]:
    """What loops over layers stack up in the forward pass, and products outside of them (logits)."""
    traced = program.step.trace(program.abstract, program.train_batch, program.abstract_hparams())
    split = batch_parts(program)
    return _stacked(traced.jaxpr.jaxpr, split) + _products(traced.jaxpr.jaxpr, split)


def _products(jaxpr: Jaxpr, split: int, path: str = "") -> list[Allocation]:
    """Results of products that stand in no loop over layers."""
    results = []
    for equation in jaxpr.eqns:
        name = f"{path}/{equation.source_info.name_stack}".strip("/")
        if equation.primitive.name == "dot_general" and "transpose" not in name:
            results.append(_whole(f"computed: {name}", equation.outvars[0], split))
        elif equation.primitive.name != "scan":
            for inner in _inside(equation):
                results += _products(inner, split, name)
    return results


def _stacked(jaxpr: Jaxpr, split: int) -> list[Allocation]:
    stacked: dict[tuple[str, tuple[int, ...]], Allocation] = {}
    for loop in _loops(jaxpr):
        body = loop.params["jaxpr"].jaxpr
        made = {id(v): equation for equation in body.eqns for v in equation.outvars}
        for outer, inner in zip(loop.outvars, body.outvars, strict=True):
            array = _array(outer)
            carried = array.ndim == _array(inner).ndim  # stacked: one dimension more
            if carried or array.ndim < 3 or not jax.numpy.issubdtype(array.dtype, np.inexact):
                continue
            name = "saved: " + _name(made.get(id(inner)))
            stacked[name, array.shape] = _whole(name, outer, split)
    return list(stacked.values())


def _array(variable: Var | Literal) -> jax.core.ShapedArray:
    return cast(jax.core.ShapedArray, variable.aval)


def _whole(name: str, variable: Var | Literal, split: int) -> Allocation:
    """An array of a traced program, of which the batch alone is taken to be split."""
    array = _array(variable)
    size = math.prod(array.shape) * np.dtype(array.dtype).itemsize
    return Allocation(name, tuple(array.shape), str(array.dtype), size / split, False)


def _loops(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
    """Scans of a jaxpr that stack results, also inside calls, but not inside other scans' bodies."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan" and "transpose" not in str(
            equation.source_info.name_stack
        ):
            yield equation
        else:
            for inner in _inside(equation):
                yield from _loops(inner)


def _inside(equation: JaxprEqn) -> Iterator[Jaxpr]:
    """The jaxprs that an equation calls."""
    for value in equation.params.values():
        inner = getattr(value, "jaxpr", value)
        if hasattr(inner, "eqns"):
            yield inner


def _name(equation: JaxprEqn | None) -> str:
    """The model's path of an equation: `layers/mlp/up`."""
    if equation is None:
        return "input of each layer"
    stack = str(equation.source_info.name_stack)
    for part in ("checkpoint/", "rematted_computation/"):
        stack = stack.replace(part, "")
    return f"{stack} ({equation.primitive.name})" if stack else equation.primitive.name


def _part_bytes(x: jax.ShapeDtypeStruct) -> int:
    shape = x.sharding.shard_shape(x.shape) if x.sharding is not None else x.shape
    return math.prod(shape) * np.dtype(x.dtype).itemsize
