"""Starting variables from another run: which fit, which do not, and never silently."""

import dataclasses
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from scaling.train import checkpoint_format as layout
from scaling.train.checkpoints import CheckpointError, agreed_source, load_numpy, read_info

PyTree = Any


class InitFromError(ValueError):
    """The parameters there cannot start this run; says which, and what to do."""


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of every parameter, by its path here (`unused`: by its path there).

    Attributes:
      source: where they came from.
      matched: taken over.
      missing: not there; they keep their fresh initial values.
      unused: there, but not here.
      reshaped: taken over after the change of shape that the caller allowed.
    """

    source: str
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    reshaped: tuple[str, ...]

    def __str__(self) -> str:
        counts = ", ".join(
            f"{len(getattr(self, kind))} {kind}"
            for kind in ("matched", "missing", "unused", "reshaped")
        )
        lines = [f"parameters from {self.source}: {counts}"]
        for kind in ("missing", "unused", "reshaped"):
            names: tuple[str, ...] = getattr(self, kind)
            lines += [f"  {kind}: {name}" for name in names[:20]]
            if len(names) > 20:
                lines.append(f"  {kind}: ... {len(names) - 20} more")
        return "\n".join(lines)


def load_variables(
    directory: str | pathlib.Path,
    variables: Mapping[str, PyTree],
    mapping: Sequence[tuple[str, str]] = (),
    say: Callable[[str], None] = print,
) -> dict[str, PyTree]:
    """All variables of this run that a checkpoint of another can supply.

    The source's parameters are those that were evaluated there: the moving average where it kept
    one. `mapping` renames them; "frozen:PATH" sends a parameter into the collection `frozen` of this
    run. Other collections (batch statistics) are taken where both runs have them.

    Args:
      directory: a run directory or its folder of checkpoints.
      variables: of this run, by collection.
      mapping: see `init_from`.
      say: told a report for each collection.

    Raises:
      InitFromError, CheckpointError: see `init_from`.
    """
    try:
        step = agreed_source(directory)
        leaves = read_info(directory, step)["leaves"]
    except CheckpointError as error:
        raise InitFromError(f"train.init_from={directory}: {error}") from error
    top = {name.split("/")[0] for name in leaves}
    weights = "ema" if "ema" in top else "params"
    moved = {n.split(":", 1)[0] for _, n in mapping if ":" in n}
    result = dict(variables)
    for name in ["params", *sorted(moved & set(variables))]:
        rules = [(p, _within(name, r)) for p, r in mapping]
        if name == "params" and moved and all(":" in r for _, r in mapping):
            # Every parameter goes elsewhere; what is trained here is new.
            continue
        result[name], _ = init_from(directory, variables[name], weights, rules, step, say=say)
    for name in [c for c in variables if c != "params" and c not in moved]:
        stored = name if name == "frozen" else f"model_state/{name}"
        if not any(leaf.startswith(stored + "/") for leaf in leaves):
            say(f"collection {name}: not in {directory}; it keeps its initial values")
            continue
        result[name], _ = init_from(directory, variables[name], stored, (), step, say=say)
    return result


def _within(collection: str, replacement: str) -> str:
    """A replacement as it reads for one collection; '' where it leads into another."""
    target, colon, path = replacement.rpartition(":")
    wanted = target if colon else "params"
    return path if wanted == collection else ""


def init_from(
    directory: str | pathlib.Path,
    like: PyTree,
    subtree: str = "params",
    mapping: Sequence[tuple[str, str]] = (),
    step: int | None = None,
    reshape: Callable[[str, np.ndarray, tuple[int, ...]], np.ndarray] | None = None,
    allow_missing: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> tuple[PyTree, Report]:
    """Parameters for this run out of a checkpoint of another.

    Args:
      directory: a run directory or its folder of checkpoints.
      like: the parameters of this run: arrays, which supply what is missing there, or
        `jax.ShapeDtypeStruct`. Leaves with a sharding come back in it.
      subtree: the part of the checkpoint that matches `like`, such as "params" or "ema".
      mapping: (regular expression, replacement) pairs, applied in order to each path there
        ("a/b/kernel", relative to `subtree`) to give the path here; a path that becomes empty is
        left out.
      step: which checkpoint; None is the newest that is whole.
      reshape: called with (path, array, shape here) for each array of another shape; returns one of
        the right shape. None makes any such array an error.
      allow_missing: regular expressions; if given, a parameter that is not there must match one.
      say: told the report.

    Returns:
      (parameters with the structure of `like`, report). Dtypes are those of `like`.

    Raises:
      InitFromError: nothing matches; two paths there become one; a shape differs; a missing
        parameter is abstract or not allowed.
      CheckpointError: nothing can be read there.
    """
    try:
        step = agreed_source(directory) if step is None else step
        there = layout.flatten(load_numpy(directory, step, subtree))
    except CheckpointError as error:
        raise InitFromError(f"train.init_from={directory}: {error}") from error
    renamed, unused = _rename(there, mapping)
    here = {"/".join(path): leaf for path, leaf in layout.flatten(like).items()}
    values: dict[str, Any] = {}
    matched, missing, reshaped, wrong = [], [], [], []
    for name, leaf in here.items():
        if name not in renamed:
            missing.append(name)
            values[name] = leaf
            continue
        _, array = renamed[name]
        if array.shape != tuple(leaf.shape):
            if reshape is not None:
                array = reshape(name, array, tuple(leaf.shape))
            if array.shape != tuple(leaf.shape):
                wrong.append(f"{name}: {list(array.shape)} there, {list(leaf.shape)} here")
                continue
            reshaped.append(name)
        else:
            matched.append(name)
        values[name] = _place(array, leaf)
    unused += [source for name, (source, _) in renamed.items() if name not in here]
    report = Report(
        str(directory), tuple(matched), tuple(missing), tuple(sorted(unused)), tuple(reshaped)
    )
    say(str(report))
    _refuse(report, wrong, here, there, allow_missing)
    return jax.tree.unflatten(jax.tree.structure(like), [values[n] for n in here]), report


def _rename(
    there: dict[layout.Path, Any], mapping: Sequence[tuple[str, str]]
) -> tuple[dict[str, tuple[str, np.ndarray]], list[str]]:
    """({path here: (path there, array)}, paths left out)."""
    renamed: dict[str, tuple[str, np.ndarray]] = {}
    left_out = []
    for path, array in there.items():
        source = name = "/".join(path)
        for pattern, replacement in mapping:
            try:
                name = re.sub(pattern, replacement, name)
            except (re.error, IndexError) as error:
                raise InitFromError(
                    f"train.init_from_map: {pattern!r} -> {replacement!r} is no valid rule: {error}"
                ) from error
        if not name:
            left_out.append(source)
        elif name in renamed:
            raise InitFromError(
                f"train.init_from_map makes both {renamed[name][0]} and {source} into {name}: "
                "narrow the patterns"
            )
        else:
            renamed[name] = (source, array)
    return renamed, left_out


def _refuse(
    report: Report,
    wrong: Sequence[str],
    here: dict[str, Any],
    there: dict[layout.Path, Any],
    allow_missing: Sequence[str],
) -> None:
    start = f"train.init_from={report.source}: "
    if wrong:
        raise InitFromError(
            start + "shapes differ:\n  " + "\n  ".join(wrong[:20]) + "\nUse a model of the same "
            "size, or leave these out with train.init_from_map (a rule that maps them to '')."
        )
    if not report.matched and not report.reshaped:
        example = "/".join(next(iter(there), ()))
        raise InitFromError(
            start + f"nothing matches: there {example!r}, here {next(iter(here), '')!r}; rename "
            "with train.init_from_map"
        )
    bad = [n for n in report.missing if isinstance(here[n], jax.ShapeDtypeStruct)]
    if allow_missing:
        bad += [n for n in report.missing if not any(re.search(p, n) for p in allow_missing)]
    if bad:
        raise InitFromError(start + f"{sorted(set(bad))[:10]} must come from there but are missing")


def _place(array: np.ndarray, leaf: Any) -> Any:
    value = array.astype(leaf.dtype)
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        return value
    # Works for shardings over several processes too: each makes only its own shards.
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])
