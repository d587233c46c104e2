"""A run that has been, opened again to look at: its program, its data, its states. Writes nothing."""

import json
import pathlib
from collections.abc import Callable

from scaling import configs, data, parallel
from scaling.track import compile_cache
from scaling.track.files import to_json
from scaling.train.checkpoints import Checkpoints
from scaling.train.evaluate import scorer
from scaling.train.program import Program, build_program, timed_compile
from scaling.train.state import TrainState


class ReopenError(RuntimeError):
    """There is no such run, or it lacks what is asked of it."""


def open_run(run_dir: pathlib.Path) -> tuple[Program, data.Data]:
    """The program and the data of a run directory, on the devices that are here.

    Raises:
      ReopenError: it is no run directory.
    """
    path = run_dir / "config.json"
    if not path.exists():
        raise ReopenError(f"{run_dir} is no run directory: it has no config.json")
    config = configs.from_json(path.read_text(encoding="utf-8"))
    compile_cache.enable()
    built = data.build(config)
    return build_program(config, built.info, parallel.make_mesh(config.mesh)), built


def newest_state(
    run_dir: pathlib.Path,
    program: Program,
    wanted: Callable[[int], bool],
    say: Callable[[str], None] = print,
) -> tuple[int, TrainState] | None:
    """The newest checkpointed (step, state) whose step is wanted, or None."""
    checkpoints = Checkpoints(run_dir, read_only=True)
    steps = [step for step in checkpoints.steps() if wanted(step)]
    if not steps:
        return None
    step, state, notes = checkpoints.restore(program.abstract, max(steps))
    for note in notes:
        say(note)
    return step, state


def evaluate(run_dir: pathlib.Path, step: int | None = None) -> int:
    """Scores a checkpoint on the whole held-out data and prints one JSON object.

    Args:
      run_dir: run directory.
      step: of the checkpoint; None takes the newest.

    Raises:
      ReopenError: there is no run, no such checkpoint, or nothing was held out.
    """
    program, built = open_run(run_dir)
    if not built.evals:
        raise ReopenError(f"{run_dir} holds no data out (data.eval_fraction=0)")
    lines: list[str] = []
    found = newest_state(run_dir, program, lambda s: step in (None, s), lines.append)
    if found is None:
        there = Checkpoints(run_dir, read_only=True).steps()
        raise ReopenError(f"{run_dir} has no checkpoint of step {step}; it has {there}")
    at, state = found
    compiled, _ = timed_compile(program.lower_evaluate())
    params = state.params if state.ema is None else state.ema
    scores = {
        name: scorer(program, compiled, split)(params, state.extra, None)
        for name, split in built.evals.items()
    }
    result = {"step": at, **scores, **({"notes": lines} if lines else {})}
    print(json.dumps(json.loads(to_json(result)), indent=2))
    return 0
