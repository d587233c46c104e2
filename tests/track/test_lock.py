"""The lock of a run directory."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest
from helpers import ROOT

from scaling.track import lock as lock_lib
from scaling.track.lock import Lock, LockedError
from scaling.track.run_dir import RunDir


def test_two_processes_cannot_train_in_one_directory(tmp_path: pathlib.Path) -> None:
    script = (
        "import pathlib, sys, time\nfrom scaling.track.lock import Lock\n"
        "lock = Lock(pathlib.Path(sys.argv[1])); print('locked', flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "locked\n"
        with pytest.raises(LockedError, match=f"in use by process {child.pid} .*another --workdir"):
            RunDir(tmp_path, "{}", "f1", {})
        child.send_signal(signal.SIGKILL)
    with RunDir(tmp_path, "{}", "f1", {}) as run:
        assert f"took over the run directory from process {child.pid}" in run.notes[0]
        with pytest.raises(LockedError, match=str(os.getpid())):
            Lock(tmp_path)
    lock = Lock(tmp_path)
    assert lock.notes == []
    lock.release()
    lock.release()


def test_without_kernel_locks_the_text_decides(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(lock_lib.fcntl, "flock", refuse)
    monkeypatch.setattr(lock_lib, "BEAT", 0.1)
    own = lock_lib.identity()
    for dead in ({"boot": "x"}, {"pid": 2**22 + 1}, {"start_ticks": "1"}):
        (tmp_path / "lock").write_text(json.dumps(own | dead))
        lock = Lock(tmp_path)
        assert "took over" in lock.notes[0]
        lock.release()
    for alive in ({}, {"hostname": "elsewhere"}):
        (tmp_path / "lock").write_text(json.dumps(own | alive))
        with pytest.raises(LockedError):
            Lock(tmp_path)


def test_without_kernel_locks_a_heartbeat_keeps_the_directory_of_a_process_that_looks_gone(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(lock_lib.fcntl, "flock", refuse)
    monkeypatch.setattr(lock_lib, "BEAT", 0.2)
    monkeypatch.setattr(lock_lib, "lives", lambda _: False)
    held = Lock(tmp_path)
    with pytest.raises(LockedError, match=f"in use by process {os.getpid()}"):
        Lock(tmp_path)
    held._end.set()  # as a kill ends the thread, leaving the file
    assert "took over" in Lock(tmp_path).notes[0]


def test_a_stepped_clock_does_not_make_a_living_process_look_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a process that began at a wall-clock second, that second moves with the clock."""
    own = lock_lib.identity()
    linux = pytest.importorskip("psutil._pslinux")
    before = linux.boot_time()
    monkeypatch.setattr(linux, "boot_time", lambda: before + 5)
    assert lock_lib.lives(own)
    assert lock_lib.lives({name: own[name] for name in own if name != "start_ticks"})
    assert not lock_lib.lives(own | {"start_ticks": "1"})
