"""From a config to compiled functions: what the loop runs and the planner compiles.

    config, info, mesh -> Program(init, step, evaluations; abstract state and batch with shardings)

Building a program allocates nothing and reads no data, so a laptop can build the program of a pod.
The mesh enters only here: the pure functions of `train.step` are traced inside the logical-axis
rules and jitted with shardings.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scaling import data, parallel
from scaling.configs import ConfigError
from scaling.data import DataInfo
from scaling.data.loader import Spec
from scaling.experiment import Experiment, MeshConfig
from scaling.optim.build import Optimizer, build_optimizer
from scaling.parallel.audit import audit
from scaling.parallel.sharding import PyTree
from scaling.tasks.base import Batch, Context, Evaluation, Task, abstract_batch, build_task
from scaling.tasks.keys import KEY_DATA, wrap_key
from scaling.train import evaluations
from scaling.train.callbacks import build_callbacks
from scaling.train.state import TrainState, as_variables, fresh_guard
from scaling.train.step import TrainStep, make_train_step


@dataclasses.dataclass(frozen=True)
class Program:
    """One run's functions, ready to compile.

    Attributes:
      functions: the learning problem, the optimizer, and `init` and `step` before `jit`.
      abstract: shapes, types and shardings of the state.
      train_batch: the same of a global training batch.
      audit: the large arrays of the state and where they live.
      init: jitted; uint32[2] key data -> state, sharded, the same values on every mesh.
      step: jitted; (state, batch, hparams) -> (state, metrics); the old state is donated.
    """

    config: Experiment
    mesh: jax.sharding.Mesh
    functions: "Functions"
    abstract: TrainState
    train_batch: dict[str, jax.ShapeDtypeStruct]
    audit: tuple[parallel.Row, ...]
    init: jax.stages.Wrapped
    step: jax.stages.Wrapped

    @property
    def task(self) -> Task:
        """The learning problem."""
        return self.functions.task

    @property
    def optimizer(self) -> Optimizer:
        """Its hyper-parameters are run-time arguments of the step."""
        return self.functions.optimizer

    def hparams(self, **changes: float) -> dict[str, jax.Array]:
        """The optimizer's and the task's run-time numbers as replicated device scalars.

        Raises:
          KeyError: a change names no hyper-parameter.
        """
        own = self.functions.hparams
        unknown = set(changes) - set(own)
        if unknown:
            raise KeyError(f"no such hyper-parameter: {sorted(unknown)}")
        values = own | changes
        place = parallel.replicated(self.mesh)
        return {k: jax.device_put(np.float32(v), place) for k, v in values.items()}

    def fresh_state(self) -> TrainState:
        """The state at step 0, a function of `config.seed` alone."""
        return self.init(jax.device_put(key_data(self.config.seed), parallel.replicated(self.mesh)))

    def abstract_hparams(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and shardings of the hyper-parameters, for lowering."""
        place = parallel.replicated(self.mesh)
        scalar = jax.ShapeDtypeStruct((), jnp.float32, sharding=place)
        return dict.fromkeys(self.functions.hparams, scalar)

    def lower_step(self) -> jax.stages.Lowered:
        """The train step lowered for this mesh from shapes alone."""
        return self.step.lower(self.abstract, self.train_batch, self.abstract_hparams())

    def lower_evaluation(
        self, evaluation: Evaluation, spec: Spec, batch_size: int
    ) -> jax.stages.Lowered:
        """An evaluation of batches of this spec, lowered for this mesh from shapes alone.

        The lowered function is (variables, batch, key data, step, carry) -> (result, carry). Results
        come back whole on every device; a carry stays where its batch rows are.
        """
        state, everywhere = self.abstract, parallel.replicated(self.mesh)
        by_rows = parallel.batch_sharding(self.mesh, self.config.mesh)
        carry = jax.eval_shape(lambda: evaluation.carry(batch_size) if evaluation.carry else None)
        arguments = (
            as_variables(state.params, state.frozen, state.model_state),
            self.abstract_eval_batch(spec, batch_size),
            KEY_DATA.update(sharding=everywhere),
            jax.ShapeDtypeStruct((), jnp.int32, sharding=everywhere),
            jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=by_rows), carry),
        )
        jitted = jax.jit(
            within_rules(self.mesh, self.config.mesh, evaluate_step(evaluation)),
            in_shardings=jax.tree.map(lambda x: x.sharding, arguments),
            out_shardings=(everywhere, jax.tree.map(lambda _: by_rows, carry)),
        )
        return jitted.lower(*arguments)

    def abstract_eval_batch(self, spec: Spec, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes, types and shardings of a global evaluation batch."""
        by_rows = parallel.batch_sharding(self.mesh, self.config.mesh)
        return abstract_batch(spec, batch_size, sharding=by_rows)


def evaluate_step(evaluation: Evaluation) -> Callable[..., Any]:
    """(variables, batch, key data, step, carry) -> (result, carry) of one batch."""

    def evaluate(
        variables: PyTree, batch: Batch, key: jax.Array, step: jax.Array, carry: PyTree
    ) -> Any:
        context = Context(wrap_key(key), step, False)
        return evaluation.run(variables, batch, context, carry)

    return evaluate


def key_data(seed: int) -> np.ndarray:
    """Key data of a seed (threefry), computed on the host: uint32[2]."""
    return np.array([seed >> 32 & 0xFFFFFFFF, seed & 0xFFFFFFFF], np.uint32)


@dataclasses.dataclass(frozen=True)
class Functions:
    """What a run computes, before `jit`: pure functions that `vmap` and loops may wrap too.

    Attributes:
      optimizer: its hyper-parameters are run-time arguments of `step`.
      init: uint32[2] key data -> state.
      step: (state, batch, hparams) -> (state, metrics).
    """

    task: Task
    optimizer: Optimizer
    init: Callable[[jax.Array], TrainState]
    step: TrainStep

    @property
    def hparams(self) -> dict[str, float]:
        """The numbers that `step` takes as arrays, with this run's values."""
        return {**self.optimizer.hparams, **self.task.hparams}


def build_functions(config: Experiment, info: DataInfo, platform: str) -> Functions:
    """The functions of a run on a platform, by JAX's name; `info` is `scaling.data.describe(config)`.

    Raises:
      ConfigError: JAX is set to what no run works under.
    """
    check_jax_settings()
    task = build_task(config, info, "gpu" if platform in ("cuda", "rocm") else platform)
    names = parallel.axis_names(task.boxed["params"])
    optimizer = build_optimizer(config.optim, config.train.steps, names)

    def init(key: jax.Array) -> TrainState:
        variables = dict(parallel.unbox(task.init(wrap_key(key))))
        params = variables.pop("params")
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            rng=jax.random.key_data(jax.random.fold_in(wrap_key(key), 1)),
            params=params,
            opt_state=optimizer.init(optimizer.trained(params)),
            ema=optimizer.trained(params) if config.train.ema_decay is not None else None,
            guard=fresh_guard(),
            frozen=variables.pop("frozen", {}),
            model_state=variables,
        )

    step = make_train_step(
        task,
        optimizer,
        accumulate=config.train.accumulate,
        ema_decay=config.train.ema_decay,
        spike_factor=config.train.spike_factor,
        conditional=platform == "cpu",
    )
    return Functions(task, optimizer, init, step)


