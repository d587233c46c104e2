"""The mesh, microbatch and rematerialisation that fit a topology and are fastest by the estimate.

    candidates -> their footprint prunes and orders -> the compiler decides, best first -> table

Every compile is a process of its own (`python -m scaling.plan`), whose report is kept on disk under
the fingerprint of config, code, compiler and topology.
"""

import concurrent.futures
import dataclasses
import hashlib
import itertools
import math
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from scaling import configs
from scaling.configs.errors import ConfigError
from scaling.experiment import Experiment
from scaling.parallel.axes import AXES, axes_with, check_devices
from scaling.planning import compile as compiling
from scaling.planning import topology
from scaling.planning.compile import Effort, GiB
from scaling.planning.footprint import Rates, Sketch, footprint
from scaling.planning.topology import Target
from scaling.track import files, hardware

POWERS = (1, 2, 4, 8, 16, 32, 64)
MOST_TENSOR, MOST_MICROBATCHES = 8, 64
HEADER = ("peak GiB", "FLOPs/model", "step s, low", "high", "wire GB")  # of `Tried.cells`


@dataclasses.dataclass(frozen=True)
class Candidate:
    """Settings to try.

    Attributes:
      sketch: of its memory and time; zeros where nothing is pruned.
    """

    changes: dict[str, Any]
    config: Experiment
    sketch: Sketch = dataclasses.field(default_factory=Sketch)

    def lines(self) -> list[str]:
        """Command-line overrides that make the config this candidate."""
        return [f"--config.{key}={value}" for key, value in self.changes.items()]

    def label(self) -> str:
        """The settings in one line."""
        short = {key.rpartition(".")[2]: value for key, value in self.changes.items()}
        return " ".join(f"{key}={value}" for key, value in short.items())

    def as_large_as(self, other: "Candidate") -> bool:
        """Whether this is on the other's mesh and is sketched to need as much memory."""
        same = all(
            self.changes[key] == value
            for key, value in other.changes.items()
            if key.startswith("mesh.")
        )
        return same and self.sketch.bytes >= other.sketch.bytes


@dataclasses.dataclass(frozen=True)
class Tried:
    """A compiled candidate: its report as JSON (`planning.compile.to_json`), or why there is none."""

    candidate: Candidate
    report: dict[str, Any] | None
    error: str = ""
    cached: bool = False

    @property
    def fits(self) -> bool:
        """Whether it compiles within the limit."""
        return bool(self.report and self.report["fits"])

    @property
    def needed(self) -> float | None:
        """Bytes of its peak on a device; of what is too large by the compiler's message."""
        report = self.report or {}
        overflow, memory = report.get("overflow") or {}, report.get("memory") or {}
        return overflow.get("required") or memory.get("peak")

    @property
    def seconds(self) -> float:
        """Middle of the estimated step time (geometric); without one a time at made-up rates."""
        report = self.report or {}
        if estimate := report.get("estimate"):
            return math.sqrt(estimate["low"] * estimate["high"])
        if work := report.get("work"):
            rates = Rates()
            flops = work["matmul_flops"] + work["attention_flops"]
            times = flops / rates.flops, work["memory_bytes"] / rates.bandwidth
            return sum(times) + self._wire() / rates.link
        return math.inf

    def rank(self) -> tuple[bool, float]:
        """Sort key: what fits first, then by step time."""
        return not self.fits, self.seconds

    def cells(self) -> tuple[str, ...]:
        """Under HEADER: peak, FLOP ratio, step time and bytes on the wire, as text."""
        if self.report is None:
            return ("failed", "", "", "", "")
        if not self.fits:
            return (f"{self.needed / GiB:.2f} !" if self.needed else "too much", "", "", "", "")
        estimate, overhead = self.report.get("estimate") or {}, self.report["overhead"]
        times = [f"{estimate[end]:.3g}" if estimate else "-" for end in ("low", "high")]
        return (
            f"{self.report['memory']['peak'] / GiB:.2f}",
            f"{overhead:.3f}" if overhead else "-",
            *times,
            f"{self._wire() / 1e9:.1f}",
        )

    def __str__(self) -> str:
        label, need = self.candidate.label(), self.needed
        if self.report is None:
            return f"{label}: {self.error}"
        if not self.fits:
            return f"{label}: does not fit" + (f", needs {need / GiB:.2f} GiB" if need else "")
        estimate = self.report.get("estimate")
        took = f", {estimate['low']:.3g} to {estimate['high']:.3g} s" if estimate else ""
        peak = f"{self.report['memory']['peak'] / GiB:.2f} GiB"
        return f"{label}: {peak}{took}{' (from the cache)' if self.cached else ''}"

    def _wire(self) -> float:
        return sum(traffic["wire_bytes"] for traffic in (self.report or {})["traffic"])


