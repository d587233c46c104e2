"""The checkpoint on disk: names, the tree of arrays, the manifest that tells whole from damaged.

    checkpoints/00000100/
      arrays/          the arrays, an Orbax PyTree checkpoint of nested dictionaries
      tree.json        format, step, and the shape and dtype of every array by path
      config.json  metrics.json  provenance.json
      manifest.json    size and SHA-256 of every other file; written last

The directory is built under the name `.tmp-00000100` and renamed when the manifest is in it, so a
name that is a number is a finished checkpoint. Orbax notices some damage but not a flipped byte in
stored array data, hence the manifest.

Every format must stay readable for ever (tests/fixtures/checkpoint_v1); a change raises FORMAT.
Format 1 called the collections beside the parameters `extra`; they are `model_state` since 2.
"""

import concurrent.futures
import errno
import hashlib
import json
import os
import pathlib
import re
import shutil
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scaling.track import files

FORMAT = 2
ARRAYS, TREE, MANIFEST = "arrays", "tree.json", "manifest.json"
CONFIG, METRICS, PROVENANCE = "config.json", "metrics.json", "provenance.json"
TEMPORARY = ".tmp-"
_ASIDE = re.compile(r"^(damaged|abandoned)-\d+(\.\d+)?$")

PyTree = Any
Path = tuple[str, ...]


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read; says where, why, and what to do."""


class CheckpointMismatch(CheckpointError):
    """A whole checkpoint, but of another tree: other names, shapes or dtypes than asked for."""


# --- names -----------------------------------------------------------------------------------


def step_path(directory: pathlib.Path, step: int) -> pathlib.Path:
    """Where the finished checkpoint of `step` lies."""
    return directory / f"{step:08d}"


def find_steps(directory: pathlib.Path) -> list[int]:
    """Steps with a finished checkpoint, ascending; empty where there is no directory."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    return sorted(int(name) for name in names if re.fullmatch(r"\d{8,}", name))


def locate(directory: str | os.PathLike[str]) -> pathlib.Path:
    """The folder of checkpoints that `directory` (itself, or a run directory) means."""
    path = pathlib.Path(directory)
    return path / "checkpoints" if (path / "checkpoints").is_dir() else path


def leftovers(directory: pathlib.Path) -> list[pathlib.Path]:
    """What killed saves left behind."""
    return sorted(directory.glob(TEMPORARY + "*"))


def set_aside(directory: pathlib.Path, step: int, reason: str) -> pathlib.Path:
    """Renames a checkpoint so that it no longer counts (`reason`: damaged or abandoned)."""
    target = directory / f"{reason}-{step:08d}"
    number = 0
    while target.exists():
        number += 1
        target = directory / f"{reason}-{step:08d}.{number}"
    os.rename(step_path(directory, step), target)
    return target


def drop(path: pathlib.Path) -> None:
    """Deletes a checkpoint; a kill half-way leaves a leftover, not a damaged checkpoint."""
    doomed = path.with_name(f"{TEMPORARY}delete-{path.name}")
    if doomed.exists():
        shutil.rmtree(doomed)
    os.rename(path, doomed)
    shutil.rmtree(doomed)


def prune(directory: pathlib.Path, keep: Iterable[int], keep_aside: int) -> None:
    """Deletes finished checkpoints not in `keep`, and all but the newest set aside."""
    kept = set(keep)
    for step in find_steps(directory):
        if step not in kept:
            drop(step_path(directory, step))
    aside = [path for path in directory.iterdir() if _ASIDE.match(path.name)]
    aside.sort(key=lambda path: path.stat().st_mtime)
    for path in aside[: len(aside) - keep_aside]:
        drop(path)


# --- trees -----------------------------------------------------------------------------------


