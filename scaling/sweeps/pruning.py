"""Which trials of a search end early: what a worker asks after every evaluation."""

import contextlib
import math
import pathlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from scaling.sweeps.search_study import SEARCH, load_study
from scaling.track import files


@contextlib.contextmanager
def handle(study: Any, number: int) -> Iterator[Any]:
    """The trial as an object that takes reports."""
    import optuna

    trial = study.trials[number]
    with warnings.catch_warnings():
        # After a resume a step may be reported again; Optuna keeps the first value, an equal one.
        warnings.filterwarnings("ignore", message=".*already reported.*")
        yield optuna.trial.Trial(study, trial._trial_id)


def watcher(
    folder: pathlib.Path, ids: Sequence[str]
) -> Callable[[int, Mapping[int, Mapping[str, float]]], set[int]] | None:
    """What prunes the cells `ids` while they train (see `train.population`), in their order.

    None for a sweep that is no search, or one that prunes nothing.
    """
    if not (folder / SEARCH).exists():
        return None
    record = files.read_json(folder / SEARCH)
    if record["pruner"] == "none":
        return None

    def watch(step: int, values: Mapping[int, Mapping[str, float]]) -> set[int]:
        study = load_study(folder, record)
        numbers = {
            trial.user_attrs["cell"]: trial.number
            for trial in study.get_trials(deepcopy=False)
            if not trial.state.is_finished() and "cell" in trial.user_attrs
        }
        known = {i: numbers[ids[i]] for i in values if ids[i] in numbers}
        # All report before anyone is judged: members of a population arrive together.
        for i, number in known.items():
            with handle(study, number) as trial:
                trial.report(values[i][record["metric"]], step)
        pruned = set()
        for i, number in known.items():
            with handle(study, number) as trial:
                behind = _is_behind(study.trials, number, record)
                if behind if record["pruner"] == "asha" else trial.should_prune():
                    pruned.add(i)
        return pruned

    return watch


def _is_behind(trials: Sequence[Any], number: int, record: Mapping[str, Any]) -> bool:
    """Successive halving: whether a trial is not among the best 1 / reduction at a rung.

    Optuna's own pruner judges a trial by those that were judged before it, so that of a batch which
    arrives together the first would always stay. Here all values that are there count.
    """
    values = trials[number].intermediate_values
    boundary, step = record["rung"], max(values)
    while boundary <= step:
        if boundary > max((one for one in values if one < step), default=0):
            sign = 1.0 if record["mode"] == "min" else -1.0
            found = (_at_rung(trial.intermediate_values, boundary) for trial in trials)
            ranked = sorted(math.inf if v != v else sign * v for v in found if v is not None)
            own = sign * values[step]
            return not own <= ranked[max(1, len(ranked) // record["reduction"]) - 1]
        boundary *= record["reduction"]
    return False


def _at_rung(values: Mapping[int, float], boundary: int) -> float | None:
    """A trial's first value from the rung's step on."""
    later = [step for step in values if step >= boundary]
    return values[min(later)] if later else None
