"""Reading checkpoints: into any sharding with a template, or single arrays as numpy without one.

What a state looks like as stored arrays is here too: names, shapes, dtypes.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NotRequired, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict, unflatten_dict

from scaling.parallel.sharding import PyTree
from scaling.track import files
from scaling.train import checkpoint_format as layout
from scaling.train.checkpoint_format import CheckpointError, CheckpointMismatch


class Leaf(TypedDict):
    """An entry of tree.json: an array as stored; `key` is the algorithm of a typed random key."""

    shape: list[int]
    dtype: str
    key: NotRequired[str]


# --- trees -----------------------------------------------------------------------------------


def flatten(tree: PyTree) -> dict[str, Any]:
    """Leaves by path ("a/b/0"), whatever the containers: dataclasses, tuples, lists, dictionaries.

    None and empty containers leave no trace; the template brings them back.

    Raises:
      CheckpointError: a name has a slash in it, or two leaves have one name.
    """
    result: dict[str, Any] = {}
    for keys, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        parts = [jax.tree_util.keystr((key,), simple=True) for key in keys]
        path = "/".join(parts) or "value"
        if any("/" in part for part in parts) or path in result:
            raise CheckpointError(
                f"the name {path!r} cannot be stored (a slash, or used twice): rename that key"
            )
        result[path] = leaf
    return result


def is_key(leaf: Any) -> bool:
    """Whether a leaf, real or abstract, is a typed random key."""
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)


def _key_impl(leaf: Any) -> Hashable:
    """The algorithm of a typed key, real or abstract (`jax.random.key_impl` wants a real one)."""
    impls: list[Hashable] = []
    jax.eval_shape(lambda key: impls.append(jax.random.key_impl(key)), leaf)
    return impls[0]


def describe(leaf: Any) -> Leaf:
    """What tree.json says of a leaf, real or abstract; CheckpointError if it is not numeric."""
    if is_key(leaf):
        data = jax.eval_shape(jax.random.key_data, leaf)
        return Leaf(shape=list(data.shape), dtype=str(data.dtype), key=str(_key_impl(leaf)))
    array = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    if array.dtype.kind in "OUSMm":
        raise CheckpointError(f"{leaf!r} is not a number and cannot be stored in a checkpoint")
    return Leaf(shape=list(array.shape), dtype=str(array.dtype))


def arrays_to_store(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The nested dictionaries that Orbax stores; arrays without elements are left out."""
    arrays = {
        path: jax.random.key_data(leaf) if is_key(leaf) else leaf
        for path, leaf in leaves.items()
        if np.size(leaf)
    }
    arrays = {p: x if isinstance(x, jax.Array) else np.asarray(x) for p, x in arrays.items()}
    return unflatten_dict(arrays, sep="/")


# --- reading ---------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class CheckpointInfo:
    """A finished checkpoint, without its arrays.

    Attributes:
      texts: the small files beside the arrays, by name.
      metrics: numbers known at that step.
      leaves: its arrays, by path in the state of this version.
      stored: path in `leaves` -> the path under which this checkpoint stores the array.
    """

    step: int
    path: pathlib.Path
    texts: dict[str, str]
    metrics: dict[str, float]
    leaves: dict[str, Leaf]
    stored: dict[str, str]

    def read_arrays(self, templates: Mapping[str, Any]) -> dict[str, Any]:
        """Arrays by path, typed random keys as key data.

        Args:
          templates: path in `leaves` -> anything; with an attribute `sharding` that is not None it
            makes a `jax.Array` in that sharding, otherwise a numpy array.
        """
        arguments, result = {}, {}
        for path, template in templates.items():
            sharding = getattr(template, "sharding", None)
            if 0 not in self.leaves[path]["shape"]:
                arguments[self.stored[path]] = (
                    ocp.RestoreArgs(restore_type=np.ndarray)
                    if sharding is None
                    else ocp.ArrayRestoreArgs(sharding=sharding)
                )
            else:  # arrays without elements are not stored
                empty = np.zeros(self.leaves[path]["shape"], jnp.dtype(self.leaves[path]["dtype"]))
                result[path] = empty if sharding is None else jax.device_put(empty, sharding)
        if arguments:
            request = ocp.args.PyTreeRestore(
                unflatten_dict(dict.fromkeys(arguments, 0), sep="/"),
                unflatten_dict(arguments, sep="/"),
                partial_restore=True,
            )
            with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
                arrays = flatten_dict(
                    reader.restore(self.path / layout.ARRAYS, args=request), sep="/"
                )
            result |= {p: arrays[self.stored[p]] for p in templates if p not in result}
        return result


