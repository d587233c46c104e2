"""Process 0's side of the roster: one thread that knows who is there.

Every process, process 0 included, is a member with one TCP connection to the hub (see `roster`).
Messages are JSON objects, one a line. From members: hello, beat, value, decided, overdue, stop,
limit, failed, bye. To members: beat, values, decided, prepare, stop_at, dead, bye.

Like JAX's own coordinator it trusts the network that it listens on.
"""

import contextlib
import json
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

Message = dict[str, Any]

# More than any message; a connection that sends so much without a line end is not one of ours.
MAX_LINE = 64 * 2**20
SEND_SECONDS = 5.0


class Link:
    """One connection that carries JSON lines; any thread may send."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(SEND_SECONDS)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.heard = time.monotonic()
        self.process_id: int | None = None
        self.name = "?"
        self._buffer = b""
        self._lock = threading.Lock()

    def send(self, **message: Any) -> None:
        """Sends one message; a broken connection is left for the reading side to find."""
        try:
            with self._lock:
                self.sock.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            pass

    def receive(self) -> Iterator[Message]:
        """The messages that one read brings.

        Raises:
          EOFError: the other side is gone, or speaks something else.
        """
        try:
            data = self.sock.recv(2**16)
        except TimeoutError:
            return
        except OSError as error:
            raise EOFError(str(error)) from None
        if not data:
            raise EOFError("the connection was closed without a goodbye")
        self.heard = time.monotonic()
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        if len(self._buffer) > MAX_LINE:
            raise EOFError("a line without an end")
        for line in lines:
            try:
                message = json.loads(line)
            except ValueError:
                raise EOFError("not a message of the roster") from None
            if not isinstance(message, dict) or "op" not in message:
                raise EOFError("not a message of the roster")
            yield message

    def end(self) -> None:
        """Says no more, but stays open: closing on unread words is a reset, which eats a goodbye."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Closes the connection."""
        self.sock.close()


