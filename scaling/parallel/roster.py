"""Who is here, do we agree, are all alive: small talk of the hosts of one run over plain TCP.

JAX starts a run of many processes and then trusts them: a missing one is a wait without a name, a
dead one a collective that never ends. The roster comes up before JAX and stays beside it:

    decide     every process gives a value, process 0 applies a rule, all get the result
    liveness   a heartbeat a second; when a process dies, every other one says which, and exits
    agree      when one process is told to stop, all stop at the same step

A process that is stuck in a collective cannot clean up, so the thread here ends it by `os._exit`.
"""

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from scaling.parallel.hub import Hub, Link, Message, clock

Rule = Callable[[Mapping[int, Any]], Any]

EXIT_FAILED = 1
# The hub's answer to "overdue" takes a moment more than the wait itself.
GRACE_SECONDS = 3.0


class RosterError(RuntimeError):
    """The processes of a run did not come together, or one of them was lost."""


class Roster:
    """One process's membership.

    Attributes:
      process_id: which process this is.
      num_processes: how many there are.
    """

    def __init__(
        self,
        host: str,
        port: int,
        num_processes: int,
        process_id: int,
        *,
        timeout: float = 50.0,
        silence: float = 20.0,
    ) -> None:
        """Joins; process 0 also starts the hub.

        Args:
          host: where process 0 is.
          port: where its hub listens.
          num_processes: how many processes the run has.
          process_id: which one this is, from 0.
          timeout: seconds to wait for process 0, and default of `decide`.
          silence: seconds without a word after which a process counts as dead.

        Raises:
          RosterError: the port is taken, or process 0 does not answer in time.
        """
        self.process_id, self.num_processes = process_id, num_processes
        self._timeout, self._silence = timeout, silence
        self._state = threading.Condition()
        self._inbox: dict[tuple[str, str], Any] = {}
        self._trouble: str | None = None
        self._armed = self._leaving = self._hub_left = False
        self._on_death: Callable[[str], None] | None = None
        self._tick, self._where = 0, ""
        self._limit: int | None = None
        self._stop_tick: int | None = None
        self._asked = False
        self._hub: Hub | None = None
        if process_id == 0:
            try:
                self._hub = Hub(port, num_processes, silence)
            except OSError as error:
                raise RosterError(
                    f"process 0 cannot listen on port {port}: {error}; give the coordinator "
                    "another port (the roster uses the one after it), or SCALING_ROSTER_PORT"
                ) from None
            host = "localhost"
        self._address = f"{host}:{port}"
        self._link = Link(self._connect(host, port))
        self._link.send(
            op="hello",
            process_id=process_id,
            num_processes=num_processes,
            host=socket.gethostname(),
            pid=os.getpid(),
        )
        self._thread = threading.Thread(target=self._listen, name="roster", daemon=True)
        self._thread.start()

    def decide(self, tag: str, value: Any, rule: Rule, timeout: float | None = None) -> Any:
        """A meeting: waits until all processes have given a value under this tag.

        All processes call it with the same tags in the same order.

        Args:
          tag: name of the meeting, for messages.
          value: JSON data.
          rule: {process: value} -> JSON data; only process 0's is called.
          timeout: seconds to wait for the others.

        Returns:
          What the rule gave, on every process.

        Raises:
          RosterError: somebody is missing (named) or died.
        """
        timeout = self._timeout if timeout is None else timeout
        self._link.send(op="value", tag=tag, value=value)
        if self.process_id == 0:
            values = self._wait("values", tag, timeout)
            result = rule({int(i): v for i, v in values.items()})
            self._link.send(op="decided", tag=tag, result=result)
        return self._wait("decided", tag, timeout)

    def stop_at(self, where: Any, wanted: bool) -> bool:
        """Whether all processes stop here; asked between steps, in the same order by all.

        Costs a lock while nobody wants to stop. When somebody does, every process's listening
        thread promises that its main thread will not pass the question after the one it is at;
        the hub makes the largest promise the place to stop. The promise does not need the main
        thread, which may be in a collective that waits for another process, so nobody waits for
        one that waits for it.

        Args:
          where: the step, for messages.
          wanted: whether this process wants to stop (now or at an earlier question).

        Raises:
          RosterError: the others did not answer.
        """
        with self._state:
            self._tick, self._where = self._tick + 1, f" before step {where}"
            ask = wanted and not self._asked
            self._asked |= wanted
        if ask:
            self._link.send(op="stop")
        with self._state:
            decided = self._state.wait_for(self._may_pass, self._silence + GRACE_SECONDS)
            if self._trouble:
                raise RosterError(self._trouble)
            if not decided:
                raise RosterError(f"no decision where to stop, after {self._silence:.0f} s")
            return self._stop_tick is not None and self._tick >= self._stop_tick

    def watch(self, on_death: Callable[[str], None] | None = None) -> None:
        """From now on the death of another process ends this one, whatever its main thread does.

        Args:
          on_death: called with the message before the end; has 5 seconds.
        """
        with self._state:
            self._armed, self._on_death = True, on_death or self._on_death
            trouble = self._trouble
        if trouble:
            self._die(trouble)

    def leave(self, linger: float = 5.0) -> None:
        """Says goodbye: from here on this process may end without alarming the others.

        Args:
          linger: seconds that process 0 waits for the others to leave first.
        """
        with self._state:
            self._leaving = True
        self._link.send(op="bye")
        self._thread.join(2.0)
        if self._hub is not None:
            self._hub.finish(linger)
        self._link.close()

    def fail(self, text: str) -> None:
        """Tells the others that this process ends with an error.

        An error in a collective often is another process's death: its name comes first, so the
        news of it gets a moment to arrive (and then ends this process, see `watch`).
        """
        time.sleep(GRACE_SECONDS)
        with self._state:
            self._leaving = True
        self._link.send(op="failed", text=text)
        self._outlast()

    def _connect(self, host: str, port: int) -> socket.socket:
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                return socket.create_connection((host, port), timeout=5.0)
            except OSError as error:
                if time.monotonic() > deadline:
                    raise RosterError(
                        f"missing after {self._timeout:.0f} s: process 0 (no answer at "
                        f"{host}:{port}: {error}); is it running, is this its address, and does a "
                        "firewall let this port through?"
                    ) from None
                time.sleep(0.2)

    def _wait(self, op: str, tag: str, timeout: float) -> Any:
        def arrived() -> bool:
            return (op, tag) in self._inbox or self._trouble is not None

        with self._state:
            if not self._state.wait_for(arrived, timeout):
                self._link.send(op="overdue", tag=tag, seconds=timeout)
                self._state.wait_for(arrived, GRACE_SECONDS)
            if (op, tag) in self._inbox:
                return self._inbox.pop((op, tag))
            raise RosterError(
                self._trouble
                or f"missing at '{tag}' after {timeout:.0f} s: an answer of process 0 at "
                f"{self._address}"
            )

    def _may_pass(self) -> bool:
        return (
            self._limit is None
            or self._tick < self._limit
            or self._stop_tick is not None
            or self._hub_left
            or self._trouble is not None
        )

    def _listen(self) -> None:
        """The thread: reads what the hub sends, sends heartbeats, notices silence."""
        beat = min(1.0, self._silence / 4)
        self._link.sock.settimeout(beat)
        beaten = time.monotonic()
        try:
            while True:
                for message in self._link.receive():
                    self._handle(message)
                now = time.monotonic()
                if now - beaten >= beat:
                    beaten = now
                    self._link.send(op="beat")
                if now - self._link.heard > self._silence:
                    raise EOFError(f"not a word for {now - self._link.heard:.0f} s")
        except EOFError as error:
            if not (self._leaving or self._hub_left):
                self._lose(f"process 0 ({self._address}) died at {clock()}: {error}")

    def _handle(self, message: Message) -> None:
        match message["op"]:
            case "values" | "decided" as op:
                content = message["values" if op == "values" else "result"]
                with self._state:
                    self._inbox[op, message["tag"]] = content
                    self._state.notify_all()
            case "prepare":
                with self._state:
                    self._limit = self._tick + 1
                    self._link.send(op="limit", tick=self._limit)
            case "stop_at":
                with self._state:
                    self._stop_tick = message["tick"]
                    self._state.notify_all()
            case "bye":
                with self._state:
                    self._hub_left = True
                    self._state.notify_all()
            case "dead":
                self._lose(message["text"])

    def _lose(self, text: str) -> None:
        """Somebody died: the main thread raises if it is asking, or the process ends."""
        with self._state:
            if self._trouble is not None or self._leaving:
                return
            self._trouble = text
            self._state.notify_all()
            armed = self._armed
        if armed:
            self._die(text)

    def _die(self, text: str) -> None:
        """Ends the process with code 1, from any thread, with the main thread stuck anywhere."""
        me = f"process {self.process_id} of {self.num_processes} ({socket.gethostname()})"
        # Not print(): the main thread may hold the lock of the buffer.
        os.write(2, f"\n{text}\n{me} was{self._where} and leaves with exit code 1\n".encode())

        def last_words() -> None:
            if self._on_death is not None:
                self._on_death(text)
            sys.stdout.flush()
            sys.stderr.flush()

        closing = threading.Thread(target=last_words, daemon=True)
        closing.start()
        closing.join(5.0)
        self._outlast()
        os._exit(EXIT_FAILED)

    def _outlast(self) -> None:
        """Process 0 ends last: it holds the hub, and JAX's coordinator, whose loss is an abort."""
        if self._hub is not None:
            time.sleep(0.5)  # for the hub to send what it has to
            self._hub.outlast({0}, 10.0)
