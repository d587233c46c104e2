"""The seam between a learning problem and everything that trains, sweeps, plans or serves it.

A `Task` is made of pure functions over plain pytrees, so that all of them compose with `jit`, `grad`,
`vmap` over a population of runs, and ahead-of-time compilation.

A loss is sums and weights, never means. They are what make padding, masks, accumulation and any number
of devices give the same loss: sums add, and the one division happens after the last of them.

A task of your own is a function `my_task(context, *, key=default, ...) -> Task`; its keyword-only
parameters are the keys of section `task`. With a parameter `base` it is a wrapper: `task.over` names
the task inside.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from scaling.configs import ConfigError, build, component
from scaling.configs.component import marked, parameters
from scaling.configs.types import RuntimeNumber
from scaling.data.info import DataInfo
from scaling.data.loader import Spec
from scaling.experiment import Experiment, TaskConfig
from scaling.models.cost import Cost
from scaling.parallel.sharding import PyTree, unbox
from scaling.tasks import TASKS, flops
from scaling.tasks.context import TaskContext as TaskContext
from scaling.tasks.flops import FlopCounts, ParamCounts
from scaling.tasks.keys import abstract_key, pin_generator

Variables = Mapping[str, Any]
Batch = Mapping[str, jax.Array]
Hparams = Mapping[str, Any]
# (sum, weight); the sum may be an array, such as a confusion matrix or the load of every expert.
Total = tuple[jax.Array, jax.Array]
# What evaluations report of: such sums over all batches, on the host.
Totals = Mapping[str, tuple[np.ndarray, np.ndarray]]
Merge = Literal["mean", "rows", "last"]


# What modules leave beside their output, or let others add to it (`nn.Module.perturb`); not state.
SOWN = ("losses", "metrics", "intermediates", "perturbations")
# The collection of a recurrent model; part of the state where it goes from batch to batch.
CARRY = "carry"


class Context(NamedTuple):
    """Where a call of a task's functions stands.

    Attributes:
      rng: random key; in training a function of (seed, step, microbatch), in evaluation of (seed,
        evaluation, batch). Never None.
      step: updates done, int32[].
      train: whether this is training: dropout, batch statistics, sown losses.
    """

    rng: jax.Array
    step: jax.Array
    train: bool


class Loss(NamedTuple):
    """What one (micro)batch contributes.

    Attributes:
      sum: the objective that is differentiated, summed over the batch; scalar float32.
      weight: what to divide the sum by (number of target tokens, of images); scalar float32.
      metrics: name -> (sum, weight) to report beside it; sums may be arrays.
      state: the state collections after this batch: those of `variables` but "params", "frozen".
    """

    sum: jax.Array
    weight: jax.Array
    metrics: dict[str, Total]
    state: dict[str, Any]


LossFunction = Callable[[Variables, Batch, Context, Hparams], Loss]
# What an evaluation does on the device and on the host, see `Evaluation`.
Run = Callable[[Variables, Batch, Context, PyTree], tuple[PyTree, PyTree]]
Report = Callable[[Any, Mapping[str, Any]], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Something to find out about variables on held-out examples.

    Attributes:
      run: (variables, batch, context, carry) -> (result, carry): pure, compiled and sharded like
        the step. Arrays of the result are sums over the batch, or one row for each example.
      report: (results, artefacts) -> values, on the host. Sums come in as float64 totals over all
        batches, rows as arrays over all examples (padding left out). Numbers go into the metrics
        stream, text and pictures (uint8 [H, W, 3]) into the run directory. `artefacts` are those of
        the data, such as its tokenizer.
      keeps: "sums" or "rows".
      carry: batch_size -> what the first batch gets as carry; None for none.
      least: examples without which there is nothing to report.
    """

    run: Run
    report: Report
    keeps: Literal["sums", "rows"] = "sums"
    carry: Callable[[int], PyTree] | None = None
    least: int = 1


def without_carry(run: Callable[[Variables, Batch, Context], PyTree]) -> Run:
    """`Evaluation.run` where nothing goes from batch to batch."""
    return lambda variables, batch, context, carry: (run(variables, batch, context), carry)


def means(totals: Totals, _: object = None) -> dict[str, Any]:
    """{name: sum / weight}, the plainest report; arrays as lists."""
    values = {name: np.asarray(s) / np.maximum(w, 1e-30) for name, (s, w) in totals.items()}
    return {name: value.tolist() for name, value in values.items()}


