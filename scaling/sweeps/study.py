"""What a search is, the Optuna study that keeps it in a sweep's directory, and what ends trials early.

search.json      the search as it was declared     search.journal  Optuna's own storage, append-only
"""

import dataclasses
import itertools
import json
import math
import pathlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

from scaling import configs
from scaling.sweeps.ledger import cut_torn_line
from scaling.track import files

if TYPE_CHECKING:
    import optuna

    from scaling.train.loop import Watch

SEARCH, JOURNAL = "search.json", "search.journal"


@dataclasses.dataclass(frozen=True)
class Float:
    """A number in [low, high]; `log` draws its logarithm evenly."""

    low: float
    high: float
    log: bool = False


@dataclasses.dataclass(frozen=True)
class Integer:
    """A whole number in [low, high]; `log` draws its logarithm evenly."""

    low: int
    high: int
    log: bool = False


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of several values: None, truth values, numbers or strings."""

    values: tuple[Any, ...]


Range = Float | Integer | Choice


@dataclasses.dataclass(frozen=True)
class Search:
    """What `get_search` returns.

    Attributes:
      base: a config as its file states it, or "FILE[:ARG]" of one.
      space: config key -> its range.
      metric: key of the stream that trials are compared by.
      sampler: `tpe` (Bergstra et al. 2011; the first `startup` trials are random), `random`, or
        `grid`, which tries every combination of `Choice`s once.
      pruner: `asha` keeps the best 1 / `reduction` of the trials at evaluations `rung`, rung x
        reduction, ... steps (Li et al. 2018, arXiv:1810.05934); `median` ends those that are worse
        than the median of the trials before them at the same step, after `startup` trials; `none`.
      rung: step of the first decision of `asha` and `median`.
    """

    base: Any
    space: Mapping[str, Range]
    metric: str = "eval/loss"
    mode: Literal["min", "max"] = "min"
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    pruner: Literal["none", "median", "asha"] = "none"
    rung: int = 1
    reduction: int = 2
    startup: int = 10
    seed: int = 0


class SearchError(ValueError):
    """The search cannot go on; says what to change."""


# --- the study -------------------------------------------------------------------------------


def open_study(folder: pathlib.Path, search: Search) -> "optuna.Study":
    """The Optuna study in a sweep's directory, begun if there is none; or SearchError."""
    record = _record(search)
    path = folder / SEARCH
    if path.exists():
        differences = configs.diff(files.read_json(path), files.decode(files.encode(record)))
        if differences:
            raise SearchError(
                f"{folder} holds another search:\n"
                + configs.format_differences(differences, "there", "now")
                + "\nUse another --workdir, or the settings on the left to go on with that one."
            )
    folder.mkdir(parents=True, exist_ok=True)
    study = load_study(folder, record)
    if not path.exists():
        if search.sampler == "grid":
            for point in _grid(search.space):
                study.enqueue_trial(point, skip_if_exists=True)
        # Last, so that a kill in between leaves a search that is not there yet.
        files.write_json(path, record)
    return study


def _record(search: Search) -> dict[str, Any]:
    if not search.space:
        raise SearchError("the search has no space: give a range for at least one config key")
    for name in ("mode", "sampler", "pruner"):
        choices, value = get_args(Search.__annotations__[name]), getattr(search, name)
        if value not in choices:
            raise SearchError(f"{name}={value!r} does not exist: give one of {', '.join(choices)}")
    space = {
        key: {"kind": type(range_).__name__, **dataclasses.asdict(range_)}
        for key, range_ in search.space.items()
    }
    base = search.base if isinstance(search.base, str) else configs.to_json(search.base)
    return vars(search) | {"base": base, "space": space}


