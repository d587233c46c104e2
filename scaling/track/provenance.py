"""Where a run comes from: code version, libraries, machine, command line."""

import datetime
import hashlib
import importlib.metadata
import os
import pathlib
import platform
import re
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

PACKAGES = (
    *("scaling", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"),
    *("tensorflow-datasets", "tokenizers", "libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin"),
)
_ENVIRONMENT = re.compile(
    r"^(JAX_|XLA_|LIBTPU_|TPU_|CUDA_|NVIDIA_|NCCL_|SCALING_|OMP_|SLURM_(JOB|NTASKS|NODE|PROC)|"
    r"CLOUD_TPU|MEGASCALE_|TF_GPU|PYTHONHASHSEED|GLIBC_TUNABLES|LD_PRELOAD)"
)
# Those of them that say where a process runs and not what it computes.
_PLACE = re.compile(
    r"^(SLURM_|SCALING_|CLOUD_TPU|MEGASCALE_|CUDA_VISIBLE_DEVICES$|NVIDIA_VISIBLE|TPU_WORKER_|"
    r"JAX_(COORDINATOR|NUM_PROC|PROCESS_ID|COMPILATION_CACHE|PERSISTENT_CACHE|LOG_|LOGGING|TRACE)|"
    r"GLIBC_TUNABLES$)"
)
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASS|CREDENTIAL", re.IGNORECASE)


def collect(argv: Sequence[str] | None = None, devices: Sequence[Any] = ()) -> dict[str, Any]:
    """Facts about this process, as plain JSON data.

    `devices` are `jax.devices()` where a backend runs; this function never starts one.

    Returns:
      {time, argv, hostname, pid, python, platform, versions, git, environment, devices}.
    """
    return {
        "time": now(),
        "argv": list(sys.argv if argv is None else argv),
        "hostname": socket.gethostname(),
        "pid": os.getpid(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions(),
        "git": git_state(pathlib.Path(__file__).resolve().parent),
        "environment": environment(os.environ),
        "devices": {
            "platform": devices[0].platform if devices else None,
            "kinds": dict(Counter(device.device_kind for device in devices)),
            "cores": cores(),
        },
    }


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two starts (of `collect`) and can change the numbers of a run, a line each.

    What an older version did not record is passed over.
    """

    def facts(start: Mapping[str, Any]) -> dict[str, Any]:
        devices = start.get("devices", {})
        variables = start.get("environment", {})
        kinds = {f"devices of kind {kind}": n for kind, n in devices.get("kinds", {}).items()}
        on_cpu = devices.get("platform") == "cpu"
        return {
            **start.get("versions", {}),
            **({"CPU cores": devices.get("cores")} if on_cpu else {}),
            **kinds,
            **{name: text for name, text in variables.items() if not _PLACE.match(name)},
        }

    there, here = facts(before), facts(now)
    names = [*there, *(name for name in here if name not in there)]
    return [
        f"{name}: {there.get(name, 'none')} -> {here.get(name, 'none')}"
        for name in names
        if there.get(name) != here.get(name)
    ]


def cores() -> int | None:
    """CPU cores that this process may use: what a step on CPU takes depends on it."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Versions of those packages that are installed; by default all that can change a result."""
    installed: dict[str, str] = {}
    for name in packages:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def code_digest() -> str:
    """16 hex digits of all source files of this package, their names included."""
    package = pathlib.Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(repr(path.relative_to(package).parts).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables that steer JAX, XLA, the accelerator or the scheduler; no secrets."""
    return {
        name: variables[name]
        for name in sorted(variables)
        if _ENVIRONMENT.match(name) and not _SECRET.search(name)
    }


def git_state(folder: pathlib.Path, timeout: float = 10.0) -> dict[str, Any] | None:
    """{commit, dirty, diff_sha256} of the checkout around `folder`; None outside of one.

    `dirty` covers tracked files and untracked ones that git does not ignore; `diff_sha256` is the
    hash of the difference to the commit (None when clean), so equal hashes mean equal edits.
    """

    def git(*arguments: str) -> bytes:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, check=True, timeout=timeout).stdout

    try:
        commit = git("rev-parse", "HEAD").decode().strip()
        status = git("status", "--porcelain")
        edits = git("diff", "HEAD") if status else b""
    except (OSError, subprocess.SubprocessError):
        return None
    changed = hashlib.sha256(status + edits).hexdigest() if status else None
    return {"commit": commit, "dirty": bool(status), "diff_sha256": changed}