def _name(key: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    raise CheckpointError(f"a tree node {key!r} of an unknown kind cannot be named in a checkpoint")


def flatten(tree: PyTree) -> dict[Path, Any]:
    """Leaves by path, whatever the containers are: dataclasses, named tuples, lists, dictionaries.

    None and empty containers leave no trace; the template brings them back.

    Raises:
      CheckpointError: for a name with a slash in it, or two leaves of one name.
    """
    result: dict[Path, Any] = {}
    for keys, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        path = tuple(_name(key) for key in keys) or ("value",)
        if any("/" in part for part in path) or path in result:
            raise CheckpointError(
                f"the name {path} cannot be stored (a slash, or used twice): rename that key"
            )
        result[path] = leaf
    return result


def nest(flat: Mapping[Path, Any]) -> dict[str, Any]:
    """Nested dictionaries from leaves by path."""
    result: dict[str, Any] = {}
    for path, leaf in flat.items():
        node = result
        for part in path[:-1]:
            node = node.setdefault(part, {})
        node[path[-1]] = leaf
    return result


def is_key(leaf: Any) -> bool:
    """Whether a leaf, real or abstract, is a typed random key."""
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)


def key_impl(leaf: Any) -> Any:
    """The algorithm of a typed key, real or abstract (`jax.random.key_impl` wants a real one)."""
    found: list[Any] = []
    jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), leaf)
    return found[0]


def describe(leaf: Any) -> dict[str, Any]:
    """What tree.json says of a leaf: shape and dtype as stored; the algorithm of a typed key."""
    if is_key(leaf):
        stored = jax.eval_shape(jax.random.key_data, leaf)
        return {
            "shape": list(stored.shape),
            "dtype": str(stored.dtype),
            "key": str(key_impl(leaf)),
        }
    if not hasattr(leaf, "dtype"):
        leaf = np.asarray(leaf)
    if leaf.dtype.kind in "OUSMm":
        raise CheckpointError(f"{leaf!r} is no number and cannot be stored in a checkpoint")
    return {"shape": list(leaf.shape), "dtype": str(leaf.dtype)}


def storable(leaf: Any) -> Any:
    """The array to store for a leaf (Orbax copies it before `save` returns)."""
    if is_key(leaf):
        return jax.random.key_data(leaf)
    return leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)


def compare(saved: Mapping[str, Any], wanted: Mapping[str, Any], where: pathlib.Path) -> None:
    """Both map "a/b/c" to `describe` of a leaf.

    Raises:
      CheckpointMismatch: naming every leaf that is missing, left over or of another kind.
    """
    lines = [
        f"missing from it: {name} {_kind(wanted[name])}" for name in wanted if name not in saved
    ]
    lines += [f"only in it: {name} {_kind(saved[name])}" for name in saved if name not in wanted]
    lines += [
        f"{name}: stored {_kind(saved[name])}, wanted {_kind(wanted[name])}"
        for name in wanted
        if name in saved and saved[name] != wanted[name]
    ]
    if lines:
        shown = "\n  ".join(
            lines[:12] + ([f"... {len(lines) - 12} more"] if len(lines) > 12 else [])
        )
        raise CheckpointMismatch(
            f"{where} holds another model or optimizer than this run:\n  {shown}\n"
            "Use the config it was written with (config.json beside it), another --workdir, or "
            "train.init_from to take over the parameters that fit."
        )


def _kind(leaf: Mapping[str, Any]) -> str:
    return f"{leaf['dtype']}{leaf['shape']}" + (f" key:{leaf['key']}" if "key" in leaf else "")


def stored_names(tree: Mapping[str, Any]) -> dict[str, str]:
    """{name of a leaf in this version: its name in a checkpoint of this tree.json}."""
    if tree["format"] >= 2:
        return {name: name for name in tree["leaves"]}
    renamed = {name: name.removeprefix("extra/") for name in tree["leaves"]}
    return {
        (name if name == short else f"model_state/{short}"): name for name, short in renamed.items()
    }


# --- the manifest ----------------------------------------------------------------------------


def stored_files(path: pathlib.Path) -> list[str]:
    """Relative names of all files of a checkpoint but the manifest, sorted.

    Several processes list while others are still writing their part of the manifest, under a
    hidden name that does not last: neither is a file of the checkpoint.
    """
    found = (file for file in path.rglob("*") if file.is_file())
    names = (file.relative_to(path).as_posix() for file in found)
    return sorted(name for name in names if not name.lstrip(".").startswith("manifest"))


