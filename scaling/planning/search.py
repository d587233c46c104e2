"""The mesh, microbatch and rematerialisation that fit a topology and are fastest by the estimate.

    candidates -> closed form prunes and orders -> the compiler decides, best first -> table

Every compile is a process of its own (`python -m scaling.plan`), whose report is kept on disk under
the fingerprint of config, code, compiler and topology.
"""

import dataclasses
import hashlib
import itertools
import json
import math
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from scaling import configs
from scaling.configs.errors import ConfigError
from scaling.parallel.axes import check_devices
from scaling.planning import closed_form
from scaling.planning import compile as compiling
from scaling.planning.closed_form import Rates, Sketch
from scaling.planning.compile import Effort
from scaling.planning.topology import Target

REMATS = tuple(closed_form.KEPT)
TENSOR = (1, 2, 4, 8)
MOST_MICROBATCHES = 64


@dataclasses.dataclass(frozen=True)
class Candidate:
    """Settings to try.

    Attributes:
      changes: {key of the config: value}.
      config: with the changes.
      sketch: by the closed form.
    """

    changes: dict[str, Any]
    config: Any
    sketch: Sketch

    def lines(self) -> list[str]:
        """Command-line overrides that make the config this candidate."""
        return [f"--config.{key}={value}" for key, value in self.changes.items()]

    def label(self) -> str:
        """The settings in one line."""
        short = {key.rpartition(".")[2]: value for key, value in self.changes.items()}
        return " ".join(f"{key}={value}" for key, value in short.items())


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
    def seconds(self) -> float | None:
        """Middle of the estimated step time (geometric), if there is one."""
        estimate = (self.report or {}).get("estimate")
        return math.sqrt(estimate["low"] * estimate["high"]) if estimate else None


@dataclasses.dataclass(frozen=True)
class Found:
    """What a search came to: the best that fits (or None), all that was compiled, what was not."""

    best: Tried | None
    tried: tuple[Tried, ...]
    pruned: int
    left: int


def search(
    config: Any,
    target: Target,
    *,
    limit: float | None,
    rates: Rates,
    most: int = 8,
    jobs: int = 1,
    cache: pathlib.Path,
    numbers: str = "",
    say: Callable[[str], None] = print,
) -> Found:
    """Looks for the fastest settings that fit.

    Candidates are compiled with the compiler's least effort; the best is compiled again as a run
    would be, and gives way to the next if it does not fit then. Stops when `most` candidates are
    compiled, or when what is left is slower by the closed form than twice the best found.

    Args:
      config: resolved; its mesh, `train.accumulate` and `model.remat` are what may change.
      target: the topology.
      limit: bytes that a device may use; None: anything fits.
      rates: of a device, for the closed form.
      most: compiles.
      jobs: at a time.
      cache: folder of reports.
      numbers: numbers of the hardware in place of the table's, as `--hardware` takes them.
      say: told of progress.
    """
    everything = candidates(config, target, rates)
    allowed = [one for one in everything if limit is None or one.sketch.bytes <= limit]
    allowed.sort(key=lambda one: one.sketch.seconds)
    pruned = len(everything) - len(allowed)
    say(
        f"{len(everything)} candidates; {pruned} cannot fit by the closed form; compiling up to "
        f"{min(most, len(allowed))} of {len(allowed)}, {jobs} at a time"
    )
    tried: list[Tried] = []
    queue = list(allowed)
    while queue and len(tried) < most:
        chosen = _next(queue, tried, min(jobs, most - len(tried)))
        if not chosen:
            break
        queue = [one for one in queue if not any(one is other for other in chosen)]
        for done in compile_all(chosen, target, jobs=jobs, cache=cache, numbers=numbers):
            tried.append(done)
            say(f"[{len(tried)}/{most}] {describe(done)}")
    best = None
    for one in sorted((one for one in tried if one.fits), key=rank):
        say(f"as a run compiles it: {one.candidate.label()}")
        (final,) = compile_all(
            [one.candidate], target, jobs=1, cache=cache, effort="default", numbers=numbers
        )
        tried = [final if other is one else other for other in tried]
        if final.fits:
            best = final
            break
    return Found(best, tuple(sorted(tried, key=rank)), pruned, len(queue))