def load_study(folder: pathlib.Path, record: Mapping[str, Any]) -> "optuna.Study":
    """The study of a search that is recorded as `record`; raises SearchError as `open_study`."""
    try:
        import optuna
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
    except ImportError as error:
        what = f"optuna cannot be imported ({error}): pip install 'scaling[sweep]'"
        raise SearchError(what) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal = folder / JOURNAL
    lock = JournalFileOpenLock(str(journal))
    _mend(journal, lock)
    samplers, pruners = optuna.samplers, optuna.pruners
    pruner: optuna.pruners.BasePruner = pruners.NopPruner()
    if record["pruner"] == "median":
        pruner = pruners.MedianPruner(record["startup"], n_warmup_steps=record["rung"])
    try:
        study = optuna.create_study(
            storage=optuna.storages.JournalStorage(JournalFileBackend(str(journal), lock_obj=lock)),
            study_name="search",
            direction="minimize" if record["mode"] == "min" else "maximize",
            load_if_exists=True,
            pruner=pruner,
        )
    except json.JSONDecodeError as error:
        what = f"{journal} has a damaged line ({error}); delete that line and start again"
        raise SearchError(what) from error
    # The journal keeps no random state. A seed that moves with the trials makes a search that was
    # killed propose what it would have proposed.
    seed, startup = record["seed"] + len(study.get_trials(deepcopy=False)), record["startup"]
    study.sampler = (
        samplers.TPESampler(seed=seed, n_startup_trials=startup, constant_liar=True)
        if record["sampler"] == "tpe"
        else samplers.RandomSampler(seed=seed)
    )
    return study


def _mend(journal: pathlib.Path, lock: Any) -> None:
    """Cuts off a torn last record (of a kill): the next one would be written into the same line."""
    if not journal.exists():
        return
    lock.acquire()  # another process may be in the middle of writing
    try:
        with open(journal, "r+b") as file:
            cut_torn_line(file.fileno())
    finally:
        lock.release()


def _grid(space: Mapping[str, Range]) -> Iterator[dict[str, Any]]:
    columns = []
    for key, range_ in space.items():
        if not isinstance(range_, Choice):
            raise SearchError(f"sampler=grid needs a Choice for {key}, not {range_}")
        columns.append(range_.values)
    for values in itertools.product(*columns):
        yield dict(zip(space, values, strict=True))


def distributions(space: Mapping[str, Range]) -> dict[str, Any]:
    """The space in Optuna's terms."""
    from optuna import distributions as kinds

    def distribution(range_: Range) -> Any:
        if isinstance(range_, Choice):
            return kinds.CategoricalDistribution(range_.values)
        if isinstance(range_, Integer):
            return kinds.IntDistribution(range_.low, range_.high, log=range_.log)
        return kinds.FloatDistribution(range_.low, range_.high, log=range_.log)

    return {key: distribution(range_) for key, range_ in space.items()}


# --- trials that end early -------------------------------------------------------------------


def live_trial(study: "optuna.Study", number: int) -> "optuna.Trial":
    """A trial as an object that takes reports."""
    import optuna

    # After a resume a step may be reported again; Optuna keeps the first value, an equal one.
    warnings.filterwarnings("ignore", message=".*already reported.*")
    return optuna.Trial(study, study.trials[number]._trial_id)


def watcher(folder: pathlib.Path, ids: Sequence[str]) -> "Watch | None":
    """What prunes the cells `ids` while they train together, in their order.

    None for a sweep that is not a search, or one that prunes nothing.
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
        # All report before any is judged: members of a population arrive together.
        for i, number in known.items():
            live_trial(study, number).report(values[i][record["metric"]], step)
        if record["pruner"] == "asha":
            return {i for i, number in known.items() if _is_behind(study.trials, number, record)}
        return {i for i, number in known.items() if live_trial(study, number).should_prune()}

    return watch


def _is_behind(trials: Sequence[Any], number: int, record: Mapping[str, Any]) -> bool:
    """Successive halving: whether a trial is not among the best 1 / reduction at a rung.

    Optuna's own pruner judges a trial by those that were judged before it, so the first of a batch
    that arrives together would always stay. Here all values that are there count.
    """
    values = trials[number].intermediate_values
    rung, step = record["rung"], max(values)
    while rung <= step:
        if rung > max((earlier for earlier in values if earlier < step), default=0):
            sign = 1.0 if record["mode"] == "min" else -1.0
            at_rung = (_value_at(trial.intermediate_values, rung) for trial in trials)
            ranked = sorted(math.inf if v != v else sign * v for v in at_rung if v is not None)
            best = ranked[max(1, len(ranked) // record["reduction"]) - 1]
            return not sign * values[step] <= best
        rung *= record["reduction"]
    return False


def _value_at(values: Mapping[int, float], rung: int) -> float | None:
    """A trial's first value from the rung's step on."""
    return values.get(min((step for step in values if step >= rung), default=-1))