def scoring(loss: LossFunction, report: Report = means) -> Evaluation:
    """The evaluation that sums a task's own metrics; `report` turns their totals into values."""

    def run(variables: Variables, batch: Batch, context: Context) -> dict[str, Total]:
        return loss(variables, batch, context, {}).metrics

    return Evaluation(without_carry(run), report)


@dataclasses.dataclass(frozen=True)
class Task:
    """One learning problem; see the module's docstring.

    Attributes:
      init: random key -> variables {"params", "frozen", state collections}, boxed with logical axis
        names.
      loss: (variables, batch, context, hparams) -> Loss; `hparams` holds those of `Task.hparams`,
        as arrays, and is empty in evaluation.
      unit: what examples are counted in, such as "tokens" or "examples".
      units_per_example: target tokens in a sequence, or 1.
      evaluations: by name; `score` is always there, made of `loss` if the task gives none.
      merge: of state collections that are not averaged over microbatches: `rows` have one row for
        each example of the batch, of `last` the last microbatch's is kept. The collection `carry` of
        recurrent layers is part of the state only if it is named here.
      functions: by name ("logits", "generate", ...), (variables, ...) -> arrays: what distilling and
        export call.
      hparams: numbers of the training loss that the step takes as arrays, so that one executable
        serves many values; a number that is zero is switched off and not among them.
      objective: the metric that stands for the run: laws fit it, early stopping watches it.
      cost: of one unit, where the task knows it; else it is counted.
      boxed: the variables that `init` makes, as shapes; this and what follows `build_task` fills in.
      params: parameter counts under several conventions.
      flops: FLOPs of one unit, forward and backward.
    """

    init: Callable[[jax.Array], Variables]
    loss: LossFunction
    unit: str = "examples"
    units_per_example: int = 1
    evaluations: Mapping[str, Evaluation] = dataclasses.field(default_factory=dict)
    merge: Mapping[str, Merge] = dataclasses.field(default_factory=dict)
    functions: Mapping[str, Callable[..., Any]] = dataclasses.field(default_factory=dict)
    hparams: Mapping[str, float] = dataclasses.field(default_factory=dict)
    objective: str = "loss"
    cost: Cost | None = None
    boxed: Variables = dataclasses.field(default_factory=dict)
    params: ParamCounts = dataclasses.field(default_factory=ParamCounts)
    flops: FlopCounts = dataclasses.field(default_factory=FlopCounts)


class Sown(NamedTuple):
    """What a model left beside its output.

    Attributes:
      state: the state collections after the call.
      losses: sum of everything sown into the collection "losses", scalar; None where nothing was.
      metrics: what was sown into "metrics", by name; arrays of any shape.
    """

    state: dict[str, Any]
    losses: jax.Array | None
    metrics: dict[str, jax.Array]

    def added_to(self, loss: Loss) -> Loss:
        """The loss with sown losses (means over the batch) in the objective, and sown metrics."""
        metrics = {name: (value * loss.weight, loss.weight) for name, value in self.metrics.items()}
        total = loss.sum if self.losses is None else loss.sum + self.losses * loss.weight
        return Loss(total, loss.weight, loss.metrics | metrics, self.state)


def call(
    model: nn.Module,
    variables: Variables,
    *inputs: PyTree,
    context: Context,
    method: Callable[..., Any] | None = None,
    changing: Sequence[str] = (),
) -> tuple[Any, Sown]:
    """Calls a model as a task does: `model.apply(variables, inputs..., train=...)`.

    Dropout draws from `context.rng`. In training all state collections are mutable, in evaluation those
    of `changing` (a carry that goes from batch to batch). What modules sow
    as "losses" and "metrics" comes back, averaged where one name is sown several times (a layer's
    sows are stacked by `nn.scan` and come back as they are).
    """
    state = [name for name in variables if name not in ("params", "frozen", *SOWN)]
    mutable = [*state, "losses", "metrics"] if context.train else list(changing)
    given = {name: value for name, value in variables.items() if name != "frozen"}
    output, after = model.apply(
        given,
        *inputs,
        train=context.train,
        rngs={"dropout": context.rng},
        mutable=mutable,
        method=method,
    )
    if not context.train:
        return output, Sown({name: variables[name] for name in state} | after, None, {})
    sown = [jnp.sum(x) for x in jax.tree.leaves(after.get("losses", {}))]
    losses = sum(sown[1:], sown[0]) if sown else None
    metrics: dict[str, list[jax.Array]] = {}
    for path, value in jax.tree_util.tree_leaves_with_path(after.get("metrics", {})):
        metrics.setdefault(path[-2].key, []).append(value)
    averaged = {name: sum(x[1:], x[0]) / len(x) for name, x in metrics.items()}
    return output, Sown({name: after[name] for name in state}, losses, averaged)


