"""What the smaller runs of a sweep say beside their loss: seconds per step, and what they held fixed."""

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from scaling import configs
from scaling.laws.fitting import fit
from scaling.laws.forecasting import simulate
from scaling.laws.law import Law, LawError, Variable, coefficient, offset
from scaling.laws.losses import Loss
from scaling.laws.resample import bootstrap
from scaling.planning.quantities import Quantity
from scaling.planning.target import PlannedRun
from scaling.track.run_dir import RunDirError, UsedDevices, find_runs
from scaling.track.stream import StreamError

MIN_RUNS = 4
RESAMPLES = 400

# A step costs a constant (dispatch, small kernels) and its products of matrices at some rate.
STEP_TIME = Law(
    name="step_time",
    equation="t = t_0 + c F",
    variables=(Variable("step_flops", "F", "FLOP"),),
    parameters=(offset("t_0", (0.0, 10.0)), coefficient("c", (1e-18, 1e-6))),
    formula=lambda p, v: p.t_0 + p.c * v.step_flops,
    linear=("t_0", "c"),
    target=Variable("step_seconds", "t", "seconds"),
)


@dataclasses.dataclass(frozen=True)
class SmallRun:
    """A completed run.

    Attributes:
      device: where it last ran; None if that is not recorded, or was of several kinds.
      step_flops: model FLOPs of an update (`exact`).
      step_seconds: median over the lines of its stream; None if it kept none, or if it trained
        beside others in one program, which shared its time.
    """

    config: dict[str, Any]
    device: UsedDevices | None
    step_flops: float
    step_seconds: float | None


def find(folder: pathlib.Path) -> list[SmallRun]:
    """Completed runs below `folder`; none where it is a table of runs that are elsewhere."""
    if folder.is_file() and (folder.parent / "sweep.json").exists():
        folder = folder.parent  # the table that a sweep wrote about its own cells
    runs = []
    for run in find_runs(folder):
        try:
            summary = run.summary
            if summary["status"] != "completed" or not summary["step"]:
                continue
            flops = summary["flops"]["exact"] / summary["step"]
            alone = "population" not in summary
            seconds = run.median("perf/step_seconds") if alone else None
            runs.append(SmallRun(run.config, run.device, flops, seconds))
        except (RunDirError, StreamError, KeyError, TypeError):
            continue  # the reader of the table has listed it among the excluded
    return runs


def step_time(runs: list[SmallRun], target: PlannedRun) -> tuple[Quantity, UsedDevices] | str:
    """Seconds of a step of `target` on the devices of the smaller runs; a reason where none can be.

    t = t_0 + c F is fitted to the runs' medians by least squares of the logarithm.
    """
    timed = [run for run in runs if run.step_seconds and run.device]
    devices = {run.device for run in timed}
    if len(timed) < MIN_RUNS:
        return f"{len(timed)} smaller runs tell their step time; {MIN_RUNS} are needed"
    if len(devices) > 1:
        return f"the smaller runs ran on different devices: {sorted(map(str, devices))}"
    flops = np.array([run.step_flops for run in timed])
    if flops.max() < 1.2 * flops.min():
        return "the smaller runs all have steps of one size"
    seconds = np.array([run.step_seconds for run in timed])
    columns = {"step_flops": flops, "step_seconds": seconds}
    (device,) = devices
    assert device is not None
    try:
        result = fit(columns, STEP_TIME, Loss("lsq"))
        draws = bootstrap(result, RESAMPLES)
        simulated = simulate(result, {"step_flops": target.step_flops}, draws)
    except LawError as error:
        return f"the step times of the smaller runs cannot be fitted: {error}"
    beyond = target.step_flops / flops.max()
    source = (
        f"t = t_0 + c F fitted to {len(timed)} smaller runs on {device}; "
        f"FLOPs per step {beyond:.3g} times their largest"
    )
    return Quantity.from_draws(simulated.value, simulated.runs, draws, "seconds", source), device


# What a sweep varies by nature; all else that a target does differently is worth a warning.
_VARIED = (
    *("name", "seed", "train.steps", "train.init_from", "model", "checkpoint", "track", "mesh"),
    *("platform", "eval", "data.workers", "data.prefetch", "data.cache_dir"),
)


def differences(runs: list[SmallRun], target: PlannedRun, limit: int = 8) -> list[str]:
    """Settings that all smaller runs share and the target does not have: no law covers those."""
    if not runs:
        return []
    leaves = [configs.flatten(run.config) for run in runs]
    wanted = configs.flatten(json.loads(configs.to_json(target.config)))
    differ = [
        f"{key} is {wanted[key]!r}, in all smaller runs {value!r}"
        for key, value in sorted(leaves[0].items())
        if key in wanted
        and wanted[key] != value
        and all(leaf.get(key) == value for leaf in leaves)
        and not any(key == varied or key.startswith(varied + ".") for varied in _VARIED)
    ]
    more = [f"and {len(differ) - limit} further keys differ"] if len(differ) > limit else []
    return differ[:limit] + more
