"""How long the cells of a sweep will take: by finished ones, else by a step that is timed beforehand.

No config says how many examples are held out or how fast a machine is. Before anything ran a process
of its own (`python -m scaling.sweeps.timing`) prepares the data, as the sweep needs them anyway, and
times the smallest and the largest cell where a worker would run them: this process must not take an
accelerator's memory from the workers.
"""

import functools
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from scaling import configs
from scaling.sweeps.cost import Cost, HeldOut, data_key
from scaling.sweeps.design import Cell
from scaling.sweeps.lease import Heartbeat
from scaling.sweeps.sweep_dir import SWEEP, SweepDir, open_sweep, preview

if TYPE_CHECKING:
    from scaling.experiment import Experiment
    from scaling.train.compiled import Sharded, Turn
    from scaling.train.evaluate import Scheduled

Place: TypeAlias = tuple[Sequence[int], Mapping[str, str]]  # cores, variables

TIMED_SECONDS = 2.0  # of steps, and of evaluation batches, after the first of each
LONGEST_STEP = 5.0  # seconds; a cell whose step takes longer at the smallest's rate is not timed


class Speed(NamedTuple):
    """Of a cell that ran, or was timed.

    Attributes:
      train: exact FLOPs per second of training.
      evaluate: the same of evaluation (forward); None where no evaluation was seen.
      start: seconds of a run beside these two: start, compile, checkpoints.
    """

    params: int
    train: float
    evaluate: float | None
    start: float


class Probe(NamedTuple):
    """What the process found out: {`data_key` of a config: held-out examples by split}, the speeds of
    the timed cells, and what was timed, or why not.
    """

    held_out: Mapping[str, HeldOut]
    speeds: Sequence[Speed]
    note: str


def seen(sweep: SweepDir) -> list[Speed]:
    """The speeds of the completed cells."""
    speeds = []
    for cell, cost in sweep.costs.items():
        summary = sweep.summary(cell)
        spent = summary.get("seconds", {})
        if summary.get("status") != "completed" or not spent.get("train"):
            continue
        # Members of a population trained at the same time.
        share = 1.0 / summary.get("population", {}).get("members", 1)
        beside = ["init", "compile", "checkpoint"]
        evaluate = None
        if cost.eval_flops and spent.get("eval"):
            evaluate = cost.eval_flops / (spent["eval"] * share)
        else:
            beside.append("eval")
        start = share * sum(spent.get(key, 0.0) for key in beside)
        speeds.append(Speed(cost.params, cost.flops / (spent["train"] * share), evaluate, start))
    return speeds


def seconds(cost: Cost, speeds: Sequence[Speed]) -> float | None:
    """What a cell will take; None without any speed.

    Small models are far from a machine's peak, so the logarithms of the rates are interpolated in that
    of the parameters. The time of a start is the median of those seen.
    """
    if not speeds:
        return None
    spent = statistics.median(speed.start for speed in speeds)
    spent += cost.flops / _rate(cost.params, [(speed.params, speed.train) for speed in speeds])
    evaluated = [(speed.params, speed.evaluate) for speed in speeds if speed.evaluate]
    if cost.eval_flops and evaluated:
        spent += cost.eval_flops / _rate(cost.params, evaluated)
    return spent


def _rate(params: int, known: Sequence[tuple[int, float]]) -> float:
    """FLOPs per second at a size, from (params, FLOPs per second); outside them as at the nearest."""
    by_size: dict[int, list[float]] = {}
    for size, rate in known:
        by_size.setdefault(size, []).append(math.log(rate))
    sizes = sorted(by_size)
    rates = [statistics.median(by_size[size]) for size in sizes]
    return math.exp(np.interp(math.log(params), np.log(sizes), rates))


def look(
    workdir: pathlib.Path, name: str, cells: Sequence[Cell], place: Callable[[], Place] | None
) -> tuple[SweepDir, list[Speed], str]:
    """(the sweep with the cost of its evaluations, speeds seen or timed, what they rest on).

    `place` gives the cores of a worker on this machine and its variables; it is None where the workers
    are elsewhere, so that nothing can be timed.
    """
    known = open_sweep(workdir).held_out if (workdir / SWEEP).exists() else {}
    sweep = preview(workdir, name, cells, known)
    speeds = seen(sweep)
    by_data = {data_key(cell.config): cell for cell in cells}
    uncounted = [cell for key, cell in by_data.items() if key not in known]
    basis = "by the finished cells" if speeds else ""
    if (speeds and not uncounted) or all(sweep.ended(cell.id) for cell in cells):
        return sweep, speeds, basis
    if place is None:
        return sweep, speeds, basis or "the time is not known where the workers are elsewhere"
    print("preparing the data and timing steps of the smallest and the largest cell", flush=True)

    def step_flops(cell: Cell) -> float:
        return sweep.costs[cell.id].unit_flops * sweep.costs[cell.id].step_units

    by_size = {step_flops(cell): cell for cell in cells}
    sizes = {} if speeds else dict(sorted(by_size.items()))
    answer = probe(uncounted, sizes, *place())
    sweep = preview(workdir, name, cells, {**known, **answer.held_out})
    return sweep, seen(sweep) or list(answer.speeds), basis or answer.note