def build_task(config: Experiment, info: DataInfo, platform: str) -> Task:
    """The task of a resolved config, with what it wraps, its counts and its evaluations complete.

    Args:
      config: the resolved experiment config.
      info: `scaling.data.describe(config)`.
      platform: "cpu", "gpu" or "tpu".

    Raises:
      ConfigError: task, model and data do not go together, or a stated cost is wrong.
    """
    pin_generator()
    task = _build(config.task, TaskContext(config, info, platform))
    _check_hparams(config.task, task)
    left_out = SOWN if CARRY in task.merge else (*SOWN, CARRY)
    whole = task.init

    def init(rng: jax.Array) -> Variables:
        """Without what modules sowed while it ran, and without a carry that goes nowhere."""
        return {name: value for name, value in whole(rng).items() if name not in left_out}

    # Compiled as a function of its own, it is traced here and not again inside other functions.
    evaluations = {"score": scoring(task.loss), **task.evaluations}
    task = dataclasses.replace(task, init=jax.jit(init), evaluations=evaluations)
    return _counted(task, config, info)


def _build(section: TaskConfig, context: TaskContext) -> Task:
    over = section.get("over")
    base = {} if over is None else {"base": _build(over, context)}
    if base and "base" not in parameters(component(section, TASKS)):
        raise ConfigError(
            "task.over", f"is given, and {section.name} wraps no task", "leave it out"
        )
    task = build(section, TASKS, context=context, **base)
    if not isinstance(task, Task):
        raise ConfigError(
            "task.name",
            f"{section.name} returned {type(task).__name__}",
            "return a tasks.base.Task",
        )
    return task


def _check_hparams(section: TaskConfig, task: Task) -> None:
    """Run-time numbers must be marked in the signature: populations read them off the config."""
    known: set[str] = set()
    inside = section
    while inside is not None:
        known |= set(marked(component(inside, TASKS), RuntimeNumber))
        inside = inside.get("over")
    unmarked = sorted(set(task.hparams) - known)
    if unmarked:
        raise ConfigError(
            f"task.{unmarked[0]}",
            f"is one of Task.hparams, but {section.name} does not mark it as a run-time number",
            f"annotate the parameter: {unmarked[0]}: scaling.configs.types.RuntimeFloat = 0.0",
        )


def _counted(task: Task, config: Experiment, info: DataInfo) -> Task:
    boxed = jax.eval_shape(task.init, abstract_key())
    task = dataclasses.replace(task, boxed=boxed)
    counted = flops.counted_params([boxed.get("params"), boxed.get("frozen")])
    if task.cost is None:
        rows = config.train.batch_size
        objective, arguments = traceable(task, info.spec, rows)
        forward, both = (
            flops.products(jax.make_jaxpr(f)(*arguments).jaxpr) / (rows * task.units_per_example)
            for f in (objective, jax.value_and_grad(objective))
        )
        return dataclasses.replace(
            task, params=counted, flops=flops.counted_flops(counted, forward, both)
        )
    stated = flops.params(task.cost)
    if stated.total != counted.total:
        raise ConfigError(
            "task.cost",
            f"states {stated.total:,} parameters, and init makes {counted.total:,}",
            "correct the cost of the model, or leave it out to have it counted",
        )
    return dataclasses.replace(task, params=stated, flops=flops.flops(task.cost))


def abstract_batch(
    spec: Spec, *leading: int, sharding: jax.sharding.Sharding | None = None
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and types of a batch, with dimensions before those of an example."""
    return {
        key: jax.ShapeDtypeStruct((*leading, *shape), dtype, sharding=sharding)
        for key, (shape, dtype) in spec.items()
    }


def traceable(task: Task, spec: Spec, rows: int) -> tuple[Callable[..., jax.Array], list[PyTree]]:
    """(the training loss of a batch, a function of the parameters first; its abstract arguments)."""
    variables = dict(unbox(task.boxed))
    params = variables.pop("params")

    def objective(
        params: PyTree, rest: Variables, batch: Batch, rng: jax.Array, step: jax.Array
    ) -> jax.Array:
        context = Context(rng, step, True)
        return task.loss({"params": params, **rest}, batch, context, dict(task.hparams)).sum

    step = jax.ShapeDtypeStruct((), jnp.int32)
    return objective, [params, variables, abstract_batch(spec, rows), abstract_key(), step]
