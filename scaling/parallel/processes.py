"""Starting a run that spans processes: which one this is, whether all match, and JAX's own start.

    discover   flags, JAX_*, Slurm or TPU variables -> where process 0 is, how many, which one
    roster     all come within a bounded time, or every one says which is missing
    compare    config, code, libraries; then devices; a difference is refused by all
    initialize `jax.distributed`, after which devices of all processes are one mesh

A single process skips all of it.
"""

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from scaling.parallel.link import RosterError, interface
from scaling.parallel.roster import Processes, Roster
from scaling.track import provenance

# All must agree in these: they decide what is computed or how processes talk.
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy")
AUTO = "auto"


@dataclasses.dataclass(frozen=True)
class Place:
    """One process's place in a run.

    Attributes:
      coordinator: "host:port" of process 0, where JAX's coordinator listens; "auto" leaves all to
        JAX's detection of clusters.
      num_processes: how many; 0 for "auto".
      process_id: which one this is, from 0; -1 for "auto".
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
      RosterError: only some of the three variables are set, or one of them is not a number.
    """
    if coordinator is not None:
        return _single_or(Place(coordinator, num_processes or 0, process_id or 0))
    if env.get("JAX_COORDINATOR_ADDRESS") == AUTO:
        return Place(AUTO, 0, -1)
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
    count = len(hosts) * slices
    # Alone it needs no index: one host is what the planner tells libtpu, and processes inherit that.
    if count <= 1 or env.get("JAX_PLATFORMS") == "cpu":
        return None
    index = _number(env, "TPU_WORKER_ID") + len(hosts) * int(env.get("MEGASCALE_SLICE_ID", "0"))
    first = env.get("MEGASCALE_COORDINATOR_ADDRESS", hosts[0]) if slices > 1 else hosts[0]
    return Place(f"{first.partition(':')[0]}:8476", count, index)


def _single_or(place: Place) -> Place | None:
    return None if place.num_processes == 1 else place


def _number(env: Mapping[str, str], name: str) -> int:
    if not env.get(name, "").isdecimal():
        raise RosterError(f"{name}={env.get(name)!r} is not a number")
    return int(env[name])


def _first_host(nodes: str) -> str:
    """The first host of a Slurm list such as `rack[1-2]n[07-15,20]-ib,login`.

    Brackets may stand anywhere in a name, and several in one; a comma inside them ends no name.
    """
    match = re.match(r"(?:[^,\[\]\s]|\[\w[\w,-]*\])+(?=,|$)", nodes)
    if match is None:
        raise RosterError(
            f"SLURM_STEP_NODELIST={nodes!r} is not a list of hosts; give JAX_COORDINATOR_ADDRESS, "
            "JAX_NUM_PROCESSES and JAX_PROCESS_ID instead"
        )
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", match[0])


def start_processes(config: Any, **flags: Any) -> Processes:
    """Brings all processes of a run up, or refuses on all of them; `flags` are those of `discover`.

    Environment: SCALING_START_TIMEOUT (seconds to wait for the others, 50), SCALING_SILENCE
    (seconds without a heartbeat that mean death, 20), SCALING_ROSTER_PORT (coordinator's + 1),
    SCALING_SECRET (the same in all processes: a connection that does not know it is refused;
    without one, whatever reaches the port may join, as with JAX's coordinator).

    Raises:
      RosterError: a process is missing (named) or died, or they differ (in what, is said).
    """
    place = discover(**flags)
    if place is None:
        return Processes()
    from scaling import configs

    return join(place, {"config": configs.to_json(config), **versions()}, compare_configs)


def join(
    place: Place,
    facts: Mapping[str, str],
    explain: Callable[[str, str], str] = lambda a, b: f"{a} and {b}",
    env: Mapping[str, str] = os.environ,
) -> Roster:
    """Roster, comparison, `jax.distributed`, devices, watch.

    `facts` must be equal in all processes; `explain` puts the difference of process 0's and another's
    "config" into words.
    """
    timeout = float(env.get("SCALING_START_TIMEOUT", "50"))
    if place.coordinator == AUTO:
        place = _detect(timeout)
    host, _, port = place.coordinator.rpartition(":")
    bound = interface(host.strip("[]"), env)
    roster = Roster(
        host.strip("[]"),
        int(env.get("SCALING_ROSTER_PORT") or int(port) + 1),
        place.num_processes,
        place.process_id,
        interface=bound,
        secret=env.get("SCALING_SECRET", ""),
        timeout=timeout,
        silence=float(env.get("SCALING_SILENCE", "20")),
    )
    try:
        _refuse(roster.decide("start", dict(facts), lambda all_: differences(all_, explain)))
        roster.watch()
        own = f"[{bound}]:{port}" if ":" in bound else f"{bound}:{port}"
        _initialize(place, timeout, env.get("JAX_COORDINATOR_BIND_ADDRESS") or own)
        import jax

        devices = Counter(device.device_kind for device in jax.local_devices())
        ours = {"local devices": ", ".join(f"{n} x {kind}" for kind, n in sorted(devices.items()))}
        _refuse(roster.decide("devices", ours, lambda all_: differences(all_, explain)))
    except RosterError:
        roster.leave()
        raise
    except BaseException as error:
        roster.end_by(error)
        raise
    return roster


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

    differences = configs.diff(configs.decode(ours), configs.decode(theirs))
    return ", ".join(f"{one.key} is {one.left!r} and {one.right!r}" for one in differences)


def versions() -> dict[str, str]:
    """The code and the libraries of this process."""
    return {"code of scaling": provenance.code_digest(), **provenance.versions(LIBRARIES)}


def _refuse(difference: str | None) -> None:
    if difference:
        raise RosterError(difference + "\nstart all processes from the same code and command")


def _initialize(place: Place, timeout: float, bind: str) -> None:
    """`jax.distributed.initialize` with our signal handlers left alone."""
    import jax

    # Its preemption notice takes SIGTERM away from us; `stop_at` does that work here.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        place.coordinator,
        place.num_processes,
        place.process_id,
        initialization_timeout=max(1, int(timeout)),
        coordinator_bind_address=bind,
    )


def _detect(timeout: float) -> Place:
    """What JAX's own detection of clusters finds."""
    from jax._src.clusters import ClusterEnv

    seconds = max(1, int(timeout))
    coordinator, count, index, _ = ClusterEnv.auto_detect_unset_distributed_params(
        None, None, None, None, None, seconds
    )
    if coordinator is None or count is None or index is None:
        raise RosterError("JAX_COORDINATOR_ADDRESS=auto: JAX detects no cluster; give an address")
    return Place(coordinator, count, index)
