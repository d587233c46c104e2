"""Prepared data on disk: directories named by the hash of what they were made from.

An entry is built in a temporary directory and renamed into place, so that it is whole or absent.
Its sidecar `entry.json` holds size and checksums of every file: damage is seen and repaired.
Two processes that need the same entry at once: the second waits for the first (a file lock); where
locks do not work (some network file systems), both build and the first rename wins.
"""

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import logging
import os
import pathlib
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from scaling.data.errors import DataError
from scaling.track import files

_LOG = logging.getLogger(__name__)

# Part of every key. Raise it when the same inputs give other bytes, so that old entries are left.
FORMAT = 1
_SIDECAR = "entry.json"
_BLOCK = 1 << 24  # bytes under one checksum
_BLOCKS_CHECKED = 128  # at most so many blocks (2 GiB) of a file are read when it is opened
_STALE_SECONDS = 24 * 3600


@dataclasses.dataclass(frozen=True)
class Entry:
    """A prepared entry: its directory and what its builder noted about it."""

    path: pathlib.Path
    meta: Mapping[str, Any]


def digest(content: object) -> str:
    """SHA-256, in hex, of JSON-able content."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def key_of(description: Mapping[str, Any]) -> str:
    """20 hex digits that stand for a JSON-able description."""
    text = json.dumps({"format": FORMAT, **description}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def cached(
    root: pathlib.Path, name: str, build: Callable[[pathlib.Path], Mapping[str, Any]]
) -> Entry:
    """The entry `root/name`, built first if it is absent or damaged; or DataError.

    Args:
      name: a readable word and the key of everything that the contents depend on.
      build: writes the files into the directory it is given; returns JSON-able notes.
    """
    path = root / name
    entry = _open(path)
    if entry is not None:
        return entry
    with _writable(root), _lock(root, name):
        # Looked at before it is opened: where locks do nothing another process may publish a whole
        # entry between the two, which is not the damaged one to discard.
        there = path.exists()
        entry = _open(path)  # another process may have built it while this one waited
        if entry is not None:
            return entry
        _remove_leftovers(root, name)
        if there:
            _discard(path)
        work = pathlib.Path(tempfile.mkdtemp(prefix=f".{name}.", dir=root))
        try:
            meta = dict(build(work))
            _write_sidecar(work, meta)
            work.chmod(0o755)
            return Entry(_publish(work, path), meta)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def stamp(path: pathlib.Path) -> list[int]:
    """Size and times of change of a file, in ns.

    Of the two times a program may set one (`cp -p`, `rsync -t`, `touch -r`), and the kernel keeps
    the other.
    """
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def file_hash(path: pathlib.Path, root: pathlib.Path) -> str:
    """sha256 of a file's bytes, remembered in the cache under its path, size and times of change.

    A file changed within the last two seconds is not remembered: it could change again
    without its time showing it. Where the cache cannot be written the hash is computed every time.
    """
    stat = path.stat()
    seen = [str(path.resolve()), *stamp(path), stat.st_ino]
    memo = root / "hashes" / f"{key_of({'path': seen[0]})}.json"
    with contextlib.suppress(OSError, ValueError, KeyError):
        known = files.read_json(memo)
        if known["stamp"] == seen:
            return known["sha256"]
    digest = files.sha256(path)
    if time.time() - max(stat.st_mtime, stat.st_ctime) > 2:
        with contextlib.suppress(OSError):
            files.write_json(memo, {"stamp": seen, "sha256": digest})
    return digest


def _open(path: pathlib.Path) -> Entry | None:
    """The entry if it is there and whole; a damaged one is reported and counts as absent."""
    if not path.is_dir():
        return None
    try:
        sidecar = files.read_json(path / _SIDECAR)
        for name, record in sidecar["files"].items():
            _verify(path / name, record)
        return Entry(path, sidecar["meta"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        _LOG.warning("%s is damaged and will be rebuilt: %s", path, error)
        return None


def _verify(path: pathlib.Path, record: Mapping[str, Any]) -> None:
    size, sums = record["size"], record["crc32"]
    if path.stat().st_size != size:
        raise ValueError(f"{path.name} has {path.stat().st_size} bytes instead of {size}")
    step = max(1, -(-len(sums) // _BLOCKS_CHECKED))
    with path.open("rb") as file:
        for block in range(0, len(sums), step):
            file.seek(block * _BLOCK)
            if zlib.crc32(file.read(_BLOCK)) != sums[block]:
                raise ValueError(f"{path.name} has a wrong checksum near byte {block * _BLOCK}")


def _write_sidecar(work: pathlib.Path, meta: Mapping[str, Any]) -> None:
    records = {}
    for path in sorted(work.iterdir()):
        with path.open("rb") as file:
            sums = [zlib.crc32(block) for block in iter(lambda: file.read(_BLOCK), b"")]
            os.fsync(file.fileno())
        records[path.name] = {"size": path.stat().st_size, "crc32": sums}
    files.write_json(work / _SIDECAR, {"files": records, "meta": meta})


def _publish(work: pathlib.Path, path: pathlib.Path) -> pathlib.Path:
    try:
        work.rename(path)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY) or _open(path) is None:
            raise
    return path


def _discard(path: pathlib.Path) -> None:
    """Moves a damaged entry out of the way before deleting it: readers keep their open files."""
    grave = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    path.rename(grave / "damaged")
    shutil.rmtree(grave, ignore_errors=True)


def _remove_leftovers(root: pathlib.Path, name: str) -> None:
    """Deletes what killed builds of this entry left behind."""
    for path in root.glob(f".{name}.*"):
        with contextlib.suppress(OSError):
            if path.is_dir() and time.time() - path.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _writable(root: pathlib.Path) -> Iterator[None]:
    """Turns what a full or read-only disk raises into an error with a remedy."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        free = ""
        with contextlib.suppress(OSError):
            free = f" ({shutil.disk_usage(root).free / 2**20:,.0f} MiB free)"
        raise DataError(
            f"cannot write prepared data to the cache {root}{free}: {error}. "
            "Make room there, or name a writable directory with data.cache_dir=DIR or "
            "SCALING_CACHE=DIR"
        ) from error


@contextlib.contextmanager
def _lock(root: pathlib.Path, name: str) -> Iterator[None]:
    """Holds this entry's lock; says so when another process is building. A kill releases it."""
    with (root / f".{name}.lock").open("w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _LOG.info("waiting for another process that is preparing %s", root / name)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:  # no locks here: the rename alone decides
            _LOG.info("no file locks in %s (%s)", root, error)
        yield
