"""The processes of a run beside JAX: who is here, who is alive, what all decide, where all stop.

Every process has one TCP connection to process 0. The connections come up before JAX and stay:

    decide     every process gives a value, process 0 applies a rule, all get the result
    liveness   a heartbeat a second; when a process dies, every other one names it and exits
    stop_at    when one process is told to stop, all stop at the same step

JAX's own coordination service cannot do this (measured with JAX 0.10.2 and 0.12.0.1). When a process
dies or never comes, its client aborts the others from C++ with a stack trace; a Python callback in the
abort's place ends in `std::bad_cast`, and "recoverable" tasks are still aborted with the coordinator.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from multiprocessing import AuthenticationError
from typing import Any, Self

from scaling.parallel.link import BROKEN, Link, RosterError, listen

Rule = Callable[[Mapping[int, Any]], Any]

EXIT_FAILED = 1
# What the news of a death, or process 0's answer about who is overdue, may take to arrive.
GRACE_SECONDS = 3.0
STOP = "stop"


class Processes:
    """The processes of a run, here one alone; a context manager around everything that uses JAX."""

    process_id = 0
    num_processes = 1

    def stop_at(self, where: Any, wanted: bool) -> bool:
        """Whether to stop before step `where`; the same answer in all processes.

        Args:
          wanted: whether this process was told to stop.

        Raises:
          RosterError: another process died or does not answer.
        """
        return wanted

    def decide(self, tag: str, value: Any, rule: Rule, timeout: float | None = None) -> Any:
        """Waits until all processes have given a value, and returns what the rule makes of them.

        Args:
          tag: names the decision; all processes take the same ones in the same order.
          value: JSON data.
          rule: {process: value} -> JSON data; only process 0 applies it.

        Raises:
          RosterError: a process is missing (named) or died.
        """
        return rule({0: value})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Leaves the run; the others learn of an error and end, too."""


