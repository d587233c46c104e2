"""Leases: at most one process runs a cell, on any number of hosts, even if processes are killed.

    leases/<cell>/<n>     the n-th lease of the cell; the highest number counts

A lease is taken by creating the file of the next number with its content in one step (`link`); only
one process can. So two that find the same dead lease cannot both take it over. Numbers only grow, and
the highest file is never deleted, so a process that decided long ago on an old number finds a higher
one beside its own and gives way. A released lease says so in its file.

The holder touches its file every few seconds. A lease is dead when its process is (seen on the same
host) and the file was not touched for two heartbeats, or when it was not touched for `TTL` seconds by
the clock of the file system, which all hosts share. A holder that was only asleep finds the higher
number at its next heartbeat and stops.
"""

import contextlib
import errno
import os
import pathlib
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from scaling.track import files, lock

TTL = float(os.environ.get("SCALING_LEASE_SECONDS", "60"))
BEATS = 12  # heartbeats in a TTL
_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK)


class Lease:
    """One cell held by this process, from `take` to `release`.

    Attributes:
      attempt: number of the lease, from 1: how often the cell was started.
      lost: another process has taken the cell over.
    """

    def __init__(self, path: pathlib.Path, content: dict[str, Any]) -> None:
        self.path, self.cell, self.attempt = path, path.parent.name, int(path.name)
        self.lost = False
        self._content = content

    def beat(self) -> bool:
        """Touches the file; False (and `lost`) once another process holds the cell."""
        try:
            self.lost = self.lost or _newest(self.path.parent) != self.attempt
        except OSError:  # such as a stale file handle: the next beat will tell
            return True
        if not self.lost:
            with contextlib.suppress(OSError):
                os.utime(self.path)
        return not self.lost

    def release(self, state: str) -> None:
        """Gives the cell back and records its state; does nothing if it was lost."""
        if self.beat():
            files.write_json(self.path, self._content | {"released": state})


def take(leases: pathlib.Path, cell: str) -> Lease | None:
    """The lease of a cell, or None while another process holds it; OSError if `leases` is not writable.

    Waits for the missing heartbeats of a process that is gone.
    """
    folder = leases / cell
    folder.mkdir(parents=True, exist_ok=True)
    number = _newest(folder)
    if _holder(folder, number) is not None or not _is_quiet(folder / str(number)):
        return None
    content = lock.identity() | {"token": uuid.uuid4().hex}
    target = folder / str(number + 1)
    if not _create(target, files.to_json(content)):
        return None
    if _newest(folder) != number + 1:
        # Decided on an old number: other processes have taken the cell since.
        target.unlink(missing_ok=True)
        return None
    for old in range(max(1, number - 8), number + 1):
        (folder / str(old)).unlink(missing_ok=True)
    return Lease(target, content)


def holder(leases: pathlib.Path, cell: str) -> dict[str, Any] | None:
    """The process that runs a cell now: pid, hostname, attempt; None if no live process does."""
    number = _newest(leases / cell)
    content = _holder(leases / cell, number)
    return None if content is None else content | {"attempt": number}


class Heartbeat:
    """Keeps leases alive in a thread, and calls `stop` with the reason when one is lost or the parent,
    the process that must stay this one's parent, is gone.
    """

    def __init__(self, stop: Callable[[str], None], parent: int | None = None) -> None:
        self._stop, self._parent = stop, parent
        self._leases: Sequence[Lease] = ()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def watch(self, leases: Sequence[Lease]) -> None:
        """The leases to keep alive from now on."""
        self._leases = tuple(leases)

    def _run(self) -> None:
        beaten = 0.0
        while not self._end.wait(min(1.0, TTL / BEATS)):
            if self._parent is not None and os.getppid() != self._parent:
                self._parent = None
                self._stop("the launcher is gone")
            if time.monotonic() - beaten < TTL / BEATS:
                continue
            beaten = time.monotonic()
            for lease in self._leases:
                if not lease.beat():
                    self._stop(f"cell {lease.cell} was taken over")

    def close(self) -> None:
        """Ends the thread."""
        self._end.set()
        self._thread.join()


def _newest(folder: pathlib.Path) -> int:
    """Highest number in a cell's folder; 0 before the first lease."""
    try:
        return max((int(name) for name in os.listdir(folder) if name.isdecimal()), default=0)
    except FileNotFoundError:
        return 0


def _holder(folder: pathlib.Path, number: int) -> dict[str, Any] | None:
    """Content of a lease that a live process holds; None if it is released, dead or not there."""
    path = folder / str(number)
    try:
        content = files.read_json(path)
        content = content if isinstance(content, dict) else {}
    except (OSError, ValueError):  # being written, or deleted meanwhile (only older ones are)
        content = {}
    if content.get("released"):
        return None
    if lock.near(content):
        return content if lock.lives(content) else None
    try:
        touched = path.stat().st_mtime
    except OSError:
        return None
    return content if lock.clock(folder) - touched < TTL else None


def _is_quiet(path: pathlib.Path) -> bool:
    """Whether a lease is released, not there, or without heartbeats for as long as two should take."""
    try:
        if files.read_json(path).get("released"):
            return True
        return lock.quiet(path, lock.QUIET * TTL / BEATS)
    except (OSError, ValueError, AttributeError):  # as in `_holder`, which found nobody
        return True


def _create(target: pathlib.Path, text: str) -> bool:
    """Creates a file with its content at once; False if it exists."""
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    temporary.write_text(text, encoding="utf-8")
    try:
        os.link(temporary, target)
    except FileExistsError:
        # A network file system may repeat the call and answer the second one: then it is ours.
        return temporary.stat().st_nlink > 1
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # No hard links here. Until the content is there, a reader finds a fresh lease without holder.
        with contextlib.suppress(FileExistsError), open(target, "x", encoding="utf-8") as file:
            file.write(text)
            return True
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True
