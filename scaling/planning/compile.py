"""One plan: the run's own train step, compiled for hardware that is not here.

    config, target -> lower (shapes alone) -> the target's compiler -> memory, work, communication

The memory is the compiler's own number. A program that is too large is a verdict (`Overflow`), not an
exception.
"""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import re
import time
from collections.abc import Iterator
from typing import Any, Literal

import jax

from scaling import configs, data, parallel
from scaling.configs.errors import ConfigError
from scaling.experiment import Experiment
from scaling.parallel.axes import check_devices
from scaling.planning import allocations, collectives, hlo, roofline, topology
from scaling.planning.allocations import Allocation
from scaling.planning.collectives import Traffic
from scaling.planning.topology import Target
from scaling.planning.work import Work, count
from scaling.track import files, hardware, provenance
from scaling.train.program import Program, build_program

GiB = 2**30
Effort = Literal["default", "least"]
COMPILERS = ("jax", "jaxlib", "libtpu", "flax", "scaling")  # they decide how a step is compiled
_OVERFLOW = re.compile(r"RESOURCE_EXHAUSTED|HbmOom|[Oo]ut of memory|exceeds available")
_OVERFLOW_SIZES = (
    r"\(([\d.]+)([KMGT]?)i?B?\) exceeds available HBM \(([\d.]+)([KMGT]?)",
    r"Used ([\d.]+)([KMGT]?)i?B? of ([\d.]+)([KMGT]?)i?B? hbm",
    r"allocat(?:e|ing) ([\d.]+) ?([KMGT]?)i?B",
)


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device.

    Attributes:
      other: the rest of the arguments: batch, averages, counters, hyper-parameters.
      arguments: everything that lives before the step starts, by the compiler's count (padding
        included).
      temporaries: peak less arguments: activations, gradients, gathered parameters, buffers.
      peak: the most that is alive at once; for GPU and CPU arguments + results + temporaries.
      limit: what a program may use; None where it is not known.
    """

    params: float
    optimizer: float
    other: float
    arguments: float
    temporaries: float
    peak: float
    limit: float | None
    code: float

    @property
    def head_room(self) -> float | None:
        """Bytes to spare; negative where the program is too large."""
        return None if self.limit is None else self.limit - self.peak


@dataclasses.dataclass(frozen=True)
class Overflow:
    """The compiler's verdict on a program that is too large for a device.

    Attributes:
      required: bytes that it needs; None if the compiler does not say.
      limit: bytes that it may use; None if neither the compiler nor our table says.
    """

    required: float | None
    limit: float | None
    message: str


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is known of a run before it runs; sizes and rates are of one device, one step, but
    `batch_size` and `tokens` (units, which may be examples) of all devices.

    Attributes:
      rows: examples of a device and microbatch.
      model_flops: forward and backward products, attention halved by its mask, without
        recomputation; of one device.
      largest: the largest allocations, by the names of the model.
      fingerprint: of config (whole), code of the program, hardware and compiler.
      run_id: `configs.fingerprint` of the config: the same as that of the run itself.
      memory: None if it does not fit.
      overflow: None if it fits.
      estimate: step time; None if it does not fit, or on devices without known rates.
    """

    name: str
    target: Target
    devices: int
    mesh: dict[str, int]
    device_kind: str
    remat: str | None
    rows: float
    accumulate: int
    batch_size: int
    tokens: float
    unit: str
    steps: int
    params: int
    model_flops: float
    largest: tuple[Allocation, ...]
    seconds: dict[str, float]
    effort: Effort
    fingerprint: str
    run_id: str
    versions: dict[str, str]
    memory: Memory | None = None
    overflow: Overflow | None = None
    work: Work | None = None
    traffic: tuple[Traffic, ...] = ()
    estimate: roofline.Estimate | None = None

    @property
    def fits(self) -> bool:
        """Whether the program compiles within the limit of the device."""
        if self.memory is None:
            return False
        return self.memory.head_room is None or self.memory.head_room >= 0

    @property
    def overhead(self) -> float | None:
        """FLOPs of the compiled step per model FLOP; what is above 1 is recomputation."""
        if self.work is None or not self.model_flops:
            return None
        return self.work.flops / self.model_flops


def compile_plan(
    config: Experiment,
    target: Target,
    text_path: pathlib.Path | None = None,
    changes: dict[str, float] | None = None,
    effort: Effort = "default",
) -> Plan:
    """Compiles the train step of a config for a target; `topology.prepare` came before.

    Args:
      changes: numbers of its devices that replace the table's, see `hardware.override`.
      text_path: where to keep the compiled program as text.
      effort: `least` (XLA's level O1) compiles in a fraction of the time to nearly the same program;
        runs are compiled with `default`.

    Raises:
      ConfigError: the mesh or the batch does not fit the devices, or an array cannot be split so.
    """
    devices = topology.devices(target)
    check_devices(config, len(devices))
    program, lowered, seconds = _lower(config, devices)
    device = hardware.override(devices[0].device_kind, changes or {})
    limit = (changes or {}).get("usable") or _limit(target, devices, device)
    start = time.perf_counter()
    try:
        with _with_effort(effort):
            compiled = lowered.compile()
    except Exception as error:
        if not _OVERFLOW.search(str(error)):
            raise
        compiled, overflow = None, _overflow(str(error), limit)
    seconds["compile"] = time.perf_counter() - start
    plan = _plan(target, program, seconds, effort)
    if compiled is None:
        largest = tuple(allocations.largest(program, overflow=True))
        return dataclasses.replace(plan, overflow=overflow, largest=largest)
    text = compiled.as_text() or ""
    if text_path is not None:
        text_path.write_text(text, encoding="utf-8")
    memory = _memory(compiled.memory_analysis(), program, limit)
    module = hlo.parse(text)
    counted = count(module)
    order = program.mesh.devices.reshape(-1)
    slices = [getattr(one, "slice_index", 0) or 0 for one in order]
    traffic = tuple(collectives.collectives(module, plan.mesh, slices))
    estimate = None
    if device is not None:
        estimate = roofline.estimate(counted, traffic, device, target, plan.mesh)
    return dataclasses.replace(
        plan, memory=memory, work=counted, traffic=traffic, estimate=estimate
    )


