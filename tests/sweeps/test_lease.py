"""Leases, with real processes: held, dead, taken over by two at once, and lost while asleep."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from scaling.sweeps import lease

HOLD = """
import pathlib, sys, time
from scaling.sweeps import lease
held = lease.take(pathlib.Path(sys.argv[1]), "cell")
print("held" if held else "none", flush=True)
time.sleep(60)
"""
RACE = """
import pathlib, sys, time
from scaling.sweeps import lease
while time.time() < float(sys.argv[2]):
    pass
won = [n for n in range(40) if lease.take(pathlib.Path(sys.argv[1]), f"cell{n}")]
print(won, flush=True)
sys.stdin.read()
"""


def child(code, *words):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def until(condition, seconds=60.0):
    """Waits for a thread to do its part; False when it has not for so long that it never will."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def test_a_cell_is_one_process_at_a_time(tmp_path):
    first = lease.take(tmp_path, "cell")
    assert first.attempt == 1
    assert lease.take(tmp_path, "cell") is None
    assert lease.holder(tmp_path, "cell")["pid"] == os.getpid()
    first.release("completed")
    assert lease.holder(tmp_path, "cell") is None
    second = lease.take(tmp_path, "cell")
    assert second.attempt == 2


def test_the_lease_of_a_killed_process_is_free_two_heartbeats_later(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "TTL", 12.0)
    process = child(HOLD, tmp_path)
    assert process.stdout.readline().strip() == "held"
    held = time.monotonic()
    assert lease.take(tmp_path, "cell") is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert lease.take(tmp_path, "cell").attempt == 2
    assert 1.5 < time.monotonic() - held < 30


def test_a_process_that_looks_gone_and_touches_its_lease_keeps_it(tmp_path, monkeypatch):
    """Whatever hides it from /proc: a namespace, a mount option, a clock that was stepped."""
    monkeypatch.setattr(lease, "TTL", 2.4)
    monkeypatch.setattr(lease.lock, "lives", lambda _: False)
    held, told = lease.take(tmp_path, "cell"), []
    heart = lease.Heartbeat(told.append)
    heart.watch([held])
    assert [lease.take(tmp_path, "cell") for _ in range(3)] == [None] * 3
    heart.close()
    assert held.beat()
    assert not told


def test_two_takers_of_dead_leases_never_both_win(tmp_path):
    for number in range(40):
        lease.take(tmp_path, f"cell{number}").release("preempted")
    begin = time.time() + 2.0
    racers = [child(RACE, tmp_path, begin) for _ in range(2)]
    won = [set(json.loads(one.stdout.readline())) for one in racers]
    for one in racers:
        one.communicate("")
    assert not won[0] & won[1]
    assert won[0] | won[1] == set(range(40))


def test_a_taker_that_decided_on_an_old_number_gives_way(tmp_path, monkeypatch):
    lease.take(tmp_path, "cell").release("preempted")
    real, calls = lease._newest, []

    def stale(folder):
        calls.append(1)
        return 1 if len(calls) == 1 else real(folder)

    for _ in range(3):  # meanwhile others take, end, take again; their older files are gone
        lease.take(tmp_path, "cell").release("preempted")
    monkeypatch.setattr(lease, "_newest", stale)
    assert lease.take(tmp_path, "cell") is None
    monkeypatch.setattr(lease, "_newest", real)
    assert lease.take(tmp_path, "cell").attempt == 5


@pytest.mark.parametrize(
    "elsewhere", [{"hostname": "elsewhere"}, {"namespace": "pid:[1]", "pid": 2**22 + 1}]
)
def test_a_lease_of_another_host_dies_by_its_heartbeat(tmp_path, elsewhere):
    """Or of another container of this host, whose process numbers mean nothing here."""
    held = lease.take(tmp_path, "cell")
    record = json.loads(held.path.read_text())
    held.path.write_text(json.dumps(record | elsewhere))
    assert lease.take(tmp_path, "cell") is None
    old = time.time() - lease.TTL - 5
    os.utime(held.path, (old, old))
    taken = lease.take(tmp_path, "cell")
    assert taken.attempt == 2
    assert not held.beat()
    assert held.lost
    held.release("completed")
    assert lease.holder(tmp_path, "cell")["attempt"] == 2


def test_the_heartbeat_touches_and_notices_a_loss(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "TTL", 0.6)
    told = []
    heart = lease.Heartbeat(told.append)
    held = lease.take(tmp_path, "cell")
    os.utime(held.path, (1, 1))
    heart.watch([held])
    assert until(lambda: held.path.stat().st_mtime > time.time() - 60)
    held.path.with_name("2").write_text("{}")
    assert until(lambda: told)
    heart.close()
    assert held.lost
    assert "taken over" in told[0]


def test_the_heartbeat_outlives_an_error_of_the_file_system(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "TTL", 0.6)
    held, newest, looks, told = lease.take(tmp_path, "cell"), lease._newest, [], []

    def stale_once(folder):
        looks.append(folder)
        if len(looks) == 1:
            raise OSError(errno.ESTALE, "Stale file handle", str(folder))
        return newest(folder)

    monkeypatch.setattr(lease, "_newest", stale_once)
    os.utime(held.path, (1, 1))
    heart = lease.Heartbeat(told.append)
    heart.watch([held])
    beats = until(lambda: held.path.stat().st_mtime > time.time() - 60, seconds=20)
    heart.close()
    assert beats, "one error ended the heartbeat: others would take the cell"
    assert len(looks) >= 2
    assert not held.lost
    assert not told


def test_the_heartbeat_notices_that_the_parent_is_gone():
    told = []
    # Nobody is its own parent. Process 1 may be ours, when whoever started the tests has ended.
    heart = lease.Heartbeat(told.append, parent=os.getpid())
    assert until(lambda: told)
    heart.close()
    assert told == ["the launcher is gone"]


def test_a_file_system_without_links_still_gives_one_lease(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    assert lease.take(tmp_path, "cell").attempt == 1
    assert lease.take(tmp_path, "cell") is None


def test_a_link_that_was_asked_for_twice_is_still_ours(tmp_path, monkeypatch):
    """A network file system repeats a call whose answer was lost, and answers that it exists."""
    real = os.link

    def twice(source, target):
        real(source, target)
        raise FileExistsError(17, "File exists", str(target))

    monkeypatch.setattr(os, "link", twice)
    assert lease.take(tmp_path, "cell").attempt == 1


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_lease_without_content_counts_as_fresh(tmp_path, text):
    (tmp_path / "cell").mkdir()
    (tmp_path / "cell" / "1").write_text(text)
    assert lease.take(tmp_path, "cell") is None
