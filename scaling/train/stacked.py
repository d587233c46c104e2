"""The one program of a population: many runs in the slots of one stacked train state.

    step      (states[S], batches[U], hparams[S], turn[S]) -> (states[S], metrics[S])
    evaluate  (variables[S], batch, key[S], step[S], carry[S], active[S]) -> (result[S], carry[S])

Legend: S slots, U distinct batches of a step (members with another order of the data have another).

Two ways to run a slot, `mode`: `vmap` is one batched step over all slots; `map` is a loop over the
slots that are active, inside the program. On CPU small batched products thread badly (a vmapped step
was measured at 0.6 of the speed of single steps, `map` at 0.9 to 1), and XLA makes of the body of a
loop what it makes of the step alone, so `map` is faster there and, on one device, equal to the solo
run bit for bit (the reported norm of the parameters to its last place). On accelerators
`vmap` fills the device. With several devices the slots are split over an axis `population`, and no
device waits for another.

`vmap` and several devices add sums in another order. Members then begin within 1e-5 of their solo
runs, and part from them as runs do after any change of the last place.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from scaling import parallel
from scaling.data import Data, DataInfo
from scaling.data.loader import WEIGHTS
from scaling.experiment import Experiment
from scaling.parallel.batches import Fetch
from scaling.parallel.sharding import PyTree
from scaling.tasks.base import Task, abstract_batch
from scaling.tasks.keys import KEY_DATA
from scaling.train import population_key as keys
from scaling.train.compiled import Batch, Turn
from scaling.train.evaluate import Scheduled, batch_key, first_carry, schedule
from scaling.train.program import Functions, build_functions, evaluate_step, key_data
from scaling.train.state import TrainState, as_variables

Mode = Literal["auto", "vmap", "map"]

AXIS = "population"


@dataclasses.dataclass(frozen=True)
class Stacked:
    """Compiled functions of a population; its methods are those of `train.compiled.Sharded`.

    Attributes:
      mesh: one axis, `population`.
      slots: S, a multiple of the devices; the last may stand empty.
      batch_size: B, of a step.
      template: one member's state: shapes and types, no shardings, so it is restored to the host.
      compiled_step: the old states are donated.
      evaluations: compiled, by the name of the job.
      inits: makes initial states, compiled when first asked for.
    """

    functions: Functions
    mode: str
    mesh: jax.sharding.Mesh
    slots: int
    batch_size: int
    template: TrainState
    info: DataInfo
    jobs: Sequence[Scheduled]
    compiled_step: Any = None
    evaluations: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    inits: dict[str, Callable[[np.ndarray], TrainState]] = dataclasses.field(default_factory=dict)

    @property
    def task(self) -> Task:
        """The learning problem."""
        return self.functions.task

    @property
    def devices(self) -> np.ndarray:
        """All that the members share."""
        return self.mesh.devices

    def fresh(self, config: Experiment) -> TrainState:
        """The state at step 0, as the member alone would have it; on the host."""
        # What the initial values depend on besides the seed is compiled in.
        key = repr(keys.initial(config))
        if key not in self.inits:
            platform = jax.devices()[0].platform
            self.inits[key] = jax.jit(build_functions(config, self.info, platform).init)
        return jax.device_get(self.inits[key](key_data(config.seed)))

    def stack(self, states: Sequence[TrainState]) -> TrainState:
        """Members' states on the host as one on the devices; empty slots repeat the last."""
        filled = [*states, *[states[-1]] * (self.slots - len(states))]
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *filled)
        return jax.device_put(stacked, self._by_slot())

    def take(self, states: TrainState, slots: Sequence[int]) -> list[TrainState]:
        """Copies of the states of some slots, on the host."""
        host = jax.device_get(states)
        return [jax.tree.map(lambda x, i=slot: np.array(x[i]), host) for slot in slots]

    def replace(self, states: TrainState, slot: int, make: Callable[[], TrainState]) -> TrainState:
        """`states` with what `make` returns in one slot."""
        host = jax.tree.map(np.array, jax.device_get(states))

        def replace(whole: np.ndarray, part: Any) -> np.ndarray:
            whole[slot] = part
            return whole

        return jax.device_put(jax.tree.map(replace, host, make()), self._by_slot())

    def part(self, values: PyTree, slot: int) -> PyTree:
        """A slot's part of values that are on the host."""
        return jax.tree.map(lambda x: x[slot], values)

    def place_hparams(self, configs: Sequence[Experiment]) -> dict[str, jax.Array]:
        """The members' values of the run-time numbers: {name: float32[S]}."""
        values = [keys.numbers(config) for config in configs]
        by_name = {name: [one[name] for one in values] for name in self.functions.hparams}
        return self._place({k: np.asarray(v, np.float32) for k, v in by_name.items()})

    def _place(self, values: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """{name: array with an entry for each member} on the devices; empty slots hold 0."""
        arrays = {}
        for name, array in values.items():
            rest = np.zeros((self.slots - len(array), *array.shape[1:]), array.dtype)
            arrays[name] = np.concatenate([array, rest])
        return jax.device_put(arrays, self._by_slot())

    def place(self, fetches: Sequence[Fetch]) -> Batch:
        """Distinct batches, stacked, whole on every device: {key: [U, B, ...]}."""
        batches = [fetch(0, self.batch_size) for fetch in fetches]
        stacked = {key: np.stack([batch[key] for batch in batches]) for key in batches[0]}
        return jax.device_put(stacked, parallel.replicated(self.mesh))

    def step(
        self, states: TrainState, batch: Batch, hparams: Mapping[str, jax.Array], turn: Turn
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """A step of the active members."""
        turns = {"active": turn.active, "source": turn.sources, "used": turn.used}
        return self.compiled_step(states, batch, hparams, self._place(turns))

    def carry(self, job: Scheduled) -> PyTree:
        """The same for every member."""
        carry = jax.device_get(first_carry(job))
        return None if carry is None else self.stack([carry])

    def evaluate(
        self,
        job: Scheduled,
        number: int,
        variables: Mapping[str, PyTree],
        turn: Turn,
        carry: PyTree,
    ) -> tuple[PyTree, PyTree]:
        """One batch of an evaluation of the active members."""
        rows = dict(job.examples.batch(number, job.batch_size, 0, job.batch_size))
        batch = jax.device_put(rows, parallel.replicated(self.mesh))
        keys = np.stack([batch_key(seed, job.name, number) for seed in turn.seeds.tolist()])
        at = self._place({"active": turn.active, "step": turn.steps, "key": keys})
        evaluate = self.evaluations[job.name]
        return evaluate(variables, batch, at["key"], at["step"], carry, at["active"])

    def _by_slot(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec(AXIS))


def choose(mode: Mode, platform: str) -> str:
    """What `auto` means on a platform; see the module."""
    if mode not in ("auto", "vmap", "map"):
        raise ValueError(f"mode={mode!r} is none of auto, vmap, map")
    return mode if mode != "auto" else "map" if platform == "cpu" else "vmap"


def compile_stacked(
    config: Experiment, data: Data, members: int, sources: int, mode: Mode
) -> Stacked:
    """Compiles the program of so many members, with U = `sources` distinct batches of a step.

    Config and data are of any member: what the others change are run-time arguments.
    """
    devices = jax.devices()[: min(members, jax.device_count())]
    functions = build_functions(config, data.info, devices[0].platform)
    # A member lives on one device, but its axes must have rules there too.
    for names in jax.tree.leaves(
        parallel.axis_names(functions.task.boxed), is_leaf=lambda x: isinstance(x, tuple)
    ):
        parallel.spec(names, parallel.rules(config.mesh))
    program = Stacked(
        functions,
        choose(mode, devices[0].platform),
        jax.sharding.Mesh(np.array(devices), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,)),
        -(-members // len(devices)) * len(devices),
        config.train.batch_size,
        jax.eval_shape(functions.init, KEY_DATA),
        data.info,
        schedule(config, functions.task, data.evals),
    )
    return dataclasses.replace(
        program,
        compiled_step=_compile_step(program, sources),
        evaluations={job.name: _compile_evaluation(program, job) for job in program.jobs},
    )


def _compile_step(program: Stacked, sources: int) -> jax.stages.Compiled:
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
        _stacked(program.template, program.slots),
        abstract_batch(program.info.spec, sources, program.batch_size),
        {name: jax.ShapeDtypeStruct((program.slots,), jnp.float32) for name in names},
        {
            "active": jax.ShapeDtypeStruct((program.slots,), jnp.bool_),
            "source": jax.ShapeDtypeStruct((program.slots,), jnp.int32),
            "used": jax.ShapeDtypeStruct((program.slots,), jnp.float32),
        },
    )
    return _compiled(program, population_step, arguments, (True, False, True, True), donate=0)


def _compile_evaluation(program: Stacked, job: Scheduled) -> jax.stages.Compiled:
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

    state = program.template
    arguments = (
        _stacked(as_variables(state.params, state.frozen, state.model_state), program.slots),
        abstract_batch(job.examples.spec, job.batch_size),
        _stacked(KEY_DATA, program.slots),
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

    `active` is bool[S], the arguments are trees with a leading axis S, `states` are stacked states
    that the function renews, or None. Returns (states, with inactive slots untouched; results[S],
    meaningless for inactive slots).
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
    program: Stacked,
    function: Callable[..., PyTree],
    arguments: tuple[PyTree, ...],
    stacked: tuple[bool, ...],
    donate: int | None = None,
) -> jax.stages.Compiled:
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
