"""Starting variables from other runs: which fit, which do not, and never silently."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from scaling.experiment import InitFrom
from scaling.parallel.sharding import PyTree
from scaling.track.paths import PathError, expand
from scaling.train.checkpoint_reading import flatten
from scaling.train.checkpoints import CheckpointError, CheckpointInfo, agreed_source, read_info

Say = Callable[[str], None]


class InitFromError(ValueError):
    """The variables there cannot start this run; says which, and what to do."""


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of the arrays of one source. Paths are "COLLECTION/PATH".

    Attributes:
      matched: taken over, by path here.
      missing: neither there nor in another source, in the collections (below `into`) that this one
        feeds, by path here: they keep their initial values.
      unused: there but not here, or left out by `map`, by path there.
    """

    source: str
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        counts = f"{len(self.matched)} matched, {len(self.missing)} missing"
        return f"variables from {self.source}: {counts}, {len(self.unused)} unused" + _listed(
            "unused", self.unused
        )


def _listed(label: str, paths: Sequence[str]) -> str:
    more = [f"... {len(paths) - 20} more"] if len(paths) > 20 else []
    return "".join(f"\n  {label}: {path}" for path in [*paths[:20], *more])


def load_initial(
    sources: Mapping[str, InitFrom], variables: Mapping[str, PyTree], say: Say = print
) -> tuple[dict[str, PyTree], dict[str, Report]]:
    """Variables for this run out of checkpoints of others; all processes call it.

    Args:
      sources: by name, as in the config's `train.init_from`.
      variables: collections of this run: arrays, which supply what no source does, or
        `jax.ShapeDtypeStruct`. Leaves with a sharding come back in it.
      say: told a report of each source, and of each collection what no source supplies.

    Returns:
      (variables with the structure and the dtypes of `variables`, report by source).

    Raises:
      InitFromError: a source cannot be read, lacks what it is asked for or matches nothing; two
        arrays would become one; a shape differs; an abstract leaf comes from no source.
    """
    here = flatten(dict(variables))
    infos, origin, unused = _matched(sources, here, say)
    reports, values = {}, dict(here)
    for name, source in sources.items():
        taken = {path: leaf for path, (supplier, leaf) in origin.items() if supplier == name}
        arrays = infos[name].read_arrays(dict.fromkeys(taken.values()))
        values |= {path: _place(arrays[leaf], here[path]) for path, leaf in taken.items()}
        fed = tuple({_join(path.split("/")[0], source.into, "") for path in taken})
        missing = tuple(path for path in here if path.startswith(fed) and path not in origin)
        unmatched = tuple(sorted(unused[name]))
        reports[name] = Report(str(infos[name].path), tuple(taken), missing, unmatched)
        say(str(reports[name]))
    _tell_fresh(here, origin, say)
    structure = jax.tree.structure(dict(variables))
    return jax.tree.unflatten(structure, [values[path] for path in here]), reports


def check_initial(
    sources: Mapping[str, InitFrom], shapes: Mapping[str, PyTree], say: Say = print
) -> None:
    """Refuses what `load_initial` would, from shapes alone: before anything is compiled."""
    _matched(sources, flatten(dict(shapes)), say)


def _matched(
    sources: Mapping[str, InitFrom], here: Mapping[str, Any], say: Say
) -> tuple[dict[str, CheckpointInfo], dict[str, tuple[str, str]], dict[str, list[str]]]:
    """(checkpoints, where each array comes from, what is not used); a source must give something."""
    infos = {name: _open(name, source, say) for name, source in sources.items()}
    origin, unused = _assign(sources, infos, here)
    for name in sources:
        if name in {supplier for supplier, _ in origin.values()}:
            continue
        raise InitFromError(
            f"train.init_from.{name}: nothing matches: there {next(iter(unused[name]), None)!r}, "
            f"here {next(iter(here), None)!r}; rename with `map` or `into`"
        )
    return infos, origin, unused


