"""The roster's talk, with members as threads of one process (no JAX)."""

import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from scaling.parallel.link import RosterError, interface, listen
from scaling.parallel.roster import Roster


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def gathering(
    size: int, work: Callable[[Roster], Any], absent: tuple[int, ...] = (), **keys: Any
) -> dict[int, Any]:
    """What `work` returns or raises in each of `size` members; process: result."""
    port = free_port()

    def member(process_id: int) -> Any:
        try:
            roster = Roster("127.0.0.1", port, size, process_id, **{"timeout": 20.0} | keys)
        except RosterError as error:
            return error
        try:
            return work(roster)
        except RosterError as error:
            return error
        finally:
            roster.leave()

    present = [i for i in range(size) if i not in absent]
    with ThreadPoolExecutor(len(present)) as pool:
        return dict(zip(present, pool.map(member, present), strict=True))


def test_decide_gives_the_rule_of_all_values_to_all() -> None:
    def work(roster: Roster) -> Any:
        first = roster.decide("a", roster.process_id, lambda v: [v[i] for i in sorted(v)])
        return first, roster.decide("a", 2.5 * roster.process_id, lambda v: max(v.values()))

    assert gathering(4, work) == dict.fromkeys(range(4), ([0, 1, 2, 3], 7.5))


def test_large_values_pass() -> None:
    text = "x" * 300_000
    found = gathering(3, lambda r: len(r.decide("big", text, lambda v: "".join(v.values()))))
    assert found == dict.fromkeys(range(3), 900_000)


@pytest.mark.parametrize("absent", [(1,), (1, 3), (0,)])
def test_missing_processes_are_named_to_all(absent: tuple[int, ...]) -> None:
    start = time.monotonic()
    found = gathering(4, lambda r: r.decide("start", 0, len), absent, timeout=1.0)
    assert time.monotonic() - start < 12
    for error in found.values():
        assert isinstance(error, RosterError)
        assert "missing" in str(error)
        for process_id in absent:
            assert f"process {process_id}" in str(error)
        assert not any(f"process {i}" in str(error).split("(")[0] for i in found)


def test_two_with_one_number_are_refused() -> None:
    port = free_port()

    def member(process_id: int) -> str:
        try:
            roster = Roster("127.0.0.1", port, 3, process_id, timeout=5.0)
            roster.decide("start", 0, len)
        except RosterError as error:
            return str(error)
        return "joined"

    with ThreadPoolExecutor(3) as pool:
        for said in pool.map(member, (0, 1, 1)):
            assert "has the number of process 1" in said


def test_another_number_of_processes_is_refused() -> None:
    port = free_port()

    def member(numbers: tuple[int, int]) -> str:
        try:
            Roster("127.0.0.1", port, *numbers, timeout=5.0).decide("start", 0, len)
        except RosterError as error:
            return str(error)
        return "joined"

    with ThreadPoolExecutor(2) as pool:
        for said in pool.map(member, [(2, 0), (3, 1)]):
            assert "was told of 3 processes, process 0 of 2" in said


def test_port_in_use_is_an_error_with_a_remedy() -> None:
    with (
        socket.create_server(("", 0)) as taken,
        pytest.raises(RosterError, match=r"cannot listen.*SCALING_ROSTER_PORT"),
    ):
        Roster("localhost", taken.getsockname()[1], 2, 0)


def test_strangers_do_not_disturb() -> None:
    def work(roster: Roster) -> Any:
        if roster.process_id == 0:
            assert roster._listener is not None
            host, port = "127.0.0.1", roster._listener.getsockname()[1]
            idle = socket.create_connection((host, port))  # which holds up nobody
            for words in (
                b"GET / HTTP/1.1\r\n\r\n",
                b"",
                b'{"op": 3}\n',
                b"[1]\n",
                b'{"op":"hello"}\n',
            ):
                with socket.create_connection((host, port)) as stranger:
                    stranger.sendall(words)
                    time.sleep(0.05)
            with idle:
                return roster.decide("late", 1, lambda v: sum(v.values()))
        return roster.decide("late", 1, lambda v: sum(v.values()))

    assert gathering(2, work) == {0: 2, 1: 2}


def test_a_lost_member_is_named() -> None:
    def work(roster: Roster) -> Any:
        roster.decide("start", 0, len)
        if roster.process_id == 1:
            roster._leaving = True  # so that this thread does not mind its own end
            handle = os.dup(roster._links[0]._connection.fileno())
            with socket.socket(fileno=handle) as connection:
                connection.shutdown(socket.SHUT_RDWR)
            return "gone"
        return roster.decide("never", 0, len, timeout=10.0)

    found = gathering(3, work)
    for process_id in (0, 2):
        assert "process 1 (" in str(found[process_id])
        assert "died at" in str(found[process_id])