@contextlib.contextmanager
def _with_effort(effort: Effort) -> Iterator[None]:
    names = ("jax_optimization_level", "jax_memory_fitting_level")
    before = {name: getattr(jax.config, name) for name in names}
    try:
        for name in names if effort == "least" else ():
            jax.config.update(name, "O1")
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def _lower(
    config: Experiment, devices: list[jax.Device]
) -> tuple[Program, jax.stages.Lowered, dict[str, float]]:
    start = time.perf_counter()
    try:
        mesh = parallel.make_mesh(config.mesh, devices)
        program = build_program(config, data.describe(config), mesh)
        lowered = program.lower_step()
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError("mesh", str(error)) from error
    return program, lowered, {"lower": time.perf_counter() - start}


def _limit(
    target: Target, devices: list[jax.Device], device: hardware.Device | None
) -> float | None:
    if target.platform == "gpu":
        stats = devices[0].memory_stats() or {}
        return float(stats["bytes_limit"]) if "bytes_limit" in stats else None
    if target.platform == "tpu" and device is not None:
        return device.usable
    return None


def _memory(stats: Any, program: Program, limit: float | None) -> Memory:
    """From the compiler's statistics; donated arguments are counted once."""
    state = program.abstract
    params = allocations.tree_bytes(state.params)
    optimizer = allocations.tree_bytes(state.opt_state)
    arguments = float(stats.argument_size_in_bytes)
    peak = float(getattr(stats, "peak_memory_in_bytes", 0) or 0)
    if program.mesh.devices.flat[0].platform != "tpu" or not peak:
        # Only the TPU compiler packs over time; elsewhere temporaries are one block that lives
        # through the whole step.
        results = stats.output_size_in_bytes - stats.alias_size_in_bytes
        peak = float(arguments + stats.temp_size_in_bytes + results)
    return Memory(
        params=params,
        optimizer=optimizer,
        other=max(0.0, arguments - params - optimizer),
        arguments=arguments,
        temporaries=max(0.0, peak - arguments),
        peak=peak,
        limit=limit,
        code=float(stats.generated_code_size_in_bytes),
    )


def _overflow(message: str, limit: float | None) -> Overflow:
    """Reads the sizes out of the compiler's words: needed and, of most backends, available."""
    text = " ".join(message.split())
    matches = (re.search(pattern, text) for pattern in _OVERFLOW_SIZES)
    groups = next((match.groups() for match in matches if match), ())
    sizes = [
        float(number) * 1024.0 ** " KMGT".index(unit or " ")
        for number, unit in zip(groups[::2], groups[1::2], strict=True)
    ]
    required, available = (*sizes, None, None)[:2]
    return Overflow(required, limit if available is None else available, text[:600])


def _plan(target: Target, program: Program, seconds: dict[str, float], effort: Effort) -> Plan:
    """What is known before the program is compiled."""
    config, task, devices = program.config, program.task, program.mesh.size
    tokens = config.train.batch_size * task.units_per_example
    return Plan(
        name=config.name,
        target=dataclasses.replace(target, chips=target.chips or devices),
        devices=devices,
        mesh=dict(program.mesh.shape),
        device_kind=program.mesh.devices.flat[0].device_kind,
        remat=configs.get(config, "model.remat"),
        rows=config.train.batch_size / config.train.accumulate / allocations.batch_parts(program),
        accumulate=config.train.accumulate,
        batch_size=config.train.batch_size,
        tokens=float(tokens),
        unit=task.unit,
        steps=config.train.steps,
        params=task.params.total,
        model_flops=task.flops.exact_causal * tokens / devices,
        largest=tuple(allocations.largest(program)),
        seconds={k: round(v, 2) for k, v in seconds.items()},
        effort=effort,
        fingerprint=fingerprint(config, target, effort),
        run_id=configs.fingerprint(config),
        versions=provenance.versions(COMPILERS),
    )


def fingerprint(config: Experiment, target: Target, effort: Effort = "default") -> str:
    """16 hex digits of all that a report depends on: config, target, versions, code, effort."""
    parts = {
        "config": json.loads(configs.to_json(config)),
        "target": dataclasses.asdict(target),
        "versions": provenance.versions(COMPILERS),
        "code": provenance.code_digest(),
        "effort": effort,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def to_json(plan: Plan) -> dict[str, Any]:
    """The plan as plain data, with what the properties add."""
    report: dict[str, Any] = files.encode(dataclasses.asdict(plan))
    report |= {"fits": plan.fits, "overhead": plan.overhead}
    if plan.memory is not None:
        report["memory"]["head_room"] = plan.memory.head_room
    return report