def _next(queue: Sequence[Candidate], tried: Sequence[Tried], count: int) -> list[Candidate]:
    """The candidates to compile next, none of which a result so far rules out.

    What did not fit rules out the same mesh with as large a microbatch and as much kept. What fits
    rules out all that is twice as slow by the closed form.
    """
    best = min((one.candidate.sketch.seconds for one in tried if one.fits), default=math.inf)
    failed = [one.candidate for one in tried if not one.fits]
    live = [
        one
        for one in queue
        if one.sketch.seconds < 2 * best and not any(_at_least(one, other) for other in failed)
    ]
    return live[:count]


def _at_least(one: Candidate, other: Candidate) -> bool:
    """Whether `one` is on the same mesh as `other` and keeps as much by the closed form."""
    same = all(
        one.changes[key] == value for key, value in other.changes.items() if key.startswith("mesh.")
    )
    return same and one.sketch.bytes >= other.sketch.bytes


def candidates(config: Any, target: Target, rates: Rates) -> list[Candidate]:
    """Every combination that divides: mesh, microbatches, rematerialisation; with its sketch."""
    from scaling import data
    from scaling.tasks.base import build_task

    task = build_task(config, data.describe(config), target.platform)
    units = config.train.batch_size * task.units_per_example
    flops = task.flops.exact_causal * units
    optimizer = _optimizer_share(config, task)
    found = []
    for changes in _changes(config, target):
        try:
            changed = configs.replace(config, changes)
            check_devices(changed, target.num_devices)
        except ConfigError:
            continue
        mesh = {key.removeprefix("mesh."): n for key, n in changes.items() if "mesh." in key}
        sketch = closed_form.sketch(changed, mesh, task.params.total, flops, optimizer, rates)
        found.append(Candidate(changes, changed, sketch))
    if not found:
        raise ConfigError(
            "train.batch_size",
            f"{config.train.batch_size} divides over no mesh of {target.num_devices} devices",
            "give a multiple of a power of two",
        )
    return found


