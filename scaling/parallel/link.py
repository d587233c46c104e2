"""The connections between the processes of a run: where process 0 listens, and what it carries."""

import contextlib
import ipaddress
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from typing import Any

# More than any message; it bounds what a foreign connection can make us read.
MAX_BYTES = 64 * 2**20
# What a link raises when the other side is gone, silent, or not a process of this run.
BROKEN = (OSError, EOFError, ValueError, AssertionError, AuthenticationError)


class RosterError(RuntimeError):
    """The processes of a run did not come together, or one of them was lost."""


class Link:
    """An authenticated connection that carries JSON lists; any thread may send."""

    def __init__(self, sock: socket.socket, secret: bytes, silence: float, server: bool) -> None:
        """Both sides prove that they know the secret."""
        sock.settimeout(None)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        limit = struct.pack("ll", int(silence), int(silence % 1 * 1e6))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        self._connection, self._lock = Connection(sock.detach()), threading.Lock()
        self._silence = silence
        prove = [deliver_challenge, answer_challenge]
        for side in prove if server else reversed(prove):
            side(self._connection, secret)

    def send(self, *message: Any) -> None:
        """Sends a message; a broken connection is left for the reading side to find."""
        with contextlib.suppress(OSError), self._lock:
            self._connection.send_bytes(json.dumps(message).encode())

    def messages(self) -> Iterator[list[Any]]:
        """The messages of the other side; sends a heartbeat (an empty message) every second."""
        beat = min(1.0, self._silence / 4)
        heard, beaten = time.monotonic(), 0.0
        while True:
            if time.monotonic() - beaten >= beat:
                beaten = time.monotonic()
                self.send()
            if self._connection.poll(beat):
                message = json.loads(self._connection.recv_bytes(MAX_BYTES))
                heard = time.monotonic()
                if message:
                    yield message
            elif time.monotonic() - heard > self._silence:
                raise TimeoutError(f"not a word for {time.monotonic() - heard:.0f} s")

    def close(self) -> None:
        """Closes the connection."""
        with self._lock:
            self._connection.close()


def interface(host: str, env: Mapping[str, str] = os.environ) -> str:
    """The address that process 0 listens on: the one that the coordinator's name stands for.

    JAX_COORDINATOR_BIND_ADDRESS, JAX's own variable, comes first. All addresses ("::") where the
    name cannot be meant: it is not an address of this machine (behind another one), or a machine's own
    name leads back to itself (Debian's /etc/hosts says 127.0.1.1), where no other could connect.
    """
    if env.get("JAX_COORDINATOR_BIND_ADDRESS"):
        return env["JAX_COORDINATOR_BIND_ADDRESS"].rpartition(":")[0].strip("[]")
    try:
        family, *_, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            probe.bind(address)
    except OSError:
        return "::"
    inward = ipaddress.ip_address(address[0]).is_loopback
    return "::" if inward and host not in ("localhost", address[0]) else str(address[0])


def listen(interface: str, port: int) -> socket.socket:
    """A listening socket; the interface "::" stands for all addresses of this machine.

    Raises:
      RosterError: the port is taken, or does not exist.
    """
    six = ":" in interface and socket.has_dualstack_ipv6()
    try:
        return socket.create_server(
            (interface if six else interface.replace("::", ""), port),
            family=socket.AF_INET6 if six else socket.AF_INET,
            dualstack_ipv6=interface == "::" and six,
            backlog=1024,
        )
    except (OSError, OverflowError) as error:
        raise RosterError(
            f"process 0 cannot listen on port {port} of {interface}: {error}; give the "
            "coordinator another port (the roster uses the one after it), or SCALING_ROSTER_PORT"
        ) from None
