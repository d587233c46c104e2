"""The one program of a population: many runs in the slots of one stacked train state.

    step      (states[S], batches[U], hparams[S], turn[S]) -> (states[S], metrics[S])
    evaluate  (variables[S], batch, key[S], step[S], carry[S], active[S]) -> (result[S], carry[S])

Legend: S slots, U distinct batches of a step (members with another order of the data have another).

Two ways to run a slot, `mode`: `vmap` is one batched step over all slots; `map` is a loop over the
slots that are active, inside the program. On CPU small batched products thread badly (a vmapped step
was measured at 0.6 of the speed of single steps, `map` at 0.9 to 1), and XLA makes of the body of a
loop what it makes of the step alone, so `map` is faster there and, on one device, equal to the solo
run bit for bit (but for the reported norm of the parameters, to its last place). On accelerators
`vmap` fills the device. With several devices the slots are split over an axis `population`, and no
device waits for another.

`vmap` and several devices add sums in another order. Members then begin within 1e-5 of their solo
runs, and part from them as runs do after any change of the last place.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from scaling import parallel
from scaling.data import Data, DataInfo
from scaling.data.loader import WEIGHTS, Spec
from scaling.experiment import Experiment, MeshConfig
from scaling.parallel.axes import AXES
from scaling.train.evaluate import Scheduled, first_carry, schedule
from scaling.train.program import Functions, build_functions, evaluate_step
from scaling.train.state import TrainState, as_variables

PyTree = Any
Mode = Literal["auto", "vmap", "map"]

AXIS = "population"


@dataclasses.dataclass(frozen=True)
class PopulationProgram:
    """Compiled functions of a population, and what to feed them.

    Attributes:
      functions: of one member.
      mode: "vmap" or "map".
      mesh: one axis, `population`.
      slots: S, a multiple of the devices; the last may stand empty.
      abstract: one member's state: shapes and types, no shardings.
      step: compiled; the old states are donated.
      evaluations: compiled, by the name of the job.
    """

    functions: Functions
    mode: str
    mesh: jax.sharding.Mesh
    slots: int
    abstract: TrainState
    step: Any
    evaluations: Mapping[str, Any]

    def stack(self, states: Sequence[PyTree]) -> PyTree:
        """Members' trees on the host as one on the devices; empty slots repeat the last."""
        filled = [*states, *[states[-1]] * (self.slots - len(states))]
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *filled)
        return jax.device_put(stacked, self._by_slot())

    def take(self, stacked: PyTree, slots: Sequence[int]) -> list[PyTree]:
        """Copies of the trees of some slots, on the host."""
        host = jax.device_get(stacked)
        return [jax.tree.map(lambda x, i=slot: np.array(x[i]), host) for slot in slots]

    def put(self, stacked: PyTree, slot: int, tree: PyTree) -> PyTree:
        """`stacked` with the tree of one slot replaced."""
        host = jax.tree.map(np.array, jax.device_get(stacked))

        def replace(whole: np.ndarray, part: Any) -> np.ndarray:
            whole[slot] = part
            return whole

        return jax.device_put(jax.tree.map(replace, host, tree), self._by_slot())

    def per_slot(self, values: Mapping[str, Any], empty: Any = 0) -> dict[str, jax.Array]:
        """{name: numbers, one for each member} -> {name: array[S]}; empty slots hold `empty`."""
        arrays = {}
        for name, given in values.items():
            array = np.asarray(given)
            rest = np.full((self.slots - len(array), *array.shape[1:]), empty).astype(array.dtype)
            arrays[name] = np.concatenate([array, rest])
        return jax.device_put(arrays, self._by_slot())

    def place_batches(self, batches: Sequence[Mapping[str, np.ndarray]]) -> dict[str, jax.Array]:
        """Distinct batches, stacked, whole on every device: {key: [U, B, ...]}."""
        stacked = {key: np.stack([batch[key] for batch in batches]) for key in batches[0]}
        return jax.device_put(stacked, parallel.replicated(self.mesh))

    def place_batch(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """An evaluation batch, whole on every device."""
        return jax.device_put(dict(batch), parallel.replicated(self.mesh))

    def _by_slot(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec(AXIS))


def choose(mode: Mode, platform: str) -> str:
    """What `auto` means on a platform; see the module."""
    if mode not in ("auto", "vmap", "map"):
        raise ValueError(f"mode={mode!r} is none of auto, vmap, map")
    return mode if mode != "auto" else "map" if platform == "cpu" else "vmap"


def one_device(config: Experiment, device: Any) -> tuple[Any, jax.sharding.Mesh]:
    """A member's config and mesh: a member lives on one device, whatever section `mesh` says."""
    sizes: dict[str, Any] = dict.fromkeys(AXES, 1)
    single = dataclasses.replace(config.mesh, **sizes)
    alone = dataclasses.replace(config, mesh=single)
    return alone, parallel.make_mesh(MeshConfig(data=1), [device])


def build_population(
    config: Experiment, data: Data, members: int, sources: int, mode: Mode
) -> tuple[PopulationProgram, list[Scheduled]]:
    """Compiles the program of a population.

    Args:
      config: of any member; what the others change are run-time arguments.
      data: of any member.
      members: how many runs.
      sources: U, distinct batches of a step.
      mode: how to run the slots.

    Returns:
      (the program, the evaluations that all members have).
    """
    devices = jax.devices()[: min(members, jax.device_count())]
    alone, own = one_device(config, devices[0])
    functions = build_functions(alone, data.info, own)
    jobs = schedule(config, functions.task, data.evals)
    mesh = jax.sharding.Mesh(np.array(devices), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,))
    slots = -(-members // len(devices)) * len(devices)
    abstract = jax.eval_shape(functions.init, jax.ShapeDtypeStruct((2,), jnp.uint32))
    program = PopulationProgram(
        functions, choose(mode, devices[0].platform), mesh, slots, abstract, None, {}
    )
    return dataclasses.replace(
        program,
        step=_compile_step(program, data.info, config.train.batch_size, sources),
        evaluations={job.name: _compile_evaluation(program, job) for job in jobs},
    ), jobs


def _compile_step(program: PopulationProgram, info: DataInfo, batch_size: int, sources: int) -> Any:
    functions = program.functions

    def one(
        state: TrainState, batches: PyTree, hparams: PyTree, turn: PyTree
    ) -> tuple[TrainState, PyTree]:
        batch = jax.tree.map(lambda x: x[turn["source"]], batches)
        # A batch that is left out has weight 0, as in the loop of a single run.
        batch = {**batch, WEIGHTS: batch[WEIGHTS] * turn["used"]}
        return functions.step(state, batch, hparams)

    def population_step(
        states: TrainState, batches: PyTree, hparams: PyTree, turn: PyTree
    ) -> tuple[TrainState, PyTree]:
        run = functools.partial(_run_slots, program.mode, turn["active"])
        return run(lambda s, h, t: one(s, batches, h, t), (states, hparams, turn), states)

    names = functions.hparams
    arguments = (
        _stacked(program.abstract, program.slots),
        _batch_shapes(info.spec, (sources, batch_size)),
        {name: jax.ShapeDtypeStruct((program.slots,), jnp.float32) for name in names},
        {
            "active": jax.ShapeDtypeStruct((program.slots,), jnp.bool_),
            "source": jax.ShapeDtypeStruct((program.slots,), jnp.int32),
            "used": jax.ShapeDtypeStruct((program.slots,), jnp.float32),
        },
    )
    return _compiled(program, population_step, arguments, (True, False, True, True), donate=0)


def _compile_evaluation(program: PopulationProgram, job: Scheduled) -> Any:
    evaluate = evaluate_step(job.evaluation)

    def population_evaluate(
        variables: PyTree,
        batch: PyTree,
        key: PyTree,
        step: PyTree,
        carry: PyTree,
        active: jax.Array,
    ) -> Any:
        run = functools.partial(_run_slots, program.mode, active)
        each = (variables, key, step, carry)
        return run(lambda v, k, s, c: (None, evaluate(v, batch, k, s, c)), each, None)[1]

    state = program.abstract
    arguments = (
        _stacked(as_variables(state.params, state.frozen, state.model_state), program.slots),
        _batch_shapes(job.examples.spec, (job.batch_size,)),
        jax.ShapeDtypeStruct((program.slots, 2), jnp.uint32),
        jax.ShapeDtypeStruct((program.slots,), jnp.int32),
        _stacked(first_carry(job), program.slots),
        jax.ShapeDtypeStruct((program.slots,), jnp.bool_),
    )
    by_slot = (True, False, True, True, True, True)
    return _compiled(program, population_evaluate, arguments, by_slot)


def _run_slots(
    mode: str, active: jax.Array, function: Any, arguments: tuple[PyTree, ...], states: PyTree
) -> tuple[PyTree, PyTree]:
    """Calls function(*arguments of a slot) -> (new state, results) for every active slot.

    Args:
      mode: "vmap" or "map".
      active: bool[S].
      function: of one slot.
      arguments: trees with a leading axis S.
      states: stacked states that `function` renews, or None.

    Returns:
      (states, with inactive slots untouched; results[S], meaningless for inactive slots).
    """
    if mode == "vmap":
        new, results = jax.vmap(function)(*arguments)

        def keep(new: jax.Array, old: jax.Array) -> jax.Array:
            return jnp.where(active.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        return (None if states is None else jax.tree.map(keep, new, states)), results
    slots = len(active)
    first = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), arguments)
    shapes = jax.eval_shape(function, *first)[1]
    results = jax.tree.map(lambda x: jnp.zeros((slots, *x.shape), x.dtype), shapes)
    # Active slots first, so that the loop has as many turns as there are of them.
    order = jnp.argsort(~active, stable=True)

    def turn(i: jax.Array, carry: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
        states, _ = carry
        slot = order[i]
        given = arguments if states is None else (states, *arguments[1:])
        chosen = jax.tree.map(
            lambda x: jax.lax.dynamic_index_in_dim(x, slot, keepdims=False), given
        )
        done = function(*chosen)
        return jax.tree.map(
            lambda x, new: jax.lax.dynamic_update_index_in_dim(x, new, slot, 0), carry, done
        )

    return jax.lax.fori_loop(0, jnp.sum(active, dtype=jnp.int32), turn, (states, results))


def _compiled(
    program: PopulationProgram,
    function: Any,
    arguments: tuple[PyTree, ...],
    stacked: tuple[bool, ...],
    donate: int | None = None,
) -> Any:
    """Compiled for these shapes, with the stacked arguments and all results split over devices."""
    mesh, by_slot = program.mesh, PartitionSpec(AXIS)
    specs = tuple(by_slot if one else PartitionSpec() for one in stacked)
    whole = function
    if mesh.size > 1:
        whole = jax.shard_map(
            function, mesh=mesh, in_specs=specs, out_specs=by_slot, check_vma=False
        )
        whole.__name__ = function.__name__
    jitted = jax.jit(
        whole,
        in_shardings=tuple(NamedSharding(mesh, spec) for spec in specs),
        out_shardings=NamedSharding(mesh, by_slot),
        donate_argnums=() if donate is None else donate,
    )
    return jitted.lower(*arguments).compile()


def _stacked(tree: PyTree, slots: int) -> PyTree:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((slots, *x.shape), x.dtype), tree)


def _batch_shapes(spec: Spec, leading: tuple[int, ...]) -> dict[str, jax.ShapeDtypeStruct]:
    return {
        key: jax.ShapeDtypeStruct((*leading, *shape), dtype) for key, (shape, dtype) in spec.items()
    }