def digest(path: pathlib.Path, names: Iterable[str], sync: bool) -> dict[str, list[Any]]:
    """{name: [bytes, SHA-256]} of files below `path`; `sync` also flushes them to disk."""

    def one(name: str) -> list[Any]:
        with open(path / name, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
            if sync:
                os.fsync(file.fileno())
            return [file.tell(), found]

    names = list(names)
    with concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return dict(zip(names, pool.map(one, names), strict=True))


def _seal(entries: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def write_manifest(path: pathlib.Path, entries: Mapping[str, Any]) -> None:
    """Writes manifest.json, sealed by a hash of its own entries."""
    manifest = {"format": FORMAT, "files": dict(entries), "sha256": _seal(entries)}
    files.write_text(path / MANIFEST, json.dumps(manifest))


def read_manifest(path: pathlib.Path) -> dict[str, list[Any]] | None:
    """Entries of the manifest; None where there is none (such a checkpoint is unverified).

    Raises:
      CheckpointError: the manifest itself is damaged, or of a newer format.
    """
    try:
        text = (path / MANIFEST).read_bytes()
    except FileNotFoundError:
        return None
    try:
        manifest = json.loads(text)
        entries, number, seal = manifest["files"], manifest["format"], manifest["sha256"]
        whole = seal == _seal(entries)
    except (ValueError, KeyError, TypeError, AttributeError):
        whole, number = False, FORMAT
    if not whole:
        raise CheckpointError(f"{path / MANIFEST} is damaged")
    if number > FORMAT:
        raise CheckpointError(
            f"{path} is of format {number}, this version reads up to {FORMAT}: update the package"
        )
    return entries


def damage(path: pathlib.Path, share: int = 0, shares: int = 1) -> tuple[list[str], bool]:
    """Reads every `shares`-th file and compares it with the manifest.

    Returns:
      What is wrong (empty: nothing found), and whether there was a manifest to compare with.
    """
    try:
        entries = read_manifest(path)
        if entries is None:
            return [], False
        present = set(stored_files(path))
        lost = [f"{name} is missing" for name in sorted(set(entries) - present)]
        names = sorted(set(entries) & present)[share::shares]
        found = digest(path, names, sync=False)
    except (CheckpointError, OSError) as error:
        return [str(error)], True
    wrong = [
        f"{name} has {found[name][0]} bytes, not {entries[name][0]}"
        if found[name][0] != entries[name][0]
        else f"{name} is not what was written (checksum)"
        for name in names
        if found[name] != entries[name]
    ]
    return lost + wrong, True


# --- errors ----------------------------------------------------------------------------------

_CAUSES = (
    ((errno.ENOSPC, errno.EDQUOT), ("no space left", "resource_exhausted", "quota exceeded"),
     "the disk is full: free space there, lower checkpoint.keep_last or checkpoint.keep_best, or "
     "use another --workdir"),
    ((errno.EFBIG,), ("file too large",),
     "a file is larger than this process may write: raise `ulimit -f`, or use another --workdir"),
    ((errno.EROFS, errno.EACCES, errno.EPERM),
     ("read-only file system", "permission denied", "operation not permitted"),
     "it cannot be written to: remount it writable, fix its owner and mode, or use another "
     "--workdir"),
)  # fmt: skip


def explain(error: BaseException, directory: pathlib.Path, step: int) -> CheckpointError:
    """The error of a failed save, with the path, the likely cause and the remedy."""
    if isinstance(error, CheckpointError):
        return error
    number, text = getattr(error, "errno", None), str(error).lower()
    remedy = "the earlier checkpoints are untouched; see the cause above"
    for numbers, words, advice in _CAUSES:
        if number in numbers or any(word in text for word in words):
            remedy = f"{advice} (earlier checkpoints are untouched)"
            break
    first = str(error).strip().splitlines()[0][:300] if str(error).strip() else repr(error)
    return CheckpointError(
        f"could not save the checkpoint of step {step} in {directory}: "
        f"{type(error).__name__}: {first}: {remedy}"
    )