def build_program(config: Experiment, info: DataInfo, mesh: jax.sharding.Mesh) -> Program:
    """Builds a run's program, as `build_functions`; the mesh may be of a topology that is not here.

    Raises:
      ValueError: an array does not divide its mesh axis, or is silently replicated.
    """
    functions = build_functions(config, info, mesh.devices.flat[0].platform)
    placed = parallel.param_shardings(functions.task.boxed, mesh, config.mesh)
    shapes = jax.eval_shape(functions.init, KEY_DATA)
    shardings = parallel.state_shardings(shapes, placed, mesh)
    rows = audit(shapes, shardings, mesh, config.mesh)
    replicated, batch = parallel.replicated(mesh), parallel.batch_sharding(mesh, config.mesh)

    return Program(
        config=config,
        mesh=mesh,
        functions=functions,
        abstract=jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
        ),
        train_batch=abstract_batch(info.spec, config.train.batch_size, sharding=batch),
        audit=tuple(rows),
        init=jax.jit(functions.init, in_shardings=replicated, out_shardings=shardings),
        step=jax.jit(
            within_rules(mesh, config.mesh, functions.step),
            in_shardings=(shardings, batch, replicated),
            out_shardings=(shardings, replicated),
            donate_argnums=0,
        ),
    )


def within_rules(
    mesh: jax.sharding.Mesh, config: MeshConfig, function: Callable[..., PyTree]
) -> Callable[..., PyTree]:
    """The function, traced inside the logical-axis rules of a mesh."""
    rules = parallel.rules(config)

    def traced(*args: PyTree) -> PyTree:
        with parallel.logical_rules(mesh, rules):
            return function(*args)

    traced.__name__ = function.__name__
    return traced


def check_jax_settings() -> None:
    """Refuses debugging modes of JAX that the step cannot be traced or compiled under.

    The key of the ConfigError is the environment variable.
    """
    if jax.config.values["jax_disable_jit"]:
        raise ConfigError(
            "JAX_DISABLE_JIT",
            "steps are compiled before they run, so they cannot run without jit",
            "unset it; `--replay=RUN --step=N` looks into one step",
        )
    if jax.config.values["jax_numpy_dtype_promotion"] == "strict":
        raise ConfigError(
            "JAX_NUMPY_DTYPE_PROMOTION",
            "models and optimizers here mix types by JAX's standard rules, which strict forbids",
            "unset it; the types of parameters, activations and logits are keys of the model",
        )


def check_buildable(config: Experiment) -> None:
    """Builds task and optimizer from shapes alone; starts no backend and reads no data.

    Raises:
      ConfigError: task, model, data, wrapper and optimizer do not go together, or JAX is set to
        what no run works under.
      DataError: the data cannot even be described.
    """
    check_jax_settings()
    task, _ = build_abstract(config, config.train.steps)
    build_callbacks(config.track)
    for name, entry in (config.eval.also or {}).items():
        evaluations.named(task, entry, name)


def build_abstract(config: Experiment, steps: int) -> tuple[Task, Optimizer]:
    """A run's task and its optimizer of so many steps, from shapes alone; starts no backend.

    Raises ConfigError as `check_buildable`, and DataError if the data cannot even be described.
    """
    info = data.describe(config)
    try:
        task = build_task(config, info, "cpu")
        names = parallel.axis_names(task.boxed["params"])
        return task, build_optimizer(config.optim, steps, names)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError("model", str(error), "change the keys that the message names") from error


def timed_compile(lowered: jax.stages.Lowered) -> tuple[Any, float]:
    """The compiled function, and the seconds it took (from the persistent cache or not)."""
    start = time.perf_counter()
    return lowered.compile(), time.perf_counter() - start