def _assign(
    sources: Mapping[str, InitFrom], infos: Mapping[str, CheckpointInfo], here: Mapping[str, Any]
) -> tuple[dict[str, tuple[str, str]], dict[str, list[str]]]:
    """Where each array here comes from, and what each source has that is not used."""
    origin: dict[str, tuple[str, str]] = {}  # path here -> (source, leaf of its checkpoint)
    unused: dict[str, list[str]] = {name: [] for name in sources}
    wrong: list[str] = []
    for name, source in sources.items():
        for there, leaf in _offered(name, source, infos[name], here).items():
            path = _renamed(name, source, there)
            if path not in here:
                unused[name].append(there)
                continue
            if path in origin:
                raise InitFromError(
                    f"train.init_from: {path} comes from both {' '.join(origin[path])} and {name} "
                    f"{leaf}; narrow the patterns of `map`, or `collections`"
                )
            origin[path] = name, leaf
            shapes = infos[name].leaves[leaf]["shape"], list(here[path].shape)
            if shapes[0] != shapes[1]:
                wrong.append(f"{name} {path}: {shapes[0]} there, {shapes[1]} here")
    if wrong:
        raise InitFromError(
            "train.init_from: shapes differ:\n  "
            + "\n  ".join(wrong[:20])
            + "\nUse a model of the "
            "same size, or leave these out (a rule of `map` that makes them '')."
        )
    return origin, unused


def _open(name: str, source: InitFrom, say: Say) -> CheckpointInfo:
    try:
        step, run = source.step, expand(source.run, f"train.init_from.{name}.run")
        if step is None and jax.process_count() > 1:
            step = agreed_source(run, say)
        return read_info(run, step, say)
    except PathError as error:
        raise InitFromError(str(error)) from error
    except CheckpointError as error:
        raise InitFromError(f"train.init_from.{name}.run: {error}") from error


def _offered(
    name: str, source: InitFrom, info: CheckpointInfo, here: Mapping[str, Any]
) -> dict[str, str]:
    """{"COLLECTION/PATH" there: leaf of the checkpoint} of what is to be taken."""
    offered = {
        leaf.removeprefix("model_state/"): leaf
        for leaf in info.leaves
        if leaf.startswith(("params/", "frozen/", "model_state/"))
    }
    averaged = {f"params/{leaf[4:]}": leaf for leaf in info.leaves if leaf.startswith("ema/")}
    if source.weights == "ema" and not averaged:
        raise InitFromError(
            f"train.init_from.{name}.weights: {info.path} has no moving average; take 'evaluated' "
            "or 'params'"
        )
    if source.weights != "params":
        offered |= averaged
    present = {there.split("/")[0] for there in offered}
    wanted = set(source.collections or (path.split("/")[0] for path in here))
    if source.collections and wanted - present:
        raise InitFromError(
            f"train.init_from.{name}.collections: {info.path} has no {sorted(wanted - present)}; it has "
            f"{sorted(present)}"
        )
    return {there: leaf for there, leaf in offered.items() if there.split("/")[0] in wanted}


def _renamed(name: str, source: InitFrom, there: str) -> str:
    """The "COLLECTION/PATH" here of one there; empty if it is left out."""
    collection, _, path = there.partition("/")
    for pattern, replacement in source.map:
        try:
            path = re.sub(pattern, replacement, path)
        except (re.error, IndexError) as error:
            raise InitFromError(
                f"train.init_from.{name}.map: {pattern!r} -> {replacement!r} is not a valid rule: "
                f"{error}"
            ) from error
    if not path:
        return ""
    if ":" in path:
        collection, _, path = path.partition(":")
    return _join(collection, source.into, path)


def _join(collection: str, into: str, path: str) -> str:
    return f"{collection}/{into}/{path}" if into else f"{collection}/{path}"


def _tell_fresh(here: Mapping[str, Any], origin: Mapping[str, Any], say: Say) -> None:
    """Says of each collection what comes from no source, and refuses what has no initial value."""
    for collection in dict.fromkeys(path.split("/")[0] for path in here):
        paths = [path for path in here if path.startswith(f"{collection}/")]
        fresh = [path for path in paths if path not in origin]
        abstract = [path for path in fresh if isinstance(here[path], jax.ShapeDtypeStruct)]
        if abstract:
            raise InitFromError(
                f"train.init_from: {abstract[:10]} have no initial value here and come from no source"
            )
        if fresh:
            say(
                f"{collection}: {len(fresh)} of {len(paths)} arrays come from no other run and keep "
                "their initial values" + _listed("initial", fresh)
            )


def _place(array: np.ndarray, leaf: Any) -> Any:
    value = array.astype(leaf.dtype)
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        return value
    # Works for shardings over several processes too: each makes only its own shards.
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])
