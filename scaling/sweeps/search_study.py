"""What a search is, and the Optuna study that keeps it in a sweep's directory.

search.json      the search as it was declared     search.journal  Optuna's own storage, append-only
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from scaling import configs
from scaling.track import files

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
      space: config key -> what it may be.
      metric: key of the stream that trials are compared by.
      mode: whether a smaller or a larger value is better.
      sampler: `tpe` (Bergstra et al. 2011; the first `startup` trials are random), `random`, or
        `grid`, which tries every combination of `Choice`s once.
      pruner: `asha` keeps the best 1 / `reduction` of the trials at evaluations `rung`, rung x
        reduction, ... steps (Li et al. 2018, arXiv:1810.05934); `median` ends those that are worse
        than the median of the trials before them at the same step, after `startup` trials; `none`.
      rung: step of the first decision of `asha` and `median`.
      reduction: see `pruner`.
      startup: see `sampler` and `pruner`.
      seed: of the sampler.
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


def open_study(folder: pathlib.Path, search: Search) -> Any:
    """The Optuna study in a sweep's directory, begun if there is none.

    Raises:
      SearchError: optuna is missing, or the directory holds another search.
    """
    record = _record(search)
    path = folder / SEARCH
    if path.exists():
        found = configs.diff(files.read_json(path), files.decode(files.encode(record)))
        if found:
            raise SearchError(
                f"{folder} holds another search:\n"
                + configs.format_differences(found, "there", "now")
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
    fields = {f.name: getattr(search, f.name) for f in dataclasses.fields(search)}
    base = search.base if isinstance(search.base, str) else configs.to_json(search.base)
    space = {
        key: {"kind": type(one).__name__, **dataclasses.asdict(one)}
        for key, one in search.space.items()
    }
    if not space:
        raise SearchError("the search has no space: give a range for at least one config key")
    return fields | {"base": base, "space": space}


def load_study(folder: pathlib.Path, record: Mapping[str, Any]) -> Any:
    """The study of a search that is recorded as `record`.

    Raises:
      SearchError: optuna is missing.
    """
    try:
        import optuna
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
    except ImportError as error:
        raise SearchError(
            f"optuna cannot be imported ({error}): pip install 'scaling[sweep]'"
        ) from (error)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal = str(folder / JOURNAL)
    backend = JournalFileBackend(journal, lock_obj=JournalFileOpenLock(journal))
    study = optuna.create_study(
        storage=optuna.storages.JournalStorage(backend),
        study_name="search",
        direction="minimize" if record["mode"] == "min" else "maximize",
        load_if_exists=True,
        pruner=_pruner(optuna, record),
    )
    # The journal keeps no random state. A seed that moves with the trials makes a search that was
    # killed propose what it would have proposed.
    seed, startup = record["seed"] + len(study.get_trials(deepcopy=False)), record["startup"]
    samplers = optuna.samplers
    study.sampler = (
        samplers.TPESampler(seed=seed, n_startup_trials=startup, constant_liar=True)
        if record["sampler"] == "tpe"
        else samplers.RandomSampler(seed=seed)
    )
    return study


def _pruner(optuna: Any, record: Mapping[str, Any]) -> Any:
    pruners = optuna.pruners
    if record["pruner"] == "median":
        return pruners.MedianPruner(
            n_startup_trials=record["startup"], n_warmup_steps=record["rung"]
        )
    return pruners.NopPruner()


def _grid(space: Mapping[str, Range]) -> Iterator[dict[str, Any]]:
    for key, one in space.items():
        if not isinstance(one, Choice):
            raise SearchError(f"sampler=grid needs a Choice for {key}, not {one}")
    columns = [one.values for one in space.values() if isinstance(one, Choice)]
    for values in itertools.product(*columns):
        yield dict(zip(space, values, strict=True))


def distributions(space: Mapping[str, Range]) -> dict[str, Any]:
    """The space in Optuna's terms."""
    from optuna import distributions as kinds

    def one(range_: Range) -> Any:
        if isinstance(range_, Choice):
            return kinds.CategoricalDistribution(range_.values)
        if isinstance(range_, Integer):
            return kinds.IntDistribution(range_.low, range_.high, log=range_.log)
        return kinds.FloatDistribution(range_.low, range_.high, log=range_.log)

    return {key: one(range_) for key, range_ in space.items()}