class Roster(Processes):
    """One process's connections: process 0's to all others, any other's to process 0."""

    def __init__(
        self,
        host: str,
        port: int,
        num_processes: int,
        process_id: int,
        *,
        interface: str = "::",
        secret: str = "",
        timeout: float = 50.0,
        silence: float = 20.0,
    ) -> None:
        """Process 0 listens, the others connect to it.

        Args:
          interface: the address that process 0 listens on; "::" means all of its addresses.
          secret: the same in all processes; a connection that does not know it is closed.
          timeout: seconds to wait for process 0, and the default of `decide`.
          silence: seconds without a message after which a process counts as dead.

        Raises:
          RosterError: the port is taken, or process 0 does not answer in time or refuses.
        """
        self.process_id, self.num_processes = process_id, num_processes
        self._timeout, self._silence, self._secret = timeout, silence, secret.encode()
        self._state = threading.Condition()
        self._links: dict[int, Link] = {}
        self._names = {0: f"process 0 ({host}:{port})"}
        self._open: set[int] = set()  # those whose connection stands
        self._values: dict[str, dict[int, Any]] = {}  # process 0: what was given
        self._decided: dict[str, Any] = {}
        self._trouble = self._where = ""
        self._armed = self._leaving = self._asked = False
        self._tick = 0
        self._limit: int | None = None
        self._listener: socket.socket | None = None
        self._name = f"process {process_id} ({socket.gethostname()}, pid {os.getpid()})"
        if process_id == 0:
            self._listener = listen(interface, port)
            _thread(self._accept, self._listener)
        else:
            link = self._links[0] = self._connect(host, port)
            link.send("hello", process_id, num_processes, self._name)
            self._open.add(0)
            _thread(self._attend, 0, link.messages())

    def decide(self, tag: str, value: Any, rule: Rule, timeout: float | None = None) -> Any:
        """See `Processes.decide`."""
        timeout = self._timeout if timeout is None else timeout
        self._send_first("value", tag, value)
        if self.process_id == 0:
            self._wait(lambda: len(self._values[tag]) == self.num_processes, tag, timeout)
            self._send_all("decided", tag, rule(self._values.pop(tag)))
        self._wait(lambda: tag in self._decided, tag, timeout)
        return self._decided.pop(tag)

    def stop_at(self, where: Any, wanted: bool) -> bool:
        """See `Processes.stop_at`.

        Costs a lock while no process wants to stop. When one does, every process's thread promises
        that its main thread will not pass the question after the one it is at, and the largest
        promise is where all stop. The promise does not need the main thread: that may be in a
        collective, waiting for another process.
        """
        with self._state:
            self._tick, self._where = self._tick + 1, f" before step {where}"
            if wanted and not self._asked:
                self._asked = True
                self._send_first("stop")
            decided = self._state.wait_for(self._may_pass, self._silence + GRACE_SECONDS)
            if self._trouble or not decided:
                missing = f"no decision where to stop, after {self._silence:.0f} s"
                raise RosterError(self._trouble or missing)
            return STOP in self._decided and self._tick >= self._decided[STOP]

    def _may_pass(self) -> bool:
        free = self._limit is None or self._tick < self._limit
        return free or STOP in self._decided or bool(self._trouble)

    def watch(self) -> None:
        """From now on another process's death ends this one, whatever its main thread does."""
        with self._state:
            self._armed = True
            if self._trouble:
                self._die(self._trouble)

    def leave(self, linger: float = 5.0) -> None:
        """Says goodbye and waits up to `linger` seconds until the others did: no alarm for any."""
        with self._state:
            self._leaving = True
        self._send("bye")
        self._outlast(linger)
        if self._listener:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread in accept()
            self._listener.close()

    def fail(self, text: str) -> None:
        """Tells the others that this process ends with an error.

        The error may follow from another's death. News of that gets a moment to come first.
        """
        time.sleep(GRACE_SECONDS)
        with self._state:
            self._leaving = True
        self._send("dead", f"{self._name} failed at {_clock()}: {text}")
        if self.process_id == 0:
            self._outlast(10.0)

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is not None and not (isinstance(error, SystemExit) and not error.code):
            self.end_by(error)
            return
        import jax

        # No process leaves while another needs it in a collective. The roster watches meanwhile (JAX's
        # own barrier aborts when a process is 5 minutes late).
        self.decide("end", 0, len, timeout=3600.0)
        jax.distributed.shutdown()
        self.leave(linger=60.0)

    def end_by(self, error: BaseException) -> None:
        """Tells the others of an error and ends this process in 2 seconds; the caller says why.

        Python's own end would hang: JAX's client waits for the others at a barrier, and aborts.
        """
        from scaling.configs import ConfigError

        self.fail(f"{type(error).__name__}: {error}".splitlines()[0])
        code = 2 if isinstance(error, ConfigError) else EXIT_FAILED
        if isinstance(error, SystemExit) and isinstance(error.code, int):
            code = error.code

        def end() -> None:
            time.sleep(2.0)
            _flush()
            os._exit(code)

        _thread(end)

    def _connect(self, host: str, port: int) -> Link:
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                sock = socket.create_connection((host, port), timeout=5.0)
                return Link(sock, self._secret, self._silence, server=False)
            except AuthenticationError:
                raise RosterError(
                    f"SCALING_SECRET: process 0 at {host}:{port} has another; set one for all"
                ) from None
            except BROKEN as error:
                if time.monotonic() > deadline:
                    raise RosterError(
                        f"missing after {self._timeout:.0f} s: process 0 (no answer at "
                        f"{host}:{port}: {error}); is it running, is this its address, and does a "
                        "firewall let this port through?"
                    ) from None
                time.sleep(0.2)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # closed by `leave`
            while True:
                sock, _ = listener.accept()
                _thread(self._welcome, sock)

    def _welcome(self, sock: socket.socket) -> None:
        """Process 0's thread for one connection: checks whose it is, then listens to it."""
        try:
            link = Link(sock, self._secret, self._silence, server=True)
            messages = link.messages()
            op, process_id, size, name = next(messages)
            if op != "hello":
                return
        except (*BROKEN, TypeError):
            return  # no process of this run
        with self._state:
            wrong = ""
            if size != self.num_processes:
                wrong = f"{name} was told of {size} processes, process 0 of {self.num_processes}"
            elif process_id in self._links:
                wrong = f"{name} has the number of {self._names[process_id]}"
            elif process_id not in range(1, size):
                wrong = f"{name} is not one of processes 1 to {size - 1}"
            if wrong:
                self._lose(f"{wrong}; check the process numbers of the launch")
            if self._trouble:
                link.send("dead", self._trouble)
            if wrong:
                return
            self._links[process_id], self._names[process_id] = link, name
            self._open.add(process_id)
        self._attend(process_id, messages)

    def _attend(self, other: int, messages: Iterator[list[Any]]) -> None:
        """The thread of a connection: does what the other side says until it leaves."""
        try:
            for message in messages:
                if message == ["bye"]:
                    break
                with self._state:
                    self._handle(other, message)
        except BROKEN as error:
            said = str(error) or "the connection was closed without a goodbye"
            self._lose(f"{self._names[other]} died at {_clock()}: {said}")
        self._open.discard(other)
        self._links[other].close()

    def _handle(self, other: int, message: list[Any]) -> None:
        match message:
            case ["value", tag, value]:
                values = self._values.setdefault(tag, {})
                values[other] = value
                if tag == STOP and len(values) == self.num_processes:
                    self._send_all("decided", STOP, max(values.values()))
            case ["decided", tag, result]:
                self._decided[tag] = result
            case ["overdue", tag, seconds]:
                self._overdue(tag, seconds)
            case ["stop"] if self._limit is None:
                self._send_all("prepare")
            case ["prepare"]:
                self._limit = self._tick + 1
                self._send_first("value", STOP, self._limit)
            case ["dead", text]:
                self._lose(text)
        self._state.notify_all()

    def _send(self, *message: Any) -> None:
        for link in list(self._links.values()):
            link.send(*message)

    def _send_first(self, *message: Any) -> None:
        """To process 0, which may be this one."""
        if self.process_id != 0:
            self._send(*message)
            return
        with self._state:
            self._handle(0, json.loads(json.dumps(message)))

    def _send_all(self, *message: Any) -> None:
        """From process 0 to all, itself included."""
        self._send(*message)
        self._send_first(*message)

    def _wait(self, done: Callable[[], bool], tag: str, timeout: float) -> None:
        with self._state:
            if not self._state.wait_for(lambda: done() or self._trouble, timeout):
                self._send_first("overdue", tag, timeout)
                self._state.wait_for(lambda: done() or self._trouble, GRACE_SECONDS)
            if not done():
                silent = f"missing at '{tag}' after {timeout:.0f} s: an answer of {self._names[0]}"
                raise RosterError(self._trouble or silent)

    def _overdue(self, tag: str, seconds: float) -> None:
        """A process has waited long enough: names those that did not come."""
        given = self._values.get(tag, range(self.num_processes))  # gone: just decided
        missing = [i for i in range(self.num_processes) if i not in given]
        if missing:
            names = ", ".join(self._names.get(i, f"process {i}") for i in missing)
            came = f"{len(given)} of {self.num_processes} processes came"
            self._lose(f"missing at '{tag}' after {seconds:.0f} s: {names} ({came})")

    def _lose(self, text: str) -> None:
        """A process is dead or wrong: all hear of the first; the main thread raises or is ended."""
        with self._state:
            if self._trouble or self._leaving:
                return
            self._trouble = text
            if self.process_id == 0:
                self._send("dead", text)
            self._state.notify_all()
            if self._armed:
                self._die(text)

    def _die(self, text: str) -> None:
        """Ends the process with code 1 from a thread, as the main thread may be stuck anywhere."""
        me = f"process {self.process_id} of {self.num_processes} ({socket.gethostname()})"
        words = f"\n{text}\n{me} was{self._where} and leaves with exit code 1\n".encode()

        def say() -> None:
            os.write(2, words)  # not print(): the main thread may hold the lock of the buffer
            _flush()

        saying = _thread(say)

        def end() -> None:
            saying.join(5.0)  # no longer, if nothing reads our output
            if self.process_id == 0:
                self._outlast(10.0)
            os._exit(EXIT_FAILED)

        _thread(end)

    def _outlast(self, seconds: float) -> None:
        """Waits for the others to go. Process 0 ends last: the loss of JAX's coordinator aborts."""
        deadline = time.monotonic() + seconds
        while self._open and time.monotonic() < deadline:
            time.sleep(0.02)


def _thread(work: Callable[..., None], *arguments: Any) -> threading.Thread:
    thread = threading.Thread(target=work, args=arguments, daemon=True)
    thread.start()
    return thread


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()


def _clock() -> str:
    return time.strftime("%H:%M:%S UTC", time.gmtime())
