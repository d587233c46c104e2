"""Evaluation: what runs on which held-out examples, when, and on how many of them.

`schedule` lists it once, for the loop and for `--evaluate`.
"""

import dataclasses
import pathlib
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image

from scaling.configs import ConfigError
from scaling.configs.errors import suggest
from scaling.data.loader import EvalSet
from scaling.experiment import Experiment
from scaling.parallel.sharding import PyTree
from scaling.tasks.base import Evaluation, Task
from scaling.track import files
from scaling.train import evaluations
from scaling.train.program import Program, key_data, timed_compile

# A batch's result of an evaluation, given (batch number, carry) -> (result, carry).
RunBatch = Callable[[int, PyTree], tuple[PyTree, PyTree]]


@dataclasses.dataclass(frozen=True)
class Scheduled:
    """An evaluation of this run.

    Attributes:
      name: under which its values are reported.
      every: steps between its runs; 0 means only after the last step.
      batches: at most so many, spread over the split; None takes all.
      final_batches: the same of the run after the last step.
    """

    name: str
    evaluation: Evaluation
    examples: EvalSet
    every: int
    batches: int | None
    final_batches: int | None
    batch_size: int

    def chosen(self, last: bool) -> list[int]:
        """Numbers of the batches to take; `last` after the last step."""
        count = self.examples.num_batches(self.batch_size)
        return spread(count, self.final_batches if last else self.batches)

    def count(self) -> int:
        """Examples in the batches that it takes after the last step."""
        size, examples = self.batch_size, len(self.examples)
        return sum(min(size, examples - batch * size) for batch in self.chosen(last=True))

    def is_due(self, step: int, last: int) -> bool:
        """Whether it runs after this step."""
        return step == last or (self.every > 0 and step % self.every == 0)


