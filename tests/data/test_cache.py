import contextlib
import errno
import multiprocessing
import os
import pathlib
import resource
import subprocess
import sys
import time

import numpy as np
import pytest
from data_helpers import unprivileged

from scaling.data import cache
from scaling.data.cache import cached, file_hash, key_of
from scaling.data.errors import DataError
from scaling.track.paths import cache_root


def build(work):
    np.save(work / "x.npy", np.arange(1000))
    return {"count": 1000}


def never(work):
    raise AssertionError("built again")


def test_builds_once(tmp_path):
    first = cached(tmp_path, "x-1", build)
    assert first.meta == {"count": 1000}
    again = cached(tmp_path, "x-1", never)
    assert again == first
    np.testing.assert_array_equal(np.load(again.path / "x.npy"), np.arange(1000))


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "a flipped bit": lambda entry: flip(entry / "x.npy"),
    "a short file": lambda entry: os.truncate(entry / "x.npy", 500),
    "a missing file": lambda entry: (entry / "x.npy").unlink(),
    "a missing sidecar": lambda entry: (entry / "entry.json").unlink(),
    "an empty sidecar": lambda entry: (entry / "entry.json").write_text(""),
    "an odd sidecar": lambda entry: (entry / "entry.json").write_text("[1]"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_seen_told_and_repaired(tmp_path, damage, caplog):
    entry = cached(tmp_path, "x-1", build)
    mapped = np.load(entry.path / "x.npy", mmap_mode="r") if "short" not in damage else None
    DAMAGE[damage](entry.path)
    repaired = cached(tmp_path, "x-1", build)
    assert "damaged and will be rebuilt" in caplog.text
    np.testing.assert_array_equal(np.load(repaired.path / "x.npy"), np.arange(1000))
    assert mapped is None or mapped[-1] == 999  # who had it open is not disturbed
    assert cached(tmp_path, "x-1", never).path == entry.path


def test_a_build_that_fails_leaves_nothing(tmp_path):
    def fail(work):
        (work / "half").write_text("half")
        raise KeyError("boom")

    with pytest.raises(KeyError):
        cached(tmp_path, "x-1", fail)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []
    assert cached(tmp_path, "x-1", build).meta == {"count": 1000}


def slow_build(root, log):
    def build_slowly(work):
        with open(log, "a") as file:
            file.write("built\n")
        time.sleep(0.3)
        return build(work)

    assert cached(root, "x-1", build_slowly).meta == {"count": 1000}


def test_two_processes_build_it_once(tmp_path):
    context = multiprocessing.get_context("fork")
    log = tmp_path / "log"
    jobs = [context.Process(target=slow_build, args=(tmp_path, log)) for _ in range(3)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(60)
        assert job.exitcode == 0
    assert log.read_text() == "built\n"


def test_without_locks_the_first_rename_wins(tmp_path):
    def other_was_faster(work):
        os.rename(work, tmp_path / "mine")
        cached(tmp_path, "x-2", build)
        os.rename(tmp_path / "x-2", tmp_path / "x-1")
        os.rename(tmp_path / "mine", work)
        return build(work)

    entry = cached(tmp_path, "x-1", other_was_faster)
    assert entry.path == tmp_path / "x-1"
    assert cached(tmp_path, "x-1", never).meta == {"count": 1000}


def test_an_entry_that_another_has_just_published_is_not_discarded(tmp_path, monkeypatch):
    """Where locks do nothing: it appears after this process has found none."""
    real, inodes = cache._open, []

    def publish_after(path):
        found = real(path)
        if found is None and len(inodes) < 2:
            inodes.append(0)
            if len(inodes) == 2:  # the look inside the lock
                monkeypatch.setattr(cache, "_open", real)
                monkeypatch.setattr(cache, "_lock", lambda *_: contextlib.nullcontext())
                inodes.append(cached(tmp_path, "x-1", build).path.stat().st_ino)
        return found

    monkeypatch.setattr(cache, "_open", publish_after)
    assert cached(tmp_path, "x-1", build).path.stat().st_ino == inodes[-1]


def test_what_killed_builds_left_is_removed(tmp_path):
    old, new = tmp_path / ".x-1.old", tmp_path / ".x-1.new"
    old.mkdir()
    new.mkdir()
    long_ago = time.time() - 3 * 24 * 3600
    os.utime(old, (long_ago, long_ago))
    cached(tmp_path, "x-1", build)
    assert not old.exists()
    assert new.exists()


def test_a_read_only_directory_is_an_error_with_a_remedy(tmp_path):
    root = tmp_path / "cache"
    cached(root, "x-1", build)
    root.chmod(0o555)
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent.stat().st_uid == os.geteuid() and parent != pathlib.Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)
    with unprivileged():
        assert cached(root, "x-1", never).meta == {"count": 1000}  # reading needs no writing
        with pytest.raises(DataError, match=r"cannot write .*cache.*data\.cache_dir"):
            cached(root, "x-2", build)


def test_a_path_that_is_a_file_is_an_error_with_a_remedy(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="SCALING_CACHE"):
        cached(tmp_path / "file", "x-1", build)


FULL = """
import sys, pathlib, resource
import numpy as np
from scaling.data.cache import cached
from scaling.data.errors import DataError
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
def build(work):
    np.save(work / "x.npy", np.zeros(1_000_000))
    return {}
try:
    cached(pathlib.Path(sys.argv[1]), "x-1", build)
except DataError as error:
    print(error)
"""


def test_a_full_disk_is_an_error_with_a_remedy(tmp_path):
    assert resource.RLIMIT_FSIZE is not None
    out = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "MiB free" in out.stdout
    assert "Make room there" in out.stdout
    assert not any(path.is_dir() for path in tmp_path.iterdir())


@pytest.fixture
def later(monkeypatch):
    """The clock of `file_hash` is 100 s ahead, so that what was just written counts as settled."""
    clock = time.time
    monkeypatch.setattr(cache.time, "time", lambda: clock() + 100)


def test_a_change_whose_time_was_put_back_is_seen(tmp_path, later):
    """As `cp -p`, `rsync -t --inplace` and `touch -r` do."""
    file, root = tmp_path / "f", tmp_path / "cache"
    file.write_text("one")
    os.utime(file, (1e9, 1e9))
    first = file_hash(file, root)
    assert list((root / "hashes").iterdir())
    file.write_text("two")
    os.utime(file, (1e9, 1e9))
    assert file_hash(file, root) != first


def test_file_hash_is_remembered_and_follows_changes(tmp_path, monkeypatch):
    file, root = tmp_path / "f", tmp_path / "cache"
    file.write_text("one")
    first = file_hash(file, root)
    assert not root.exists()  # just changed, so it could change again in the same tick
    file.write_text("two")
    assert file_hash(file, root) != first
    clock = time.time
    monkeypatch.setattr(cache.time, "time", lambda: clock() + 100)
    second = file_hash(file, root)
    memo = list((root / "hashes").iterdir())
    assert len(memo) == 1
    assert file_hash(file, root) == second
    memo[0].write_text("{")
    assert file_hash(file, root) == second
    file.write_text("three")
    assert file_hash(file, root) not in (first, second)


def test_a_hash_that_cannot_be_remembered_leaves_nothing_behind(tmp_path, monkeypatch, later):
    file, root = tmp_path / "f", tmp_path / "cache"
    file.write_text("one")

    def fail(*_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "replace", fail)
    assert len(file_hash(file, root)) == 64
    assert list((root / "hashes").iterdir()) == []


def test_keys_and_root(monkeypatch):
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1}) != key_of({"a": 1, "b": 3})
    monkeypatch.setenv("SCALING_CACHE", "/somewhere")
    assert str(cache_root()) == "/somewhere"
    monkeypatch.delenv("SCALING_CACHE")
    assert cache_root().name == "scaling"