class Hub:
    """Collects values, relays decisions, watches over lives; its thread runs until `finish`."""

    def __init__(self, port: int, num_processes: int, silence: float) -> None:
        """Listens on all interfaces and starts the thread.

        Args:
          port: TCP port.
          num_processes: how many members are expected.
          silence: seconds without a word after which a member counts as dead.

        Raises:
          OSError: the port is taken.
        """
        dual = socket.has_dualstack_ipv6()
        self._listener = socket.create_server(
            ("", port),
            family=socket.AF_INET6 if dual else socket.AF_INET,
            dualstack_ipv6=dual,
            backlog=num_processes + 8,
        )
        self._size, self._silence = num_processes, silence
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._strangers: set[Link] = set()
        self._members: dict[int, Link] = {}
        self._open: set[int] = set()  # members whose connection stands
        self._left: set[int] = set()  # members who said goodbye
        self._values: dict[str, dict[str, Any]] = {}
        self._limits: dict[int, int] | None = None
        self._ended = ""  # what was told when somebody died
        self._finish = threading.Event()
        self._thread = threading.Thread(target=self._run, name="roster-hub", daemon=True)
        self._thread.start()

    def finish(self, linger: float) -> None:
        """Waits until those who came have left, at most `linger` seconds, and ends the thread."""
        self.outlast(set(), linger)
        self._finish.set()
        self._thread.join(2.0)

    def outlast(self, besides: set[int], seconds: float) -> None:
        """Waits until the connections of all but `besides` have ended, at most so long."""
        deadline = time.monotonic() + seconds
        while self._open - besides and time.monotonic() < deadline:
            time.sleep(0.02)

    def _run(self) -> None:
        try:
            self._serve()
        except Exception as error:
            self._bury(f"the roster of process 0 broke: {error!r}")
            raise

    def _serve(self) -> None:
        beaten = 0.0
        while not self._finish.is_set():
            for key, _ in self._selector.select(timeout=0.2):
                if key.fileobj is self._listener:
                    self._accept()
                else:
                    self._read(key.data)
            now = time.monotonic()
            if now - beaten >= min(1.0, self._silence / 4):
                beaten = now
                self._broadcast(op="beat")
            self._check_silence(now)
        self._broadcast(op="bye")
        for link in [*self._members.values(), *self._strangers]:
            link.end()
        self._listener.close()

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        link = Link(sock)
        self._strangers.add(link)
        self._selector.register(sock, selectors.EVENT_READ, link)

    def _read(self, link: Link) -> None:
        try:
            for message in link.receive():
                if link.process_id is None:
                    self._welcome(link, message)
                else:
                    self._handle(link, link.process_id, message)
        except EOFError as error:
            self._drop(link)
            if link.process_id is not None and link.process_id not in self._left:
                self._bury(f"{link.name} died at {clock()}: {error}")

    def _welcome(self, link: Link, message: Message) -> None:
        """The first message of a connection says whose it is."""
        process_id, size = message.get("process_id"), message.get("num_processes")
        if message["op"] != "hello" or not isinstance(process_id, int):
            raise EOFError("not a member")
        link.name = f"process {process_id} ({message['host']}, pid {message['pid']})"
        trouble = ""
        if size != self._size:
            trouble = f"{link.name} was told of {size} processes, process 0 of {self._size}"
        elif not 0 <= process_id < self._size:
            trouble = f"{link.name} is none of processes 0 to {self._size - 1}"
        elif process_id in self._members:
            trouble = f"{link.name} has the number of {self._members[process_id].name}"
        if trouble:
            link.send(op="dead", text=trouble)
            self._bury(f"{trouble}; check the process numbers of the launch")
            return
        self._strangers.discard(link)
        link.process_id = process_id
        self._members[process_id] = link
        self._open.add(process_id)
        if self._ended:
            link.send(op="dead", text=self._ended)

    def _handle(self, link: Link, process_id: int, message: Message) -> None:
        match message["op"]:
            case "value":
                values = self._values.setdefault(message["tag"], {})
                values[str(process_id)] = message["value"]
                if len(values) == self._size:
                    self._members[0].send(op="values", tag=message["tag"], values=values)
            case "decided":
                self._values.pop(message["tag"], None)
                self._broadcast(**message)
            case "overdue":
                self._overdue(message["tag"], message["seconds"])
            case "stop" if self._limits is None:
                self._limits = {}
                self._broadcast(op="prepare")
            case "limit" if self._limits is not None:
                self._limits[process_id] = message["tick"]
                self._decide_stop()
            case "failed":
                self._left.add(process_id)
                self._bury(f"{link.name} failed at {clock()}: {message['text']}")
            case "bye":
                self._left.add(process_id)
                self._drop(link)
                self._decide_stop()

    def _overdue(self, tag: str, seconds: float) -> None:
        """Somebody has waited long enough: name those that are missing."""
        given = self._values.get(tag, {})
        missing = [i for i in range(self._size) if str(i) not in given]
        if missing:
            names = ", ".join(
                self._members[i].name if i in self._members else f"process {i}" for i in missing
            )
            self._bury(
                f"missing at '{tag}' after {seconds:.0f} s: {names} "
                f"({self._size - len(missing)} of {self._size} processes came)"
            )

    def _decide_stop(self) -> None:
        """All members promised not to pass their limits: the largest is where everybody stops."""
        here = set(self._members) - self._left
        if self._limits and here and here <= set(self._limits):
            self._broadcast(op="stop_at", tick=max(self._limits.values()))

    def _check_silence(self, now: float) -> None:
        for link in list(self._members.values()):
            quiet = now - link.heard
            if quiet > self._silence and link.process_id not in self._left:
                self._open.discard(link.process_id or 0)
                self._bury(f"{link.name} died at {clock()}: not a word for {quiet:.0f} s")
        for link in [link for link in self._strangers if now - link.heard > self._silence]:
            self._drop(link)

    def _bury(self, text: str) -> None:
        """Tells everybody, process 0 last, because its end is the end of this thread.

        Only the first death counts: others may follow from it.
        """
        if not self._ended:
            self._ended = text
            for process_id in sorted(self._members, reverse=True):
                self._members[process_id].send(op="dead", text=text)

    def _broadcast(self, **message: Any) -> None:
        for process_id, link in sorted(self._members.items(), reverse=True):
            if process_id not in self._left:
                link.send(**message)

    def _drop(self, link: Link) -> None:
        self._selector.unregister(link.sock)
        link.close()
        self._strangers.discard(link)
        if link.process_id is not None:
            self._open.discard(link.process_id)


def clock() -> str:
    """The time for people, UTC."""
    return time.strftime("%H:%M:%S UTC", time.gmtime())
