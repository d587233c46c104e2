"""A lock on a run directory: two processes must not train in one.

The lock is the kernel's (`flock`), so it vanishes with its holder, however that died, also across a
reboot. What the file says (process, host, boot) is there for the message, and for file systems
without locks, where it decides together with a heartbeat: the holder touches the file, and a process
that looks gone has lost the directory only when it no longer does. (`filelock` 4.2 names no holder, and
has a way without `flock` for one of the three errors that say so.)
"""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import socket
import tempfile
import threading
import time
from typing import Any

import psutil

from scaling.track import files, provenance

NAME = "lock"
BEAT = 5.0  # seconds between two heartbeats, where the kernel has no locks
QUIET = 2.0  # heartbeats that a process that looks gone must miss
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class LockedError(RuntimeError):
    """Another process trains in this run directory."""


class Lock:
    """Held from construction to `release`, or to the end of the process.

    Attributes:
      notes: says so when the lock of a dead process was taken over.
    """

    def __init__(self, workdir: pathlib.Path) -> None:
        """Takes the lock at once or not at all; LockedError names the process that has it."""
        self.path = workdir / NAME
        self.notes: list[str] = []
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        self._end = threading.Event()
        try:
            self._take()
        except BaseException:
            os.close(self._file)
            self._file = -1
            raise

    def _take(self) -> None:
        holder = self._holder()
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            unlocked = error.errno in _NO_LOCKS
            if not unlocked or lives(holder) or (holder and not quiet(self.path, QUIET * BEAT)):
                raise LockedError(self._message(holder)) from error
            threading.Thread(target=self._beat, name="lock", daemon=True).start()
        if holder:
            process = f"process {holder.get('pid')} on {holder.get('hostname')}"
            self.notes.append(
                f"took over the run directory from {process}, which ended without notice"
            )
        text = files.to_json(identity() | {"since": provenance.now()})
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, text.encode(), 0)

    def _beat(self) -> None:
        while not self._end.wait(BEAT):
            with contextlib.suppress(OSError):
                os.utime(self.path)

    def _holder(self) -> dict[str, Any]:
        """What the file says, empty for a released lock or a torn text."""
        with contextlib.suppress(ValueError):
            value = json.loads(os.pread(self._file, 1 << 16, 0) or b"{}")
            return value if isinstance(value, dict) else {}
        return {}

    def _message(self, holder: dict[str, Any]) -> str:
        holder_name = (
            f"process {holder.get('pid')} on {holder.get('hostname')} (since {holder.get('since')})"
        )
        if lives(holder):
            remedy = "wait for it, stop it, or use another --workdir"
        else:
            remedy = (
                "that process cannot be seen from here but it, or a child of it, holds on: see "
                f"`fuser -v {self.path}`"
            )
        return f"{self.path.parent} is in use by {holder_name}: {remedy}"

    def release(self) -> None:
        """Gives the directory back; may be called twice."""
        self._end.set()
        if self._file >= 0:
            os.ftruncate(self._file, 0)
            os.close(self._file)
            self._file = -1


def quiet(path: pathlib.Path, seconds: float) -> bool:
    """Waits until nobody has touched a file for so long; False as soon as somebody does.

    A process that looks gone may be one that cannot be seen from here.
    """
    touched = path.stat().st_mtime
    end = time.monotonic() + touched + seconds - clock(path.parent)
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, 0.2))
        if path.stat().st_mtime != touched:
            return False
    return True


def clock(folder: pathlib.Path) -> float:
    """Now, by the clock that stamps files in this folder."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock-") as file:
        return os.fstat(file.fileno()).st_mtime


def identity() -> dict[str, Any]:
    """This process, so that another one can tell later whether it still runs."""
    pid = os.getpid()
    return {
        "pid": pid,
        "start_ticks": _start(pid),
        "hostname": socket.gethostname(),
        "namespace": _namespace(),
        "boot": _boot(),
    }


def _start(pid: int) -> str | None:
    """When a process began, in ticks since boot; None once it is gone.

    Not in seconds since 1970: those of a living process change when the clock is stepped.
    """
    try:
        if pathlib.Path("/proc/self/stat").exists():
            # The second field, the program's name in brackets, may hold spaces and brackets.
            stat = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
            return stat.rpartition(")")[2].split()[19]
        return str(psutil.Process(pid).create_time())
    except (OSError, TypeError, ValueError, psutil.Error):  # also of a number that is not one
        return None


def _boot() -> str:
    path = pathlib.Path("/proc/sys/kernel/random/boot_id")
    return (
        path.read_text(encoding="utf-8").strip() if path.exists() else str(int(psutil.boot_time()))
    )


def _namespace() -> str:
    """Where process numbers mean something: containers may share a host name, not these."""
    path = pathlib.Path("/proc/self/ns/pid")
    return os.readlink(path) if path.exists() else ""


def near(holder: dict[str, Any]) -> bool:
    """Whether we can tell if the process named in the file still runs."""
    same = holder.get("hostname") == socket.gethostname()
    return same and holder.get("namespace", _namespace()) == _namespace()


def lives(holder: dict[str, Any]) -> bool:
    """Whether the process named in the file may still run; of one that is not near, it may."""
    if not holder:
        return False
    if not near(holder):
        return True
    if holder.get("boot") != _boot():
        return False
    start = _start(holder.get("pid", -1))
    return start is not None and holder.get("start_ticks", start) == start