def _changes(config: Any, target: Target) -> Iterator[dict[str, Any]]:
    devices = target.num_devices
    replica = target.slices
    inside = devices // replica
    remats: Sequence[str | None] = REMATS if "remat" in config.model else (None,)
    tensors = [n for n in TENSOR if inside % n == 0]
    shards = _divisors(inside)
    batches = [2**i for i in range(int(math.log2(MOST_MICROBATCHES)) + 1)]
    for tensor, fsdp, accumulate, remat in itertools.product(tensors, shards, batches, remats):
        if inside % (tensor * fsdp):
            continue
        rows = config.train.batch_size / (devices // tensor) / accumulate
        if rows < 1 or rows != int(rows):
            continue
        changes = {
            "mesh.replica": replica,
            "mesh.data": inside // (tensor * fsdp),
            "mesh.fsdp": fsdp,
            "mesh.tensor": tensor,
            "train.accumulate": accumulate,
        }
        yield changes | ({"model.remat": remat} if remat is not None else {})


def compile_all(
    chosen: Sequence[Candidate],
    target: Target,
    *,
    jobs: int,
    cache: pathlib.Path,
    effort: Effort = "least",
    numbers: str = "",
) -> Iterator[Tried]:
    """Compiles candidates in processes of their own, `jobs` at a time, as they get done.

    A report holds verdict and estimate by `numbers`, so other numbers are another report.
    """
    cache.mkdir(parents=True, exist_ok=True)
    suffix = f"-{hashlib.sha256(numbers.encode()).hexdigest()[:8]}" if numbers else ""
    waiting = list(chosen)
    running: list[tuple[Candidate, pathlib.Path, subprocess.Popen[bytes]]] = []
    while waiting or running:
        while waiting and len(running) < jobs:
            one = waiting.pop(0)
            path = cache / f"{compiling.fingerprint(one.config, target, effort)}{suffix}.json"
            if path.is_file():
                yield Tried(one, json.loads(path.read_text()), cached=True)
            else:
                running.append((one, path, _start(one, target, path, effort, numbers)))
        time.sleep(0.05)
        for entry in [entry for entry in running if entry[2].poll() is not None]:
            running.remove(entry)
            yield _collect(*entry)


def _start(
    one: Candidate, target: Target, path: pathlib.Path, effort: Effort, numbers: str
) -> subprocess.Popen[bytes]:
    config = path.with_suffix(".config.json")
    config.write_text(configs.to_json(one.config))
    name = target.name if target.slices == 1 else target.name.rpartition("x")[0]
    command = [
        sys.executable, "-m", "scaling.plan", f"--config={config}", f"--topology={name}",
        f"--json={path}", f"--effort={effort}",
    ]  # fmt: skip
    command += [f"--slices={target.slices}"] if target.slices > 1 else []
    command += [f"--hardware={numbers}"] if numbers else []
    root = str(pathlib.Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    with open(path.with_suffix(".log"), "wb") as log:
        return subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=os.environ | {"PYTHONPATH": paths}
        )


def _collect(one: Candidate, path: pathlib.Path, process: subprocess.Popen[bytes]) -> Tried:
    path.with_suffix(".config.json").unlink(missing_ok=True)
    log = path.with_suffix(".log")
    if path.is_file():
        log.unlink(missing_ok=True)
        return Tried(one, json.loads(path.read_text()))
    lines = log.read_text(errors="replace").strip().splitlines()
    text = next((line for line in reversed(lines) if "rror" in line), (lines or ["no output"])[-1])
    return Tried(one, None, f"exit {process.returncode}: {text[:200]}")


def rank(one: Tried) -> tuple[bool, float]:
    """Sort key: what fits first, then by step time (or, without one, by work and communication)."""
    seconds = one.seconds
    if seconds is None and one.report and one.report.get("work"):
        wire = sum(traffic["wire_bytes"] for traffic in one.report["traffic"])
        work, rates = one.report["work"], Rates()
        flops = work["matmul_flops"] + work["attention_flops"]
        seconds = flops / rates.flops + wire / rates.link + work["memory_bytes"] / rates.bandwidth
    return not one.fits, math.inf if seconds is None else seconds


def describe(one: Tried) -> str:
    """One line: the settings and what came of them."""
    label = one.candidate.label()
    if one.report is None:
        return f"{label}: {one.error}"
    if not one.report["fits"]:
        over = one.report.get("overflow") or {}
        need = over.get("required") or (one.report.get("memory") or {}).get("peak")
        return f"{label}: does not fit" + (f", needs {need / 2**30:.2f} GiB" if need else "")
    peak = one.report["memory"]["peak"] / 2**30
    estimate = one.report.get("estimate")
    took = f", {estimate['low']:.3g} to {estimate['high']:.3g} s" if estimate else ""
    return f"{label}: {peak:.2f} GiB{took}{' (from the cache)' if one.cached else ''}"


def _optimizer_share(config: Any, task: Any) -> float:
    """Bytes of optimizer state per byte of parameters."""
    import jax

    from scaling import parallel
    from scaling.optim.build import build_optimizer

    boxed = jax.eval_shape(task.init, jax.random.key(0))
    _, names = parallel.param_shardings(
        boxed, parallel.make_mesh(parallel.MeshConfig(), jax.devices("cpu")[:1]), config.mesh
    )
    params = parallel.unbox(boxed)["params"]
    optimizer = build_optimizer(config.optim, config.train.steps, names["params"])
    state = jax.eval_shape(optimizer.init, params)
    size = [sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(t)) for t in (state, params)]
    return size[0] / size[1]


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