def test_a_silent_member_is_named() -> None:
    def work(roster: Roster) -> Any:
        roster.decide("start", 0, len)
        if roster.process_id == 1:
            roster._leaving = True
            roster._links[0].send = lambda *message: None  # type: ignore[method-assign]
            time.sleep(3.0)
            return "asleep"
        return roster.decide("never", 0, len, timeout=10.0)

    found = gathering(3, work, silence=1.0)
    for process_id in (0, 2):
        assert "process 1 (" in str(found[process_id])
        assert "not a word for" in str(found[process_id])


def test_a_member_that_says_goodbye_alarms_nobody() -> None:
    def work(roster: Roster) -> Any:
        roster.decide("start", 0, len)
        if roster.process_id == 1:
            return "left"
        time.sleep(1.5)
        return roster._trouble

    assert gathering(3, work, silence=1.0) == {0: "", 1: "left", 2: ""}


def test_the_end_of_process_0_alarms_no_late_one() -> None:
    def work(roster: Roster) -> Any:
        roster.decide("start", 0, len)
        if roster.process_id == 0:
            roster.leave(linger=0.0)
            return ""
        for _ in range(300):  # words that nobody reads any more
            roster._links[0].send()
        while roster._open:
            time.sleep(0.01)
        return roster._trouble

    assert gathering(3, work) == dict.fromkeys(range(3), "")


def test_another_secret_is_refused_and_the_process_counts_as_missing() -> None:
    port = free_port()

    def member(process_id: int) -> str:
        try:
            secret = f"secret {process_id // 2}"
            roster = Roster("127.0.0.1", port, 3, process_id, secret=secret, timeout=1.0)
            roster.decide("start", 0, len)
        except RosterError as error:
            return str(error)
        return "joined"

    with ThreadPoolExecutor(3) as pool:
        first, second, stranger = pool.map(member, range(3))
    assert "SCALING_SECRET" in stranger
    assert "missing at 'start' after 1 s: process 2" in first
    assert first == second


def test_a_failure_is_told_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scaling.parallel.roster.GRACE_SECONDS", 0.2)

    def work(roster: Roster) -> Any:
        roster.decide("start", 0, len)
        if roster.process_id == 2:
            roster.fail("OSError: no space left")
            return "failed"
        return roster.decide("never", 0, len, timeout=10.0)

    found = gathering(3, work)
    for process_id in (0, 1):
        assert "process 2 (" in str(found[process_id])
        assert "OSError: no space left" in str(found[process_id])


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("wanting", [(0,), (1,), (0, 1)])
def test_all_stop_at_the_same_step(size: int, wanting: tuple[int, ...]) -> None:
    """Each at its own speed; two steps ahead of the slowest at most, as collectives allow."""
    lockstep = [threading.Semaphore(0) for _ in range(size)]

    def work(roster: Roster) -> int:
        roster.decide("start", 0, len)
        for step in range(2000):
            wanted = roster.process_id in wanting and step >= 20 + roster.process_id
            if roster.stop_at(step, wanted):
                return step
            # A collective: step s ends when all have begun it.
            for semaphore in lockstep:
                semaphore.release()
            for _ in range(size):
                assert lockstep[roster.process_id].acquire(timeout=20)
            time.sleep(0.0005 * roster.process_id)
        return -1

    found = gathering(size, work)
    assert len(set(found.values())) == 1, found
    assert 20 <= found[0] < 2000


def test_without_a_wish_nobody_stops_and_asking_is_cheap() -> None:
    def work(roster: Roster) -> float:
        roster.decide("start", 0, len)  # or process 0 may have left before the other has come
        start = time.monotonic()
        assert not any(roster.stop_at(step, False) for step in range(10_000))
        return time.monotonic() - start

    assert max(gathering(2, work).values()) < 5


def test_process_0_listens_where_the_coordinator_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert interface("127.0.0.1", {}) == "127.0.0.1"
    assert interface("localhost", {}) in ("127.0.0.1", "::1")
    assert interface("203.0.113.7", {}) == "::"  # another machine's: this one is behind it
    itself = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.1.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: itself)
    assert interface("node7", {}) == "::"  # Debian's own name: no other could connect


def test_jaxs_own_variable_says_where_to_listen() -> None:
    assert interface("h", {"JAX_COORDINATOR_BIND_ADDRESS": "[::1]:8476"}) == "::1"
    assert interface("h", {"JAX_COORDINATOR_BIND_ADDRESS": "10.0.0.1:8476"}) == "10.0.0.1"


def test_a_loopback_roster_is_not_reachable_from_elsewhere() -> None:
    with listen("127.0.0.1", 0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"
    with listen("::", 0) as listener:
        assert listener.getsockname()[0] in ("::", "0.0.0.0")