@dataclasses.dataclass(frozen=True)
class Result:
    """What a search came to: the best that fits (or None), all that was compiled, what was not."""

    best: Tried | None
    tried: tuple[Tried, ...]
    pruned: int
    left: int

    def to_json(self) -> dict[str, Any]:
        """What was tried and what is best, as plain data."""
        return {
            "best": self.best.candidate.changes if self.best else None,
            "tried": [
                {"changes": one.candidate.changes, "report": one.report, "error": one.error}
                for one in self.tried
            ],
            "pruned": self.pruned,
            "left": self.left,
        }


def search(
    config: Experiment,
    target: Target,
    *,
    changes: Mapping[str, float],
    most: int = 8,
    jobs: int = 1,
    cache: pathlib.Path,
    say: Callable[[str], None] = print,
) -> Result:
    """Looks for the fastest settings that fit: mesh, `train.accumulate` and `model.remat`.

    Candidates are compiled with the compiler's least effort, `jobs` at a time; the best is compiled
    again as a run would be, and gives way to the next if it does not fit then. Stops when `most` are
    compiled, or when what is left is sketched to be slower than twice the best. `changes` are numbers
    of the devices that replace the table's, see `hardware.override`.
    """
    limit, rates = device_numbers(target, changes)
    everything = candidates(config, target, rates)
    queue = sorted(
        (one for one in everything if limit is None or one.sketch.bytes <= limit),
        key=lambda one: (one.sketch.seconds, one.sketch.bytes),
    )
    pruned = len(everything) - len(queue)
    say(
        f"{len(everything)} candidates; {pruned} cannot fit by the lower bound; compiling up to "
        f"{min(most, len(queue))} of {len(queue)}, {jobs} at a time"
    )
    tried: list[Tried] = []
    while queue and len(tried) < most:
        chosen = _next(queue, tried, min(jobs, most - len(tried)))
        if not chosen:
            break
        queue = [one for one in queue if not any(one is other for other in chosen)]
        for done in compile_all(chosen, target, jobs=jobs, cache=cache, changes=changes):
            tried.append(done)
            say(f"[{len(tried)}/{most}] {done}")
    best = None
    for one in sorted((one for one in tried if one.fits), key=Tried.rank):
        say(f"as a run compiles it: {one.candidate.label()}")
        (final,) = compile_all(
            [one.candidate], target, jobs=1, cache=cache, effort="default", changes=changes
        )
        tried = [final if other is one else other for other in tried]
        if final.fits:
            best = final
            break
    return Result(best, tuple(sorted(tried, key=Tried.rank)), pruned, len(queue))


def _next(queue: Sequence[Candidate], tried: Sequence[Tried], count: int) -> list[Candidate]:
    """The candidates to compile next, none of which a result so far rules out.

    What did not fit rules out the same mesh with as large a microbatch and as much kept. What fits
    rules out all that is sketched to be twice as slow.
    """
    best = min((one.candidate.sketch.seconds for one in tried if one.fits), default=math.inf)
    failed = [one.candidate for one in tried if not one.fits]
    live = [
        one
        for one in queue
        if one.sketch.seconds < 2 * best and not any(one.as_large_as(other) for other in failed)
    ]
    return live[:count]


def device_numbers(target: Target, changes: Mapping[str, float]) -> tuple[float | None, Rates]:
    """(bytes that a device may use, its peak rates) of a target; without a limit where unknown."""
    kind = topology.FAMILIES[target.family].kind if target.family else ""
    if target.platform == "gpu":
        kind = topology.devices(target)[0].device_kind
    device = hardware.override(kind, dict(changes))
    if device is None:
        return changes.get("usable"), Rates()
    link = device.link / 2 if device.link else device.bandwidth / 10
    return device.usable or device.memory or None, Rates(device.flops, device.bandwidth, link)


def remedy(config: Experiment, target: Target, changes: Mapping[str, float]) -> str:
    """The fastest settings that fit by the lower bound and a fifth more, as overrides; not compiled."""
    limit, rates = device_numbers(target, changes)
    fitting = [
        one
        for one in candidates(config, target, rates)
        if limit is None or 1.2 * one.sketch.bytes <= limit
    ]
    if not fitting:
        return "more chips"
    best = min(fitting, key=lambda one: (one.sketch.seconds, one.sketch.bytes)).changes
    differ = [f"{key}={value}" for key, value in best.items() if configs.get(config, key) != value]
    return " ".join(differ) or "more chips"


