"""Runs of several lengths for the price of little more than one: trunks and branches.

Under warm-up, stable, decay (`optim.schedule.name=wsd`) runs that differ in their length alone do
the same work until the first of them decays (Haegele et al. 2024, arXiv:2405.18392). The longest is
the trunk: an ordinary run that keeps its checkpoints at the branch points. Every other run is a
branch: its directory begins with a copy of the trunk's checkpoint and lines, and it resumes from
there as after a kill. So a branch is bit-equal to the run from scratch, on the same machine.
"""

import dataclasses
import os
import pathlib
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from scaling import configs
from scaling.sweeps.design import Cell
from scaling.track import files, provenance, sealed
from scaling.track.run_dir import CONFIG, PROVENANCE
from scaling.track.stream import METRICS, read_metrics

if TYPE_CHECKING:
    from scaling.experiment import Experiment

# What runs may differ in that share a trunk: the length, and when the decay begins.
_LENGTHS = ("train.steps", "optim.schedule.decay_steps", "optim.schedule.decay_fraction")


class TrunkError(ValueError):
    """A run cannot branch off another; says why."""


@dataclasses.dataclass(frozen=True)
class Branch:
    """Where a cell leaves its trunk: the trunk's id, and the updates that the two share."""

    trunk: str
    step: int


def stable_until(config: "Experiment") -> int:
    """The last step that does not depend on the run's length, by all of its schedules; or TrunkError."""
    schedules = {"optim.schedule": config.optim.schedule}
    for name, group in (config.optim.get("groups") or {}).items():
        if group.schedule is not None:
            schedules[f"optim.groups.{name}.schedule"] = group.schedule
    return min(_stable(key, schedule, config.train.steps) for key, schedule in schedules.items())


def _stable(key: str, schedule: Any, steps: int) -> int:
    if schedule.name != "wsd":
        raise TrunkError(
            f"{key}.name={schedule.name}: its rates depend on the length of the run from the start; "
            "runs share a trunk under wsd"
        )
    if schedule.warmup_steps is None and schedule.warmup_fraction:
        raise TrunkError(
            f"{key}.warmup_fraction={schedule.warmup_fraction}: the warm-up moves with the length "
            f"of the run; give {key}.warmup_steps"
        )
    decay = schedule.decay_steps
    return steps - (round(schedule.decay_fraction * steps) if decay is None else decay)


def branch_point(config: "Experiment", trunk: "Experiment") -> int:
    """Updates that a run shares with a longer one, its trunk.

    Raises:
      TrunkError: they differ in more than the length, or the trunk decays before the branch does.
    """
    if _family(config) != _family(trunk):
        differences = configs.format_differences(configs.diff(config, trunk), "branch", "trunk")
        raise TrunkError(f"the runs differ in more than their length:\n{differences}")
    step, end = stable_until(config), stable_until(trunk)
    if step < 1 or step > end:
        raise TrunkError(
            f"the branch of {config.train.steps} steps decays from step {step} on, and the trunk "
            f"of {trunk.train.steps} steps from step {end} on, so in step {min(step, end) + 1} "
            "their learning rates differ; shorten the trunk's decay"
        )
    return step


def plan(cells: Sequence[Cell]) -> dict[str, Branch]:
    """The cells that are branches. Those that cannot share, and the trunks, are not in it."""
    return {id_: branch for id_, branch in _candidates(cells) if isinstance(branch, Branch)}


def notes(cells: Sequence[Cell]) -> list[str]:
    """A note on runs under warm-up, stable, decay that could share a trunk and do not."""
    errors = [error for _, error in _candidates(cells) if isinstance(error, TrunkError)]
    what = f"{len(errors)} cells differ from longer ones in length alone and share no trunk"
    return [f"{what}: {errors[0]}"] if errors else []


def _candidates(cells: Sequence[Cell]) -> list[tuple[str, Branch | TrunkError]]:
    """Cells under wsd with a longer sibling, and their branch or the reason why there is none."""
    stable = [cell for cell in cells if cell.config.optim.schedule.name == "wsd"]
    families = {cell.id: _family(cell.config) for cell in stable}
    by_length = sorted(stable, key=lambda cell: (cell.config.train.steps, cell.id))
    trunks = {families[cell.id]: cell for cell in by_length}
    pairs: list[tuple[str, Branch | TrunkError]] = []
    for cell in stable:
        trunk = trunks[families[cell.id]]
        if cell.id == trunk.id:
            continue
        try:
            pairs.append((cell.id, Branch(trunk.id, branch_point(cell.config, trunk.config))))
        except TrunkError as error:
            pairs.append((cell.id, error))
    return pairs


