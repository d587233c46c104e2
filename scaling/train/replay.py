"""Doing one step of a run again, looking closer: `python -m scaling.main --replay=RUN --step=N`.

Batches and random keys are functions of (config, seed, step), so going forward from the newest
checkpoint before the step (or from the seed) gives the very step that went wrong. Nothing is
written.
"""

import json
import pathlib
from typing import Any

import jax
import numpy as np

from scaling import data, parallel
from scaling.data.loader import leave_out
from scaling.train.bad_steps import BadSteps
from scaling.train.program import Program, within_rules
from scaling.train.reopen import OpenRun, open_run
from scaling.train.state import TrainState
from scaling.train.step import sum_gradients


class ReplayError(RuntimeError):
    """The step cannot be replayed."""


def replay(run_dir: pathlib.Path, step: int) -> int:
    """Replays a step, from 1; prints metrics, examples and the gradient norm of every parameter.

    Returns:
      0; 1 when the run recorded this step as bad and the replay gives another loss or norm.

    Raises:
      ReopenError: there is no such run.
      ReplayError: there is no such step, or no way to it.
    """
    run = open_run(run_dir)
    program, config, built = run.program, run.config, run.data()
    if not 1 <= step <= config.train.steps:
        raise ReplayError(f"--step={step} is outside of the run's steps 1 to {config.train.steps}")
    bad = BadSteps(run_dir / "bad_steps", config.train.on_bad_step, 0, writes=False)
    start, state = _state_before(run, step)
    print(f"from step {start} on to step {step}")
    for i in range(start, step - 1):
        left_out = i + 1 in bad.left_out
        state, _ = program.step(state, _batch(program, built, i, left_out), program.hparams())
    batch = _batch(program, built, step - 1, False)
    norms = _gradient_norms(program, state, batch)
    _, metrics = program.step(state, batch, program.hparams())
    values = {name: np.asarray(value).tolist() for name, value in jax.device_get(metrics).items()}
    ids = built.train.indices(step - 1)
    print(f"examples: {' '.join(map(str, ids.tolist()))}")
    for name, value in values.items():
        print(f"  {name:24} {value!r}")
    print("gradient norm by parameter, largest first, non-finite before all:")
    for name, norm in sorted(norms.items(), key=lambda x: -x[1] if np.isfinite(x[1]) else -np.inf):
        print(f"  {norm:14.6g}  {name}")
    return _compare(bad, step, values)


def _state_before(run: OpenRun, step: int) -> tuple[int, TrainState]:
    saved_state = run.state(lambda saved: saved < step)
    if saved_state:
        return saved_state
    if run.config.train.init_from:
        raise ReplayError(
            f"no checkpoint before step {step} is left in {run.path}, and the run did not start "
            "from its seed (train.init_from); keep more with checkpoint.keep_last"
        )
    return 0, run.program.fresh_state()


def _batch(program: Program, built: data.Data, step: int, left_out: bool) -> dict[str, jax.Array]:
    def fetch(start: int, stop: int) -> dict[str, np.ndarray]:
        rows = built.train.batch(step, start, stop)
        if left_out:
            leave_out(rows)
        return rows

    return parallel.put_batch(fetch, program.train_batch, program.mesh)


def _gradient_norms(
    program: Program, state: TrainState, batch: dict[str, jax.Array]
) -> dict[str, float]:
    """Norm of every parameter's mean gradient, before clipping."""

    def norms(state: TrainState, batch: dict[str, jax.Array], hparams: dict[str, jax.Array]) -> Any:
        accumulate = program.config.train.accumulate
        loss, grads = sum_gradients(
            program.task, program.optimizer, state, batch, hparams, accumulate
        )
        return jax.tree.map(lambda g: jax.numpy.linalg.norm(g.ravel()) / loss.weight, grads)

    # Traced inside the same rules as the step: the same constraints, the same kernels.
    traced = jax.jit(within_rules(program.mesh, program.config.mesh, norms))
    values = jax.device_get(traced(state, batch, program.hparams()))
    leaves = jax.tree_util.tree_flatten_with_path(values)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): float(x) for path, x in leaves}


def _compare(bad: BadSteps, step: int, values: dict[str, float]) -> int:
    """Holds the replay against what the run recorded, if it recorded this step."""
    records = [record for record in bad.records() if record["step"] == step]
    if not records:
        return 0
    recorded = {name: records[0][name] for name in ("loss", "grad_norm")}
    values = {"loss": values.get("loss", values["objective"])} | values
    again = {name: repr(values[name]) for name in recorded}
    if recorded == again:
        print(f"the replay reproduces the recorded bad step: {json.dumps(recorded)}")
        return 0
    print(f"the replay differs: recorded {json.dumps(recorded)}, now {json.dumps(again)}")
    return 1
