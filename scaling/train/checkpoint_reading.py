"""Reading checkpoints: into any sharding with a template, or as numpy without one."""

import pathlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from scaling.track import files
from scaling.train import checkpoint_format as layout
from scaling.train.checkpoint_format import CheckpointError, CheckpointMismatch

PyTree = Any


def attempt(path: pathlib.Path, like: PyTree, verified: bool) -> tuple[list[str], PyTree]:
    """(what went wrong, state). An error from files that are whole is no damage: it raises."""
    try:
        return [], _read(path, like)
    except CheckpointMismatch:
        raise
    except Exception as error:
        if verified:
            raise CheckpointError(f"{path} is whole but cannot be restored: {error}") from error
        return [f"{type(error).__name__}: {str(error).strip()[:200]}"], None


def _read(path: pathlib.Path, like: PyTree) -> PyTree:
    wanted = layout.flatten(like)
    tree = files.read_json(path / layout.TREE)
    names = layout.stored_names(tree)
    saved = {name: tree["leaves"][stored] for name, stored in names.items()}
    described = {"/".join(p): layout.describe(leaf) for p, leaf in wanted.items()}
    layout.compare(saved, described, path)
    there = {p: tuple(names["/".join(p)].split("/")) for p in wanted}
    items, arguments = {}, {}
    for p, leaf in wanted.items():
        if np.size(leaf):
            kind = described["/".join(p)]
            item = jax.ShapeDtypeStruct(kind["shape"], jnp.dtype(kind["dtype"]))
            items[there[p]], arguments[there[p]] = item, _restore_args(leaf, item)
    restored = layout.flatten(_read_arrays(path, items, arguments))
    leaves = [_as_wanted(leaf, restored.get(there[p])) for p, leaf in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _read_arrays(
    path: pathlib.Path, items: Mapping[layout.Path, Any], arguments: Mapping[layout.Path, Any]
) -> PyTree:
    """Nested dictionaries of the arrays named in `items`, which may be a part of what is stored."""
    if not items:
        return {}
    handler = ocp.PyTreeCheckpointHandler()
    with ocp.Checkpointer(handler) as reader:
        return reader.restore(
            path / layout.ARRAYS,
            args=ocp.args.PyTreeRestore(
                item=layout.nest(items), restore_args=layout.nest(arguments), partial_restore=True
            ),
        )


def _restore_args(leaf: Any, stored: jax.ShapeDtypeStruct) -> ocp.RestoreArgs:
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        return ocp.RestoreArgs(restore_type=np.ndarray, dtype=stored.dtype)
    return ocp.ArrayRestoreArgs(
        restore_type=jax.Array, sharding=sharding, global_shape=stored.shape, dtype=stored.dtype
    )


def _as_wanted(leaf: Any, value: Any) -> Any:
    """The restored `value` in the form of the template `leaf`."""
    if value is None:  # arrays without elements are not stored
        value = np.zeros(leaf.shape, leaf.dtype)
        sharding = getattr(leaf, "sharding", None)
        return value if sharding is None else jax.device_put(value, sharding)
    if layout.is_key(leaf):
        return jax.random.wrap_key_data(value, impl=layout.key_impl(leaf))
    if isinstance(leaf, bool | int | float):
        return type(leaf)(value)
    return value


def _newest_whole(
    directory: pathlib.Path, step: int | None, use: Callable[[pathlib.Path], Any]
) -> Any:
    """`use` of the newest whole checkpoint (or of `step`); warns of the ones passed over."""
    steps = layout.find_steps(directory)
    failures: list[str] = []
    for candidate in steps[::-1] if step is None else [s for s in steps if s == step]:
        path = layout.step_path(directory, candidate)
        wrong, verified = layout.damage(path)
        if not wrong:
            if failures:
                warnings.warn(f"{'; '.join(failures)}; using step {candidate}", stacklevel=3)
            if not verified:
                warnings.warn(f"{path} has no manifest, so it could not be verified", stacklevel=3)
            return use(path)
        failures.append(f"step {candidate} is damaged: {'; '.join(wrong[:3])}")
    raise CheckpointError(
        f"no checkpoint{'' if step is None else f' of step {step}'} can be read in {directory}: "
        + ("; ".join(failures) or f"there is {steps or 'none'}")
    )


def newest_whole(directory: str | pathlib.Path) -> int:
    """The newest step that is whole.

    Raises:
      CheckpointError: there is none.
    """
    found: int = _newest_whole(
        layout.locate(directory).absolute(), None, lambda path: int(path.name)
    )
    return found


def load_numpy(
    directory: str | pathlib.Path, step: int | None = None, subtree: str | None = None
) -> dict[str, Any]:
    """A checkpoint as nested dictionaries of numpy arrays, with no template and no mesh.

    Args:
      directory: a run directory or its folder of checkpoints.
      step: which one; None means the newest that is whole.
      subtree: only this part, such as "params" or "params/decoder"; the result starts below it.

    Returns:
      Nested dictionaries: fields of dataclasses and entries of lists have become string keys.
      Typed random keys are their uint32 key data.

    Raises:
      CheckpointError: nothing there can be read, or there is no such subtree.
    """

    def read(path: pathlib.Path) -> dict[str, Any]:
        tree = files.read_json(path / layout.TREE)
        names = layout.stored_names(tree)
        prefix = tuple(subtree.split("/")) if subtree else ()
        there = {tuple(name.split("/")): tuple(old.split("/")) for name, old in names.items()}
        chosen = {
            p: tree["leaves"]["/".join(old)]
            for p, old in there.items()
            if p[: len(prefix)] == prefix
        }
        if prefix and not chosen:
            top = sorted({name.split("/")[0] for name in names})
            raise CheckpointError(f"{path} has nothing under {subtree!r}; at the top: {top}")
        shapes = {
            p: jax.ShapeDtypeStruct(leaf["shape"], jnp.dtype(leaf["dtype"]))
            for p, leaf in chosen.items()
        }
        stored = {there[p]: shape for p, shape in shapes.items() if shape.size}
        arguments = {p: _restore_args(None, shape) for p, shape in stored.items()}
        read = layout.flatten(_read_arrays(path, stored, arguments))
        found = {p: read[there[p]] for p, shape in shapes.items() if shape.size}
        empty = {p: np.zeros(s.shape, s.dtype) for p, s in shapes.items() if not s.size}
        return layout.nest({p[len(prefix) :] or p[-1:]: x for p, x in (found | empty).items()})

    return _newest_whole(layout.locate(directory).absolute(), step, read)


def read_info(directory: str | pathlib.Path, step: int | None = None) -> dict[str, Any]:
    """What lies beside the arrays: {step, config_json, metrics, provenance, leaves}.

    Raises:
      CheckpointError: nothing there can be read.
    """

    def read(path: pathlib.Path) -> dict[str, Any]:
        tree = files.read_json(path / layout.TREE)
        return {
            "step": tree["step"],
            "config_json": (path / layout.CONFIG).read_text(encoding="utf-8"),
            "metrics": files.read_json(path / layout.METRICS),
            "provenance": files.read_json(path / layout.PROVENANCE),
            "leaves": {
                name: tree["leaves"][old] for name, old in layout.stored_names(tree).items()
            },
        }

    return _newest_whole(layout.locate(directory).absolute(), step, read)