def _family(config: "Experiment") -> str:
    """A key that runs share which differ in their length alone."""
    return configs.fingerprint(config, leave_out=_LENGTHS)


def with_branch_points(cells: Sequence[Cell]) -> list[Cell]:
    """The cells in their order; trunks keep checkpoints at the branch points. Ids stay."""
    points: dict[str, set[int]] = {}
    for branch in plan(cells).values():
        points.setdefault(branch.trunk, set()).add(branch.step)
    kept = []
    for cell in cells:
        saved = cell.config.checkpoint
        steps = tuple(sorted(points.get(cell.id, set()) | set(saved.keep_steps)))
        config = dataclasses.replace(
            cell.config, checkpoint=dataclasses.replace(saved, keep_steps=steps)
        )
        kept.append(dataclasses.replace(cell, config=config))
    return kept


def ready(trunk: pathlib.Path, step: int) -> bool:
    """Whether the trunk's directory has a whole checkpoint at the branch point."""
    from scaling.train import checkpoint_format as layout

    return layout.step_path(trunk / "checkpoints", step).is_dir()


def seed(branch: pathlib.Path, trunk: pathlib.Path, step: int) -> bool:
    """Begins a branch's run directory, in which its config.json is, with what it shares with its trunk.

    Files of the checkpoint are linked, not copied, where the file system can. A kill in the middle
    leaves a directory that this function, called again, completes. The trunk may still be running.

    Returns:
      False when the branch has begun already: nothing is done then.

    Raises:
      TrunkError: the two cannot share these steps, or the trunk has no checkpoint there.
    """
    from scaling.train import checkpoint_format as layout

    if layout.find_steps(branch / "checkpoints"):
        return False
    point = branch_point(_config(branch), _config(trunk))
    if point != step:
        raise TrunkError(f"{branch} leaves its trunk at step {point}, not at {step}")
    source = layout.step_path(trunk / "checkpoints", step)
    if not source.is_dir():
        raise TrunkError(
            f"{trunk} has checkpoints of steps {layout.find_steps(trunk / 'checkpoints')} and not of "
            f"step {step}; set --config.checkpoint.keep_steps='({step},)' there, or run {branch.name} "
            "on its own"
        )
    _copy_records(branch, trunk, step)
    _write_provenance(branch, trunk, step)
    target = layout.step_path(branch / "checkpoints", step)
    temporary = target.with_name(f"{layout.TEMPORARY}{target.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, temporary, copy_function=_link)
    temporary.rename(target)
    files.sync_directory(target.parent)
    return True


def _copy_records(branch: pathlib.Path, trunk: pathlib.Path, step: int) -> None:
    """Lines of the stream and bad steps up to the branch point."""
    lines = [line for line in read_metrics(trunk) if line["step"] <= step]
    files.write_text(branch / METRICS, "".join(files.to_json(line) + "\n" for line in lines))
    for path in sorted((trunk / "bad_steps").glob("step_*.json")):
        if files.read_json(path)["step"] <= step:
            (branch / "bad_steps").mkdir(exist_ok=True)
            shutil.copyfile(path, branch / "bad_steps" / path.name)


def _write_provenance(branch: pathlib.Path, trunk: pathlib.Path, step: int) -> None:
    if (branch / PROVENANCE).exists():
        return
    fingerprint = configs.fingerprint(_config(branch))
    source = files.read_json(trunk / PROVENANCE)
    first = {
        **source["attempts"][-1],
        "time": provenance.now(),
        "config_changes": [],
        "trunk": {"directory": str(trunk), "run_id": source["fingerprint"], "step": step},
    }
    forecast = sealed.forecast_of(branch, fingerprint)
    record = {"fingerprint": fingerprint, "forecast": forecast, "attempts": [first]}
    files.write_json(branch / PROVENANCE, record)


def _config(directory: pathlib.Path) -> "Experiment":
    return configs.from_json((directory / CONFIG).read_text(encoding="utf-8"))


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