def candidates(config: Experiment, target: Target, rates: Rates) -> list[Candidate]:
    """Every combination that divides: mesh, microbatches, rematerialisation; with its sketch."""
    program = footprint(config, target)
    batch_size, possible = config.train.batch_size, []
    microbatches = [n for n in POWERS if n <= MOST_MICROBATCHES]
    for mesh, accumulate in itertools.product(_meshes(target), microbatches):
        parts = math.prod(mesh[axis] for axis in axes_with("batch"))
        if batch_size % (parts * accumulate):
            continue
        settings: dict[str, Any] = {f"mesh.{axis}": size for axis, size in mesh.items()}
        settings["train.accumulate"] = accumulate
        try:
            variant = configs.replace(config, settings)
            check_devices(variant, target.num_devices)
        except ConfigError:
            continue
        for remat in program.kept:
            more = {} if remat is None else {"model.remat": remat}
            sketch = program.sketch(mesh, batch_size, accumulate, remat, rates)
            possible.append(Candidate(settings | more, configs.replace(variant, more), sketch))
    if not possible:
        what = f"{batch_size} divides over no mesh of {target.num_devices} devices"
        raise ConfigError("train.batch_size", what, "give a multiple of a power of two")
    return possible


def _meshes(target: Target) -> Iterator[dict[str, int]]:
    """Sizes of the axes, by their roles.

    The first axis that splits the batch alone runs across slices, the last takes what the others
    leave; axes that split parameters alone stay small.
    """
    inside = target.num_devices // target.slices
    batch, model = axes_with("batch"), axes_with("parameters")
    choices: dict[str, list[int]] = {axis: [1] for axis in AXES}
    for axis in model:
        sizes = range(1, inside + 1) if axis in batch else POWERS[: POWERS.index(MOST_TENSOR) + 1]
        choices[axis] = [size for size in sizes if inside % size == 0]
    across, *_, rest = (axis for axis in batch if axis not in model)
    choices[across] = [target.slices]
    for sizes in itertools.product(*choices.values()):
        mesh = dict(zip(choices, sizes, strict=True))
        left, over = divmod(target.num_devices, math.prod(sizes))
        if not over:
            yield mesh | {rest: mesh[rest] * left}


def compile_all(
    chosen: Sequence[Candidate],
    target: Target,
    *,
    jobs: int,
    cache: pathlib.Path,
    effort: Effort = "least",
    changes: Mapping[str, float],
) -> Iterator[Tried]:
    """Compiles candidates in processes of their own, `jobs` at a time; in their order.

    A report holds verdict and estimate by the numbers of the hardware: other `changes`, another report.
    """
    numbers = ",".join(f"{key}={value!r}" for key, value in sorted(changes.items()))
    suffix = f"-{hashlib.sha256(numbers.encode()).hexdigest()[:8]}" if numbers else ""

    def compiled(one: Candidate) -> Tried:
        path = cache / f"{compiling.fingerprint(one.config, target, effort)}{suffix}.json"
        if path.is_file():
            return Tried(one, files.read_json(path), cached=True)
        return _compile(one, target, path, effort, numbers)

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(compiled, chosen)


def _compile(
    one: Candidate, target: Target, path: pathlib.Path, effort: Effort, numbers: str
) -> Tried:
    config, log = path.with_suffix(".config.json"), path.with_suffix(".log")
    files.write_text(config, configs.to_json(one.config))
    name = target.name if target.slices == 1 else target.name.rpartition("x")[0]
    flags = {"config": config, "topology": name, "json": path, "effort": effort}
    flags |= {"slices": target.slices} if target.slices > 1 else {}
    flags |= {"hardware": numbers} if numbers else {}
    command = [sys.executable, "-m", "scaling.plan", *(f"--{k}={v}" for k, v in flags.items())]
    root = str(pathlib.Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    env = os.environ | {"PYTHONPATH": paths}
    with open(log, "wb") as out:
        code = subprocess.run(command, stdout=out, stderr=out, env=env, check=False).returncode
    config.unlink(missing_ok=True)
    if path.is_file():
        log.unlink(missing_ok=True)
        return Tried(one, files.read_json(path))
    lines = log.read_text(errors="replace", encoding="utf-8").strip().splitlines()
    text = next((line for line in reversed(lines) if "rror" in line), (lines or ["no output"])[-1])
    return Tried(one, None, f"exit {code}: {text[:200]}")