def read_unverified(path: pathlib.Path) -> CheckpointInfo:
    """What lies beside the arrays of the checkpoint at `path`, whose manifest is not looked at."""
    tree = files.read_json(path / layout.TREE)
    stored: dict[str, str] = {}
    for name in tree["leaves"]:
        renamed = tree["format"] == 1 and name.startswith("extra/")
        stored[f"model_state/{name.removeprefix('extra/')}" if renamed else name] = name
    texts = {
        file.name: file.read_text(encoding="utf-8")
        for file in sorted(path.iterdir())
        if file.is_file() and file.name not in layout.OWN_FILES and not file.name.startswith(".")
    }
    return CheckpointInfo(
        step=tree["step"],
        path=path,
        texts=texts,
        metrics=files.read_json(path / layout.METRICS),
        leaves={current: tree["leaves"][name] for current, name in stored.items()},
        stored=stored,
    )


def read_state(path: pathlib.Path, like: PyTree) -> PyTree:
    """The state at `path` in the form of the template `like`; see `Checkpoints.restore`.

    CheckpointMismatch names every leaf that is missing, left over or of another kind.
    """
    info = read_unverified(path)
    wanted = flatten(like)
    _compare(info, {name: describe(leaf) for name, leaf in wanted.items()})
    values = info.read_arrays(wanted)
    for name, leaf in wanted.items():
        if is_key(leaf):
            values[name] = jax.random.wrap_key_data(values[name], impl=_key_impl(leaf))
        elif isinstance(leaf, bool | int | float):
            values[name] = type(leaf)(values[name])
    return jax.tree.unflatten(jax.tree.structure(like), [values[name] for name in wanted])


def _compare(info: CheckpointInfo, wanted: Mapping[str, Leaf]) -> None:
    def kind(leaf: Leaf | None) -> str:
        if leaf is None:
            return "nothing"
        return f"{leaf['dtype']}{leaf['shape']}" + (f" key:{leaf['key']}" if "key" in leaf else "")

    lines = [
        f"{name}: stored {kind(info.leaves.get(name))}, wanted {kind(wanted.get(name))}"
        for name in {**wanted, **info.leaves}
        if info.leaves.get(name) != wanted.get(name)
    ]
    if lines:
        more = [f"... {len(lines) - 12} more"] if len(lines) > 12 else []
        raise CheckpointMismatch(
            f"{info.path} holds another model or optimizer than this run:\n  "
            + "\n  ".join(lines[:12] + more)
            + "\nUse the config it was written with (config.json beside it), another --workdir, or "
            "train.init_from to take over the parameters that fit."
        )


def read_info(
    directory: str | os.PathLike[str],
    step: int | None = None,
    say: Callable[[str], None] = print,
) -> CheckpointInfo:
    """The newest whole checkpoint, without its arrays.

    Args:
      directory: a run directory or its folder of checkpoints.
      step: this step and no other.
      say: told which newer ones were passed over as damaged, and what could not be verified.

    Raises:
      CheckpointError: nothing there can be read.
    """
    folder = layout.locate(directory)
    _, info, notes = layout.find_whole(folder, layout.find_steps(folder), step, read_unverified)
    for note in notes:
        say(note)
    return info
