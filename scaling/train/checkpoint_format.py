"""Checkpoints on disk: the layout, and the manifest that tells whole from damaged.

    checkpoints/00000100/
      arrays/          the arrays, an Orbax PyTree checkpoint of nested dictionaries
      tree.json        format, step, and the shape and dtype of every array by path
      metrics.json     numbers known at that step
      config.json ...  small texts, named by the caller
      manifest.json    size and SHA-256 of every other file; written last

The directory is built under the name `.tmp-00000100` and renamed when the manifest is in it, so a
directory whose name is a number is a finished checkpoint. Orbax notices some damage but not every
flipped byte of array data, hence the manifest.

Every format stays readable for ever (tests/fixtures/checkpoint_v1*); a change raises FORMAT. Format
2 renamed the state's field `extra` to `model_state`.
"""

import concurrent.futures
import errno
import hashlib
import json
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from scaling.track import files

FORMAT = 2
ARRAYS, TREE, METRICS, MANIFEST = "arrays", "tree.json", "metrics.json", "manifest.json"
OWN_FILES = (TREE, METRICS, MANIFEST)
TEMPORARY = ".tmp-"

T = TypeVar("T")


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read; says where, why, and what to do."""


class CheckpointMismatch(CheckpointError):
    """A whole checkpoint, but of another tree: other names, shapes or dtypes than asked for."""


_REMEDIES = {
    (errno.ENOSPC, errno.EDQUOT): (
        "the disk is full: free space there, lower checkpoint.keep_last or checkpoint.keep_best, "
        "or use another --workdir"
    ),
    (errno.EFBIG,): (
        "a file is larger than this process may write: raise `ulimit -f`, or use another --workdir"
    ),
    (errno.EROFS, errno.EACCES, errno.EPERM): (
        "it cannot be written to: remount it writable, fix its owner and mode, or use another "
        "--workdir"
    ),
}


def explain(error: Exception, what: str) -> CheckpointError:
    """The error to raise when `what` failed, with the likely cause and the remedy."""
    if isinstance(error, CheckpointError):
        return error
    text, remedy = str(error).strip() or repr(error), "see the cause above"
    for numbers, advice in _REMEDIES.items():
        # By the system's words: TensorStore's errors have them too, and no errno.
        if any(os.strerror(number) in text for number in numbers):
            remedy = advice
    return CheckpointError(
        f"{what}: {type(error).__name__}: {text.splitlines()[0][:300]}: {remedy} (earlier "
        "checkpoints are untouched)"
    )


# --- directories -----------------------------------------------------------------------------


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
    """The absolute folder of checkpoints that `directory` (itself, or a run directory) means."""
    path = pathlib.Path(directory).absolute()
    return path / "checkpoints" if (path / "checkpoints").is_dir() else path


def drop(path: pathlib.Path) -> None:
    """Deletes a checkpoint; a kill half-way leaves a leftover, not a damaged checkpoint."""
    doomed = path.with_name(f"{TEMPORARY}delete-{path.name}")
    if doomed.exists():
        shutil.rmtree(doomed)
    path.rename(doomed)
    shutil.rmtree(doomed)


# --- the manifest ----------------------------------------------------------------------------


def stored_files(path: pathlib.Path) -> list[str]:
    """Relative names of all files of a checkpoint other than the manifest, sorted.

    Several processes list while others are still writing their part of the manifest, under a
    hidden name that does not last: neither is a file of the checkpoint.
    """
    names = (p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())
    return sorted(name for name in names if not name.lstrip(".").startswith("manifest"))


def digest(path: pathlib.Path, names: Iterable[str], sync: bool) -> dict[str, list[Any]]:
    """{name: [bytes, SHA-256]} of files below `path`; `sync` also flushes them to disk."""

    def hash_file(name: str) -> list[Any]:
        with open(path / name, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            if sync:
                os.fsync(file.fileno())
            return [file.tell(), sha256]

    names = list(names)
    with concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return dict(zip(names, pool.map(hash_file, names), strict=True))


def _seal(entries: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def write_manifest(path: pathlib.Path, entries: Mapping[str, list[Any]]) -> None:
    """Writes manifest.json, sealed by a hash of its own entries."""
    manifest = {"format": FORMAT, "files": dict(entries), "sha256": _seal(entries)}
    files.write_text(path / MANIFEST, json.dumps(manifest))


def find_damage(path: pathlib.Path, share: int = 0, shares: int = 1) -> list[str]:
    """Compares every `shares`-th file with the manifest; what is wrong (empty: nothing).

    Raises:
      CheckpointError: it is of a format newer than this version, which is not damage.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        entries, number = manifest["files"], manifest["format"]
        if manifest["sha256"] != _seal(entries):
            return [f"{path / MANIFEST} is not what was written"]
        if number > FORMAT:
            raise CheckpointError(
                f"{path} is of format {number}, this version reads up to {FORMAT}: update the "
                "package"
            )
        present = set(stored_files(path))
        damage = [f"{name} is missing" for name in sorted(entries.keys() - present)]
        actual = digest(path, sorted(entries.keys() & present)[share::shares], sync=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [f"it cannot be compared with its manifest ({error!r})"]
    for name, (size, sha256) in actual.items():
        if size != entries[name][0]:
            damage.append(f"{name} has {size} bytes, not {entries[name][0]}")
        elif sha256 != entries[name][1]:
            damage.append(f"{name} is not what was written (checksum)")
    return damage


def find_whole(
    directory: pathlib.Path,
    available: list[int],
    step: int | None,
    read: Callable[[pathlib.Path], T],
    together: bool = False,
) -> tuple[int, T, list[str]]:
    """The newest whole checkpoint: falls back from each damaged one to the one before.

    Args:
      directory: the folder of checkpoints.
      available: steps in it.
      step: this step and no other; None takes the newest.
      read: what is wanted of a checkpoint, given its directory.
      together: all processes call this; each compares its share of the files with the manifest.

    Returns:
      (step, result of `read`, notes); the notes say what was damaged or could not be verified.

    Raises:
      CheckpointMismatch: raised by `read`.
      CheckpointError: there is none, all are damaged (each is listed), or `read` fails on whole
        files.
    """
    count = jax.process_count() if together else 1
    index = jax.process_index() if together else 0

    def anywhere(damage: list[str]) -> bool:
        flag = np.asarray(bool(damage), np.int32)
        return bool(flag if count == 1 else np.any(multihost_utils.process_allgather(flag)))

    notes: list[str] = []
    for candidate in [s for s in sorted(available, reverse=True) if step in (None, s)]:
        path = step_path(directory, candidate)
        verified = (path / MANIFEST).exists()
        damage = find_damage(path, index, count) if verified else []
        if not anywhere(damage):
            try:
                result = read(path)
            except CheckpointMismatch:
                raise
            except Exception as error:
                if verified:
                    raise CheckpointError(f"{path} is whole but cannot be read: {error}") from error
                damage = [f"{type(error).__name__}: {str(error).strip()[:200]}"]
            if not anywhere(damage):
                if notes:
                    notes.append(f"fell back to step {candidate}")
                if not verified:
                    notes.append(f"step {candidate} has no manifest, so it could not be verified")
                return candidate, result, notes
        reason = "; ".join(damage[:3]) or "another process could not read it"
        notes.append(f"step {candidate} is damaged: {reason} (in {path})")
    if notes:
        raise CheckpointError(
            "no checkpoint can be read:\n  " + "\n  ".join(notes) + "\nRestore the files from a "
            "backup, or start again with another --workdir."
        )
    raise CheckpointError(
        f"no checkpoint{'' if step is None else f' of step {step}'} in {directory}; there is "
        f"{available or 'none'}"
    )