def schedule(config: Experiment, task: Task, evals: Mapping[str, EvalSet]) -> list[Scheduled]:
    """All evaluations of a run: the task's `score` on every split, then `eval.also`.

    Raises:
      ConfigError: an entry names no evaluation of the task, no split of the data, or takes too few
        examples.
    """
    section = config.eval
    size = section.batch_size or config.train.batch_size
    final = section.final_units and -(-section.final_units // (size * task.units_per_example))
    score = task.evaluations["score"]
    jobs = [
        Scheduled(split, score, examples, section.every, section.batches, final, size)
        for split, examples in evals.items()
    ]
    for name, entry in (section.also or {}).items():
        key = f"eval.also.{name}"
        if name in evals:
            raise ConfigError(key, "has the name of a split", "choose another name")
        if entry.split not in evals:
            hint = suggest(entry.split, list(evals), what="splits") or "hold examples out"
            raise ConfigError(f"{key}.split", f"there is no held-out split {entry.split!r}", hint)
        evaluation = evaluations.named(task, entry, name)
        every = section.every if entry.every is None else entry.every
        rows = entry.batch_size or size
        examples, batches = evals[entry.split], entry.batches
        job = Scheduled(name, evaluation, examples, every, batches, batches, rows)
        if job.count() < evaluation.least:
            raise ConfigError(
                f"{key}.batches",
                f"{job.count()} examples are fewer than the {evaluation.least} that it needs",
                "take more or larger batches, or hold more out",
            )
        jobs.append(job)
    return jobs


def stop_metric(config: Experiment, task: Task) -> str:
    """The metric that early stopping and `checkpoint.keep_best` watch."""
    return config.eval.stop_metric or f"eval/{task.objective}"


def compile_evaluations(
    program: Program, jobs: Iterable[Scheduled]
) -> tuple[dict[str, Any], float]:
    """({name of the job: compiled evaluation}, seconds); equal programs are compiled once."""
    compiled: dict[str, Any] = {}
    known: dict[tuple[int, str, int], Any] = {}
    seconds = 0.0
    for job in jobs:
        key = (id(job.evaluation), repr(sorted(job.examples.spec.items())), job.batch_size)
        if key not in known:
            lowered = program.lower_evaluation(job.evaluation, job.examples.spec, job.batch_size)
            known[key], more = timed_compile(lowered)
            seconds += more
        compiled[job.name] = known[key]
    return compiled, seconds


def batch_key(seed: int, name: str, batch: int) -> np.ndarray:
    """Key data of an evaluation batch, a function of (seed, evaluation, batch): uint32[2]."""
    data = zlib.crc32(f"{name}:{batch}".encode())
    first, second = key_data(seed)
    return np.array([first ^ data, second ^ zlib.crc32(name.encode())], np.uint32)


def first_carry(job: Scheduled) -> PyTree:
    """What the first batch of an evaluation gets as carry; None for none."""
    return None if job.evaluation.carry is None else job.evaluation.carry(job.batch_size)


def collect(
    job: Scheduled,
    last: bool,
    run: RunBatch,
    carry: PyTree,
    parts: Sequence[Callable[[PyTree], PyTree]] = (lambda values: values,),
) -> list[Any]:
    """The results of all batches: float64 totals, or rows without padding, on the host.

    Results are read one batch late, so that the device never waits.

    `parts` takes each run's part out of a result: one result comes back for each. `last` says that
    the step before it was the last, `carry` is what the first batch gets.
    """
    chosen = job.chosen(last)
    if job.evaluation.carry is not None:
        chosen = list(range(len(chosen)))  # a carry goes from a batch to the one after it
    results: list[list[PyTree]] = [[] for _ in parts]

    def read(batch: int, result: PyTree) -> None:
        host = jax.device_get(result)
        rows = min(job.batch_size, len(job.examples) - batch * job.batch_size)
        for kept, part in zip(results, parts, strict=True):
            if job.evaluation.keeps == "sums":
                kept.append(jax.tree.map(lambda x: np.asarray(x, np.float64), part(host)))
            else:
                kept.append(jax.tree.map(lambda x: np.asarray(x)[:rows], part(host)))

    pending: tuple[int, PyTree] | None = None
    for i in chosen:
        result, carry = run(i, carry)
        if pending is not None:
            read(*pending)
        pending = (i, result)
    if pending is not None:
        read(*pending)
    join = sum if job.evaluation.keeps == "sums" else np.concatenate
    return [jax.tree.map(lambda *leaves: join(leaves), *kept) for kept in results]


def spread(count: int, limit: int | None) -> list[int]:
    """At most `limit` of `count` batches, evenly over the split; None takes them all.

    The first ones would be of the first documents alone, in a mixture of its first member alone.
    """
    taken = count if limit is None else min(count, limit)
    return [(2 * i + 1) * count // (2 * taken) for i in range(taken)]


def numbers(results: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The numbers of evaluations by name, as NAME/KEY for the metrics stream."""
    return {
        f"{name}/{key}": float(value)
        for name, values in results.items()
        for key, value in values.items()
        if files.is_number(value)
    }


def pictures_saved(
    folder: pathlib.Path, step: int, values: Mapping[str, Any], write: bool = True
) -> dict[str, Any]:
    """The values of an evaluation with each picture (uint8 [H, W, 3]) as the name of its PNG file.

    The files are for `RUN/evaluations/NAME`, and written by the process that is told to `write`.
    """
    kept = dict(values)
    for key, value in values.items():
        if isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 3:
            path = folder / f"{step:08d}_{key}.png"
            kept[key] = path.name
            if write:
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(value).save(path)
    return kept


class MetricError(ValueError):
    """The metric that early stopping and `checkpoint.keep_best` watch is not there."""


@dataclasses.dataclass
class EarlyStopping:
    """Stops when a metric has not improved for `patience` evaluations.

    Its state is a function of the metrics stream, so a resumed run replays the stream
    (`replay`) instead of saving anything, and one that went back forgets what it takes back.
    """

    metric: str
    mode: str
    patience: int | None
    min_delta: float = 0.0
    history: dict[int, float] = dataclasses.field(default_factory=dict)

    def update(self, step: int, values: Mapping[str, float]) -> bool:
        """Takes in the evaluation after `step`; True when the run should end. Raises as `watched`."""
        if self.patience is None:
            return False
        # Steps go back only in a rollback, which repeats these evaluations.
        self.history = {s: v for s, v in self.history.items() if s < step}
        self.history[step] = self.watched(values)
        return self.stopped(step)

    def watched(self, values: Mapping[str, float]) -> float:
        """The value of the watched metric; MetricError if it is not among the values."""
        if self.metric not in values:
            names = ", ".join(values)
            raise MetricError(
                f"eval.stop_metric={self.metric!r} is not evaluated; give one of {names}"
            )
        return values[self.metric]

    def stopped(self, step: int) -> bool:
        """Whether the evaluation after `step` is where the run ends."""
        if self.patience is None or step not in self.history:
            return False
        sign = 1.0 if self.mode == "min" else -1.0
        best: float | None = None
        since_best = 0
        for value in (v for s, v in self.history.items() if s <= step):
            improved = best is None or sign * (best - value) > self.min_delta
            best, since_best = (value, 0) if improved else (best, since_best + 1)
        return since_best >= self.patience

    def replay(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Takes in the evaluations of the stream's earlier lines."""
        for line in lines:
            if self.metric in line:
                self.update(line["step"], line)
