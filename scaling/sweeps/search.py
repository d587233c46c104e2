"""Hyper-parameter search: Optuna proposes cells, the sweep runs them, Optuna is told.

    def get_search(arg: str = "") -> Search:
        return Search(
            base="experiments/quickstart.py",
            space={"optim.learning_rate": Float(1e-3, 1e-1, log=True)},
        )

    python -m scaling.sweeps.search --search=FILE --workdir=DIR --trials=32 --batch=16

A trial is a cell of a sweep: same ids, directories, ledger, launchers' workers. Trials are proposed in
batches, so that a batch which differs in numbers alone trains as one population; all its members
report an evaluation before any of them is pruned. The search itself lies in the sweep's directory,
search.json (what it is) and search.journal (Optuna's own storage): started again after a kill, it
finishes the trials that were running, then proposes more.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from scaling import cli, configs
from scaling.configs import ConfigError
from scaling.configs.files import import_file, split_spec
from scaling.sweeps import sweep_dir
from scaling.sweeps.design import Cell, label, with_settings
from scaling.sweeps.pruning import handle
from scaling.sweeps.search_study import (
    Choice,
    Float,
    Integer,
    Search,
    SearchError,
    distributions,
    open_study,
)
from scaling.track.run_dir import read_summary
from scaling.track.stream import read_metrics

__all__ = [
    "Choice",
    "Float",
    "Integer",
    "Search",
    "SearchError",
    "best",
    "open_study",
    "propose",
    "run",
    "tell",
]

# --- asking and telling ----------------------------------------------------------------------


def propose(folder: pathlib.Path, search: Search, n: int) -> list[Cell]:
    """Up to `n` cells to run next; first those that were proposed before and have not ended.

    Fewer when a grid is exhausted. Cells of a batch may be equal (a sampler may repeat itself):
    each comes once.

    Raises:
      ConfigError: a proposed config cannot run; names the trial.
      SearchError: see `open_study`.
    """
    from optuna.trial import TrialState

    study = open_study(folder, search)
    waiting = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    found: dict[str, Cell] = {}
    for trial in waiting:
        if set(trial.params) != set(search.space):
            # Killed while it was being proposed.
            study.tell(trial.number, state=TrialState.FAIL)
        elif len(found) < n:
            cell = _cell(search, trial.number, trial.params)
            found[cell.id] = cell
    space = distributions(search.space)
    for _ in range(n - len(found)):
        queued = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        if search.sampler == "grid" and not queued:
            break
        trial = study.ask(space)
        cell = _cell(search, trial.number, trial.params)
        trial.set_user_attr("cell", cell.id)
        found.setdefault(cell.id, cell)
    return list(found.values())


def _cell(search: Search, number: int, params: Mapping[str, Any]) -> Cell:
    base = configs.load(search.base) if isinstance(search.base, str) else search.base
    axes = {key.rpartition(".")[2]: value for key, value in params.items()}
    try:
        config = configs.resolve(with_settings(configs.plain(base), params))
    except ConfigError as error:
        where = f"trial {number} ({label(axes)})"
        raise ConfigError(error.key, f"{error.reason}, in {where}", error.remedy) from error
    name = configs.fingerprint(config)
    config = dataclasses.replace(config, name=f"search-{number}")
    return Cell(name, config, axes | {"trial": number})


def tell(folder: pathlib.Path, search: Search) -> dict[int, str]:
    """Tells Optuna what became of the trials that have ended since; {trial: status}.

    A run that diverged counts as pruned: the sampler then knows the place to be bad.
    """
    from optuna.trial import TrialState

    study = open_study(folder, search)
    told: dict[int, str] = {}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if set(trial.params) != set(search.space):
            continue
        run = folder / "cells" / _cell(search, trial.number, trial.params).id
        summary = read_summary(run) or {}
        status = summary.get("status")
        if status not in ("completed", "diverged", "pruned"):
            continue
        with handle(study, trial.number) as reporter:
            last = _report_stream(reporter, run, search.metric)
        if status == "completed" and last is not None:
            study.tell(trial.number, last)
        else:
            state = TrialState.FAIL if status == "completed" else TrialState.PRUNED
            study.tell(trial.number, state=state)
        told[trial.number] = status
    return told


def _report_stream(handle: Any, run: pathlib.Path, metric: str) -> float | None:
    """Reports every value of the stream that the study has not; the last one."""
    known = handle.study.trials[handle.number].intermediate_values
    last: float | None = None
    for line in read_metrics(run):
        if metric in line:
            last = float(line[metric])
            if line["step"] not in known:
                handle.report(last, line["step"])
    return last


def best(folder: pathlib.Path, search: Search) -> dict[str, Any] | None:
    """{trial, value, params, cell} of the best trial that has completed; None before one has."""
    from optuna.trial import TrialState

    study = open_study(folder, search)
    if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        return None
    trial = study.best_trial
    cell = _cell(search, trial.number, trial.params)
    return {"trial": trial.number, "value": trial.value, "params": trial.params, "cell": cell.id}


# --- the loop --------------------------------------------------------------------------------


def run(folder: pathlib.Path, search: Search, trials: int, batch: int, name: str) -> int:
    """Proposes and runs batches until `trials` have ended; returns the exit code.

    Raises:
      ConfigError: a proposed config cannot run.
      SearchError: see `open_study`.
    """
    from optuna.trial import TrialState

    from scaling.sweeps import worker
    from scaling.train.signals import EXIT_PREEMPTED

    cells: dict[str, Cell] = {}
    while True:
        tell(folder, search)
        study = open_study(folder, search)
        for trial in study.get_trials(deepcopy=False):
            if set(trial.params) == set(search.space):
                cell = _cell(search, trial.number, trial.params)
                cells.setdefault(cell.id, cell)
        ended = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
        left = trials - len(ended)
        chosen = propose(folder, search, min(batch, left)) if left > 0 else []
        if not chosen:
            break
        cells |= {cell.id: cell for cell in chosen}
        sweep_dir.claim(folder, name, list(cells.values()))
        code = worker.work(folder, [cell.id for cell in chosen])
        if code == EXIT_PREEMPTED:
            return code
        _give_up(study, folder, chosen, search)
        done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        print(f"{len(ended)} of {trials} trials ended, {len(done)} completed", flush=True)
    found = best(folder, search)
    if found is None:
        print("no trial has completed", file=sys.stderr)
        return 1
    print(f"best: trial {found['trial']}, {search.metric} {found['value']:.6g}")
    print("\n".join(f"  {key} = {value!r}" for key, value in found["params"].items()))
    print(f"  in {folder / 'cells' / found['cell']}")
    return 0


def _give_up(study: Any, folder: pathlib.Path, cells: Sequence[Cell], search: Search) -> None:
    """Trials whose cells have failed for good are failed, so that the search goes on."""
    from optuna.trial import TrialState

    from scaling.sweeps import ledger, worker

    tell(folder, search)
    found = ledger.states(sweep_dir.open_sweep(folder), worker.TRIES, [cell.id for cell in cells])
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if found.get(trial.user_attrs.get("cell", "")) == "failed":
            study.tell(trial.number, state=TrialState.FAIL)


OPTIONS = (
    cli.Option("search", "The search, and the argument of its get_search.", "FILE[:ARG]"),
    cli.Option("workdir", "Where the search lives. Default: runs/NAME of the file.", "DIR"),
    cli.Option("trials", "End when so many trials have ended; default 32.", "N", "integer"),
    cli.Option("batch", "Trials proposed at once; default 16.", "N", "integer"),
)


def door(argv: Sequence[str]) -> int:
    """Does what the command line says.

    Raises:
      ConfigError: the command line, the file or a proposed config is wrong.
    """
    values, _ = cli.read(argv, OPTIONS, (__doc__ or "").partition("    python")[0])
    if "search" not in values:
        raise ConfigError("--search", "is required", "write --search=FILE[:ARG]")
    path, argument = split_spec(values["search"])
    get_search = getattr(import_file(path), "get_search", None)
    if get_search is None:
        raise ConfigError("--search", f"{path} has no function get_search", "define it")
    search = get_search(argument) if argument else get_search()
    folder = pathlib.Path(values.get("workdir", f"runs/{path.stem}")).absolute()
    try:
        return run(folder, search, values.get("trials", 32), values.get("batch", 16), path.stem)
    except (SearchError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(cli.run(door, sys.argv[1:]))
