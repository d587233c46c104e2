"""Hyper-parameter search: Optuna proposes cells, the sweep runs them, Optuna is told the results.

    def get_search(arg: str = "") -> Search:
        return Search(
            base="experiments/quickstart.py",
            space={"optim.learning_rate": Float(1e-3, 1e-1, log=True)},
        )

    python -m scaling.sweep --search=FILE --workdir=DIR --trials=32 --batch=16

A trial is a cell of a sweep, with the same ids, directories, ledger and workers. Trials are proposed
in batches, so that a batch which differs in numbers alone trains as one population; all its members
report an evaluation before any of them is pruned. The search itself lies in the sweep's directory,
search.json (what it is) and search.journal (Optuna's own storage): started again after a kill, it
finishes the trials that were running, then proposes more.
"""

import dataclasses
import pathlib
import sys
from typing import TYPE_CHECKING, Any

from scaling.sweeps import sweep_dir, worker
from scaling.sweeps.design import Base, Cell, Point, make_cell, plain_base
from scaling.sweeps.ledger import Ledger
from scaling.sweeps.study import (
    Choice,
    Float,
    Integer,
    Search,
    SearchError,
    distributions,
    live_trial,
    open_study,
)
from scaling.track.run_dir import read_run
from scaling.track.stream import read_metrics
from scaling.train.signals import EXIT_PREEMPTED

if TYPE_CHECKING:
    import optuna

TRIALS, BATCH = 32, 16

__all__ = ["Choice", "Float", "Integer", "Search", "SearchError", "best", "propose", "run", "tell"]


def propose(folder: pathlib.Path, search: Search, n: int) -> list[Cell]:
    """Up to `n` cells to run next; first those that were proposed before and have not ended.

    Fewer when a grid is exhausted, or where a sampler repeats itself. Raises ConfigError, which names
    the trial, where a proposed config cannot run, and SearchError as `open_study`.
    """
    study, base = open_study(folder, search), plain_base(search.base)
    space = distributions(search.space)
    cells: dict[str, Cell] = {}
    for trial in _trials(study, "RUNNING"):
        if set(trial.params) != set(space):  # killed while it was being proposed
            _end(study, trial.number, "FAIL")
        elif len(cells) < n:
            _add(cells, base, live_trial(study, trial.number))
    for _ in range(n - len(cells)):
        if search.sampler == "grid" and not _trials(study, "WAITING"):
            break
        _add(cells, base, study.ask(space))
    return list(cells.values())


def _add(cells: dict[str, Cell], base: Base, trial: "optuna.Trial") -> None:
    axes = {key.rpartition(".")[2]: value for key, value in trial.params.items()}
    cell = make_cell(base, Point(trial.params, axes), f"trial {trial.number}")
    trial.set_user_attr("cell", cell.id)
    config = dataclasses.replace(cell.config, name=f"search-{trial.number}")
    cells.setdefault(cell.id, Cell(cell.id, config, axes | {"trial": trial.number}))


def _trials(study: "optuna.Study", state: str) -> "list[optuna.trial.FrozenTrial]":
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == state]


def _end(study: "optuna.Study", number: int, state: str) -> None:
    from optuna.trial import TrialState

    study.tell(number, state=TrialState[state])


def tell(folder: pathlib.Path, search: Search) -> dict[int, str]:
    """Tells Optuna how the trials ended that have ended since; {trial: status}.

    A run that diverged counts as pruned: the sampler then knows the place to be bad.
    """
    study = open_study(folder, search)
    statuses: dict[int, str] = {}
    for trial in _trials(study, "RUNNING"):
        run = folder / "cells" / trial.user_attrs.get("cell", "none yet")
        status = read_run(run).summary.get("status")
        if status not in sweep_dir.ENDS:
            continue
        last = _report_stream(study, trial.number, run, search.metric)
        if status == "completed" and last is not None:
            study.tell(trial.number, last)
        else:
            _end(study, trial.number, "FAIL" if status == "completed" else "PRUNED")
        statuses[trial.number] = status
    return statuses


def _report_stream(
    study: "optuna.Study", number: int, run: pathlib.Path, metric: str
) -> float | None:
    """Reports every value of the stream that the study lacks; returns the last value."""
    known = study.trials[number].intermediate_values
    values = {line["step"]: float(line[metric]) for line in read_metrics(run) if metric in line}
    for step, value in values.items():
        if step not in known:
            live_trial(study, number).report(value, step)
    return list(values.values())[-1] if values else None


def best(folder: pathlib.Path, search: Search) -> dict[str, Any] | None:
    """{trial, value, params, cell} of the best trial that has completed; None before one has."""
    study = open_study(folder, search)
    if not _trials(study, "COMPLETE"):
        return None
    trial, cell = study.best_trial, study.best_trial.user_attrs["cell"]
    return {"trial": trial.number, "value": trial.value, "params": trial.params, "cell": cell}


def run(
    folder: pathlib.Path, search: Search, trials: int = TRIALS, batch: int = BATCH, name: str = ""
) -> int:
    """Proposes and runs batches until `trials` have ended, then names the best; the exit code.

    Raises as `propose`.
    """
    while True:
        tell(folder, search)
        study = open_study(folder, search)
        ended = sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))
        chosen = propose(folder, search, min(batch, trials - ended)) if ended < trials else []
        if not chosen:
            return _report_best(folder, search)
        known: dict[str, Cell] = {}
        if (folder / sweep_dir.SWEEP).exists():
            old = sweep_dir.open_sweep(folder)
            known = {cell: old.cell(cell) for cell in old.ids}
        cells = known | {cell.id: cell for cell in chosen}
        sweep = sweep_dir.claim(folder, name, list(cells.values()))
        code = worker.work(folder, [cell.id for cell in chosen])
        if code == EXIT_PREEMPTED:
            return code
        tell(folder, search)
        states = Ledger(sweep).states(worker.TRIES)
        for trial in _trials(study, "RUNNING"):
            if states.get(trial.user_attrs.get("cell", "")) == "failed":
                _end(study, trial.number, "FAIL")
        print(progress(study, trials), flush=True)


def progress(study: "optuna.Study", trials: int) -> str:
    """How many trials have ended and completed, now: "12 of 12 trials ended, 11 completed"."""
    states = [trial.state for trial in study.get_trials(deepcopy=False)]
    ended = sum(state.is_finished() for state in states)
    completed = sum(state.name == "COMPLETE" for state in states)
    return f"{ended} of {trials} trials ended, {completed} completed"


def _report_best(folder: pathlib.Path, search: Search) -> int:
    trial = best(folder, search)
    if trial is None:
        print("no trial has completed", file=sys.stderr)
        return 1
    print(f"best: trial {trial['trial']}, {search.metric} {trial['value']:.6g}")
    print("\n".join(f"  {key} = {value!r}" for key, value in trial["params"].items()))
    print(f"  in {folder / 'cells' / trial['cell']}")
    return 0
