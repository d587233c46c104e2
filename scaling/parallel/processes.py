"""Starting a run that spans processes: who we are, do we match, and JAX's own start.

    discover   flags, JAX_*, Slurm or TPU variables -> where process 0 is, how many, which one
    roster     all come within a bounded time, or every one says who is missing
    compare    config, code, libraries; then devices; a difference is refused by all
    initialize `jax.distributed`, after which devices of all processes are one mesh

A single process skips all of it.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import pathlib
import re
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from scaling.parallel.roster import EXIT_FAILED, Roster, RosterError, Rule

# All must agree in these: they decide what is computed or how processes talk.
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy")


@dataclasses.dataclass(frozen=True)
class Place:
    """One process's place in a run.

    Attributes:
      coordinator: "host:port" of process 0, where JAX's coordinator listens; "auto" leaves all to
        `jax.distributed.initialize()`.
      num_processes: how many; 0 for "auto".
      process_id: which one this is; -1 for "auto".
    """

    coordinator: str
    num_processes: int
    process_id: int


def discover(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    env: Mapping[str, str] = os.environ,
) -> Place | None:
    """Where this process stands, or None if it is alone.

    The first that applies: the three arguments; JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
    JAX_PROCESS_ID; a Slurm step of several tasks; a TPU pod that lists its workers in
    TPU_WORKER_HOSTNAMES (several slices: MEGASCALE_*). JAX_COORDINATOR_ADDRESS=auto is for a TPU
    pod or cluster that only JAX's own detection knows.

    Raises:
      RosterError: only some of the three variables are set, or one of them is no number.
    """
    if coordinator is not None:
        return _single_or(Place(coordinator, num_processes or 0, process_id or 0))
    if env.get("JAX_COORDINATOR_ADDRESS") == "auto":
        return Place("auto", 0, -1)
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    absent = [name for name in names if not env.get(name)]
    if len(absent) < len(names):
        if absent:
            raise RosterError(
                f"{', '.join(absent)} not set; set all of {', '.join(names)}, or none"
            )
        return _single_or(Place(env[names[0]], _number(env, names[1]), _number(env, names[2])))
    if int(env.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        port = 12000 + _number(env, "SLURM_JOB_ID") % 20000  # below the ephemeral ports
        first = _first_host(env["SLURM_STEP_NODELIST"])
        count, index = _number(env, "SLURM_STEP_NUM_TASKS"), _number(env, "SLURM_PROCID")
        return Place(f"{first}:{port}", count, index)
    return _tpu(env)


def _tpu(env: Mapping[str, str]) -> Place | None:
    hosts = [host for host in env.get("TPU_WORKER_HOSTNAMES", "").split(",") if host]
    slices = int(env.get("MEGASCALE_NUM_SLICES", "1"))
    if not hosts or env.get("JAX_PLATFORMS") == "cpu":
        return None
    index = _number(env, "TPU_WORKER_ID") + len(hosts) * int(env.get("MEGASCALE_SLICE_ID", "0"))
    first = env.get("MEGASCALE_COORDINATOR_ADDRESS", hosts[0]) if slices > 1 else hosts[0]
    return _single_or(Place(f"{first.partition(':')[0]}:8476", len(hosts) * slices, index))


def _single_or(place: Place) -> Place | None:
    return None if place.num_processes == 1 else place


def _number(env: Mapping[str, str], name: str) -> int:
    if not env.get(name, "").isdecimal():
        raise RosterError(f"{name}={env.get(name)!r} is no number")
    return int(env[name])


def _first_host(nodes: str) -> str:
    """The first host of a Slurm list such as `login,node[007-015,020]`."""
    match = re.match(r"([^,\[]+)(?:\[(\w+))?", nodes)
    if match is None:
        raise RosterError(f"SLURM_STEP_NODELIST={nodes!r} names no host")
    return match[1] + (match[2] or "")


class Processes:
    """The processes of a run while it lives; a context manager around all that uses JAX.

    Leaving it by an exception tells the others, which then end too.

    Attributes:
      process_id: which one this is, from 0.
      num_processes: how many there are.
    """

    def __init__(self, roster: Roster | None = None) -> None:
        """Without a roster: one process alone."""
        self._roster = roster
        self.process_id = roster.process_id if roster else 0
        self.num_processes = roster.num_processes if roster else 1

    def stop_at(self, where: Any, wanted: bool) -> bool:
        """Whether to stop before step `where`; the same answer on all processes.

        Args:
          where: the step, for messages.
          wanted: whether this process was told to stop.
        """
        return wanted if self._roster is None else self._roster.stop_at(where, wanted)

    def decide(self, tag: str, value: Any, rule: Rule, timeout: float | None = None) -> Any:
        """All give a value, process 0 applies the rule, all get the result; see `Roster.decide`."""
        if self._roster is None:
            return rule({0: value})
        return self._roster.decide(tag, value, rule, timeout)

    def on_death(self, call: Callable[[str], None]) -> None:
        """What to do, within 5 seconds, when another process has died and this one must end."""
        if self._roster is not None:
            self._roster.watch(call)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._roster is None:
            return
        import jax

        if error is not None and not (isinstance(error, SystemExit) and not error.code):
            self._roster.fail(f"{type(error).__name__}: {error}".splitlines()[0])
            _exit_soon(error)
            return
        # All have come to the end, and nobody's collectives lose a partner. Should one die before,
        # the roster still watches. (JAX's own barrier is fatal when somebody is 5 minutes late.)
        self._roster.decide("end", 0, len, timeout=3600.0)
        jax.distributed.shutdown()
        self._roster.leave(linger=60.0)


def _exit_soon(error: BaseException) -> None:
    """Ends a failed process after the caller had a moment to say why.

    Python's own end does not come to an end: JAX's client waits for all others at a barrier, and
    aborts when they are gone.
    """
    from scaling.configs import ConfigError

    code = 2 if isinstance(error, ConfigError) else EXIT_FAILED
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        code = error.code

    def end() -> None:
        time.sleep(2.0)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    threading.Thread(target=end, daemon=True).start()


def start_processes(config: Any, arguments: Any) -> Processes:
    """Brings all processes of a run up, or refuses on all of them.

    Environment: SCALING_START_TIMEOUT (seconds to wait for the others, 50), SCALING_SILENCE
    (seconds without a heartbeat that mean death, 20), SCALING_ROSTER_PORT (coordinator's + 1).

    Args:
      config: resolved config.
      arguments: has `coordinator`, `num_processes` and `process_id`, each possibly None.

    Raises:
      RosterError: somebody is missing (named) or died, or the processes differ (how, is said).
    """
    place = discover(arguments.coordinator, arguments.num_processes, arguments.process_id)
    if place is None:
        return Processes()
    from scaling import configs

    return join(place, {"config": configs.to_json(config), **versions()}, compare_configs)


def join(
    place: Place,
    facts: Mapping[str, str],
    explain: Callable[[str, str], str] = lambda a, b: f"{a} and {b}",
    env: Mapping[str, str] = os.environ,
) -> Processes:
    """Roster, comparison, `jax.distributed`, devices, watch.

    Args:
      place: this process's place.
      facts: what must be equal on all processes.
      explain: (process 0's, another's "config") -> their difference in words.
      env: where the three variables of `start_processes` are.

    Raises:
      RosterError: see `start_processes`.
    """
    timeout = float(env.get("SCALING_START_TIMEOUT", "50"))
    silence = float(env.get("SCALING_SILENCE", "20"))
    port = int(env["SCALING_ROSTER_PORT"]) if env.get("SCALING_ROSTER_PORT") else None
    automatic = place.coordinator == "auto"
    if automatic:
        place, port = _initialize_automatically(timeout, port)
    host, _, coordinator_port = place.coordinator.rpartition(":")
    roster = Roster(
        host.strip("[]"),
        port or int(coordinator_port) + 1,
        place.num_processes,
        place.process_id,
        timeout=timeout,
        silence=silence,
    )
    try:
        _refuse(roster.decide("start", dict(facts), lambda all_: differences(all_, explain)))
        roster.watch()
        if not automatic:
            _initialize(place, timeout)
        import jax

        devices = Counter(device.device_kind for device in jax.local_devices())
        ours = {"local devices": ", ".join(f"{n} x {kind}" for kind, n in sorted(devices.items()))}
        _refuse(roster.decide("devices", ours, lambda all_: differences(all_, explain)))
    except RosterError:
        roster.leave()
        raise
    except BaseException as error:
        roster.fail(f"{type(error).__name__}: {error}".splitlines()[0])
        _exit_soon(error)
        raise
    return Processes(roster)


def differences(
    facts: Mapping[int, Mapping[str, str]], explain: Callable[[str, str], str]
) -> str | None:
    """What sets processes apart from process 0, in lines; None if nothing does."""
    lines = []
    for process_id in sorted(facts):
        for key in sorted(facts[0].keys() | facts[process_id].keys()):
            ours, theirs = (facts[i].get(key, "(none)") for i in (0, process_id))
            if ours != theirs:
                said = explain(ours, theirs) if key == "config" else f"{ours} and {theirs}"
                lines.append(f"  processes 0 and {process_id} differ in {key}: {said}")
    return "the processes of this run do not match\n" + "\n".join(lines) if lines else None


def compare_configs(ours: str, theirs: str) -> str:
    """The differing keys of two resolved configs (JSON)."""
    from scaling import configs

    found = configs.diff(configs.decode(ours), configs.decode(theirs))
    return ", ".join(f"{one.key} is {one.left!r} and {one.right!r}" for one in found)


def versions() -> dict[str, str]:
    """The code and the libraries of this process: a hash of this package's sources, versions."""
    package = pathlib.Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(json.dumps(path.relative_to(package).parts).encode() + path.read_bytes())
    found = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {"code of scaling": digest.hexdigest()[:16], **found}


def _refuse(difference: str | None) -> None:
    if difference:
        raise RosterError(difference + "\nstart all processes from the same code and command")


def _initialize(place: Place, timeout: float) -> None:
    """`jax.distributed.initialize` with our signal handlers left alone."""
    import jax

    # Its preemption notice takes SIGTERM away from us; `Roster.stop_at` does that work here.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        place.coordinator,
        place.num_processes,
        place.process_id,
        initialization_timeout=max(1, int(timeout)),
    )


def _initialize_automatically(timeout: float, port: int | None) -> tuple[Place, int]:
    """JAX finds the others by itself (TPU pod); then process 0 tells where its hub listens."""
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(initialization_timeout=max(1, int(timeout)))
    with socket.socket() as probe:
        probe.bind(("", port or 0))
        mine = f"{socket.gethostname()}:{probe.getsockname()[1]}"
    text = np.zeros(256, np.uint8)
    text[: len(mine)] = list(mine.encode())
    text = np.asarray(multihost_utils.broadcast_one_to_all(text), np.uint8)
    host, _, found = bytes(text).rstrip(b"\0").decode().rpartition(":")
    return Place(f"{host}:{found}", jax.process_count(), jax.process_index()), int(found)
