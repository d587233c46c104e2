"""Memory and time of a candidate before it is compiled: to prune and to order, never to decide.

Everything comes from the program itself, by tracing: the state from `init`, and from the loss what
its forward pass keeps for the backward pass and how many products it does again, under each choice
of rematerialisation that the model offers. The memory is a lower bound (state, gradients, what is
kept, each split as far as the mesh can), so a candidate whose bound is above the limit is not
compiled.
"""

import dataclasses
import math
import typing
from collections.abc import Mapping
from typing import Literal

import jax
import numpy as np

from scaling import configs, data
from scaling.configs.component import alternatives, parameters, strip
from scaling.experiment import Experiment
from scaling.models import MODELS
from scaling.parallel.axes import axes_with
from scaling.parallel.sharding import PyTree
from scaling.planning.topology import Target
from scaling.tasks import flops
from scaling.tasks.base import build_task, traceable
from scaling.tasks.keys import KEY_DATA
from scaling.train.program import build_functions

# The compiler merges copies of what the trace keeps: without remat a 7B decoder stores 0.93 of it.
STORED = 0.9


@dataclasses.dataclass(frozen=True)
class Rates:
    """Peak rates of one device; of hardware without known rates any in a common ratio will do."""

    flops: float = 1e13
    bandwidth: float = 1e11
    link: float = 1e10


@dataclasses.dataclass(frozen=True)
class Sketch:
    """A candidate's numbers: bytes on a device at the least, seconds of a step about."""

    bytes: float = 0.0
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Footprint:
    """What a program costs on no mesh in particular.

    Attributes:
      state: bytes of the whole train state.
      params: bytes of the trained parameters.
      flops: model FLOPs of one example.
      kept: by choice of remat, bytes that one example leaves for the backward pass.
      again: by choice of remat, products of the step over those of the choice with fewest.
    """

    state: float
    params: float
    flops: float
    kept: Mapping[str | None, float]
    again: Mapping[str | None, float]

    @property
    def stream(self) -> float:
        """Bytes of an example between the layers, which no axis but the batch's splits: the least
        that any choice of remat keeps. 0 where there is no choice."""
        return min(self.kept.values()) if len(self.kept) > 1 else 0.0

    def sketch(
        self,
        mesh: Mapping[str, int],
        batch_size: int,
        accumulate: int,
        remat: str | None,
        rates: Rates,
    ) -> Sketch:
        """The numbers of one candidate.

        `mesh` is {axis: size}, `remat` a key of `kept`, `batch_size` that of a whole step.
        """
        batch, model = axes_with("batch"), axes_with("parameters")
        parts = math.prod(mesh[axis] for axis in batch)
        split = math.prod(mesh[axis] for axis in model)
        sharded = math.prod(mesh[axis] for axis in model if axis in batch)
        across = split // sharded  # what splits parameters, but not the batch, splits products
        rows = batch_size / parts / accumulate
        moved = self.params / 2 / across  # parameters and gradients travel in half precision
        gradients = self.params / (1 if accumulate > 1 else 2) / split
        kept = self.stream + max(0.0, self.kept[remat] - self.stream) / across
        memory = self.state / split + gradients + STORED * kept * rows
        gathers = (3 if self.again[remat] > 1.1 else 2) * accumulate if sharded > 1 else 0
        reductions = (accumulate if sharded > 1 else 1) if parts > 1 else 0
        link = moved * (gathers + 2 * reductions)
        if across > 1:
            link += 8 * (self.stream or self.kept[remat]) * rows * accumulate
        work = self.flops * batch_size / math.prod(mesh.values()) * self.again[remat]
        memory_seconds = 3 * self.state / split / rates.bandwidth
        units = work / rates.flops, link / rates.link, memory_seconds
        return Sketch(memory, max(units) + 0.2 * sum(units))


def footprint(config: Experiment, target: Target) -> Footprint:
    """The footprint of a config's program; compiles nothing and allocates nothing."""
    info = data.describe(config)
    functions = build_functions(config, info, "cpu")
    state = jax.eval_shape(functions.init, KEY_DATA)
    task = functions.task
    kept: dict[str | None, float] = {}
    products: dict[str | None, float] = {}
    for remat in remat_choices(config):
        variant = config if remat is None else configs.replace(config, {"model.remat": remat})
        kept[remat], products[remat] = _traced(variant, info, target.platform)
    fewest = min(products.values()) or 1.0
    return Footprint(
        state=_bytes(state),
        params=_bytes(functions.optimizer.trained(state.params)),
        flops=task.flops.exact_causal * task.units_per_example,
        kept=kept,
        again={remat: count / fewest for remat, count in products.items()},
    )


def remat_choices(config: Experiment) -> tuple[str | None, ...]:
    """What the model's parameter `remat` may be, by its annotation (a Literal); (None,) without."""
    params = parameters(configs.component(config.model, MODELS))
    if "remat" not in params:
        return (None,)
    annotation = params["remat"].annotation
    members = [strip(one)[0] for one in (annotation, *alternatives(annotation))]
    choices = [typing.get_args(one) for one in members if typing.get_origin(one) is Literal]
    return choices[0] if choices else (None,)


def _traced(config: Experiment, info: data.DataInfo, platform: str) -> tuple[float, float]:
    """(bytes kept, FLOPs of products forward and backward) of one example."""
    task = build_task(config, info, platform)
    rows = config.train.batch_size  # a number that the model takes, also in groups
    objective, arguments = traceable(task, info.spec, rows)
    _, twice = traceable(task, info.spec, 2 * rows)

    def residuals(params: PyTree, *others: PyTree) -> PyTree:
        return jax.vjp(lambda given: objective(given, *others), params)[1]

    # The difference of two sizes leaves out what does not grow with the batch: the parameters.
    sizes = [_bytes(jax.eval_shape(residuals, *given)) for given in (arguments, twice)]
    step = jax.make_jaxpr(jax.value_and_grad(objective))(*arguments)
    return (sizes[1] - sizes[0]) / rows, flops.products(step.jaxpr) / rows


def _bytes(tree: PyTree) -> float:
    """Bytes of abstract arrays; random keys do not count."""
    leaves = [x for x in jax.tree.leaves(tree) if isinstance(x.dtype, np.dtype)]
    return float(sum(math.prod(x.shape) * x.dtype.itemsize for x in leaves))