def probe(
    cells: Sequence[Cell], sizes: Mapping[float, Cell], cores: Sequence[int], env: Mapping[str, str]
) -> Probe:
    """Asks a process of its own; what goes wrong there is the note.

    `cells` are those whose held-out examples are counted, `sizes` cells by the FLOPs of their step,
    ascending: the smallest is timed, and the largest whose step does not take too long.
    """
    question = {
        "parent": os.getpid(),
        "cores": list(cores),
        "data": {data_key(cell.config): configs.to_json(cell.config) for cell in cells},
        "sizes": [(flops, configs.to_json(cell.config)) for flops, cell in sizes.items()],
    }
    done = subprocess.run(
        [sys.executable, "-m", "scaling.sweeps.timing"],
        input=json.dumps(question),
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        env=os.environ | env,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return Probe({}, [], f"evaluation and time are not in this table: {last}")
    held_out, speeds, note = json.loads(done.stdout.splitlines()[-1])
    return Probe(held_out, [Speed(*speed) for speed in speeds], note)


# --- in that process -------------------------------------------------------------------------


def answer(question: Mapping[str, Any]) -> Probe:
    """What `probe` asks for."""
    if question["cores"]:
        os.sched_setaffinity(0, question["cores"])  # before JAX counts them
    from scaling import data

    held_out = {}
    for key, text in question["data"].items():
        built = data.build(configs.from_json(text))
        held_out[key] = {split: len(examples) for split, examples in built.evals.items()}
    speeds, note = _smallest_and_largest(question["sizes"]) if question["sizes"] else ([], "")
    return Probe(held_out, speeds, note)


def _smallest_and_largest(sizes: Sequence[tuple[float, str]]) -> tuple[list[Speed], str]:
    """Speeds of one or two of the cells (FLOPs of a step, config), and what was measured in words."""
    import jax

    smallest, *rest = sizes
    speeds = [_timed(configs.from_json(smallest[1]))]
    shown = f"a step of the smallest cell takes {smallest[0] / speeds[0].train:.2g} s"
    rest = [size for size in rest if size[0] / speeds[0].train < LONGEST_STEP]
    if rest:
        speeds.append(_timed(configs.from_json(rest[-1][1])))
        larger = "largest" if rest[-1] is sizes[-1] else "largest timed"
        shown += f", of the {larger} {rest[-1][0] / speeds[1].train:.2g} s"
    device, cores = jax.devices()[0], len(os.sched_getaffinity(0))
    on = f"{cores} core{'s' * (cores > 1)}" if device.platform == "cpu" else device.device_kind
    return speeds, f"{shown}, timed alone on {on}"


def _timed(config: "Experiment") -> Speed:
    import jax

    from scaling import data, parallel
    from scaling.track import compile_cache
    from scaling.train.compiled import Turn, compile_sharded
    from scaling.train.program import build_program

    built = data.build(config)
    if config.track.compile_cache:
        compile_cache.enable()
    began = time.perf_counter()
    program = build_program(config, built.info, parallel.make_mesh(config.mesh))
    compiled, _ = compile_sharded(program, built)
    state, hparams = compiled.fresh(config), compiled.place_hparams([config])
    turn, task = Turn.alone(config.seed, 0), program.task
    start = time.perf_counter() - began

    def step(number: int) -> None:
        nonlocal state
        rows = functools.partial(built.train.batch, number % (built.train.num_steps or number + 1))
        state, metrics = compiled.step(state, compiled.place([rows]), hparams, turn)
        jax.block_until_ready(metrics)

    units = config.train.batch_size * task.units_per_example
    train, evaluate = units * task.flops.exact / _pace(step), None
    job = next((job for job in compiled.jobs if job.name == "eval"), None)
    if job is not None:
        run = functools.partial(_evaluate, compiled, job, state.evaluated(), turn)
        units = job.batch_size * task.units_per_example
        evaluate = units * task.flops.forward / _pace(run)
    return Speed(task.params.total, train, evaluate, start)


def _evaluate(
    compiled: "Sharded", job: "Scheduled", variables: dict[str, Any], turn: "Turn", number: int
) -> None:
    """One batch of an evaluation, waited for."""
    import jax

    number %= job.examples.num_batches(job.batch_size)
    jax.block_until_ready(compiled.evaluate(job, number, variables, turn, compiled.carry(job)))


def _pace(run: Callable[[int], None]) -> float:
    """Seconds of a call: the median of those after the first, within `TIMED_SECONDS`."""
    run(0)
    taken: list[float] = []
    end = time.perf_counter() + TIMED_SECONDS
    while not taken or (time.perf_counter() < end and len(taken) < 100):
        began = time.perf_counter()
        run(len(taken) + 1)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def main() -> int:
    """Reads the question, prints the answer as the last line; ends when its sweep is killed."""
    question = json.load(sys.stdin)
    Heartbeat(lambda _: os._exit(1), parent=question["parent"])
    try:
        print(json.dumps(answer(question)))
    except Exception as error:
        print(f"{type(error).__name__}: {error}".replace("\n", " "), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
