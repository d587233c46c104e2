"""What this machine has, what is wrong with it for a run, and what to do: `python -m scaling.doctor`.

The backend is tried in a process of its own with a time limit, since one that hangs is among the
things to be found out.
"""

import contextlib
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import psutil
from packaging.requirements import Requirement

from scaling.track import allocator, hardware, provenance
from scaling.track.paths import cache_root, compile_cache, tfds_root

GiB = 2**30
_LOW_SPACE = 5 * GiB
_DEVICE_FILE = re.compile(r"^/dev/(nvidia\d+|accel\d*|accel/.*|vfio/\d+|kfd)$")
_LOCKFILE = pathlib.Path("/tmp/libtpu_lockfile")


# --- without a backend -----------------------------------------------------------------------


def device_files() -> list[str]:
    """Accelerators that the operating system shows: GPUs, TPUs."""
    roots = [pathlib.Path("/dev"), pathlib.Path("/dev/accel"), pathlib.Path("/dev/vfio")]
    names = [str(path) for root in roots if root.is_dir() for path in root.iterdir()]
    return sorted(n for n in names if _DEVICE_FILE.match(n) and not pathlib.Path(n).is_dir())


def holders(paths: Iterable[str]) -> list[dict[str, Any]]:
    """Processes that have one of the files open: {pid, name, user, files}; ours left out.

    Processes of other users can be seen by root only.
    """
    wanted = set(paths)
    holding: list[dict[str, Any]] = []
    for process in psutil.process_iter(["name", "username"]) if wanted else []:
        if process.pid == os.getpid():
            continue
        folder = f"/proc/{process.pid}/fd"
        try:
            held = wanted & {os.readlink(f"{folder}/{entry}") for entry in os.listdir(folder)}
        except OSError:
            continue
        if held:
            who = {"pid": process.pid, "name": process.info["name"]}
            holding.append(who | {"user": process.info["username"], "files": sorted(held)})
    return holding


def requirements() -> list[str]:
    """Complaints about installed packages, against what this package asks for."""
    wrong = []
    try:
        needed = importlib.metadata.requires("scaling") or []
    except importlib.metadata.PackageNotFoundError:
        return ["the package is not installed: run ./scripts/run, or pip install -e ."]
    for text in needed:
        need = Requirement(text)
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(need.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{need.name} is not installed: pip install '{need}'")
            continue
        if not need.specifier.contains(version, prereleases=True):
            wrong.append(f"{need.name} {version} is outside the tested range: pip install '{need}'")
    return wrong


def inspect_path(name: str, folder: Callable[[], pathlib.Path]) -> dict[str, Any]:
    """{name, path, exists, free, writable} of a folder, or of where it would be made; or an error."""
    try:
        place = path = folder()
    except RuntimeError as error:
        unknown = {"path": None, "exists": False, "free": 0, "writable": False}
        return {"name": name, **unknown, "error": str(error)}
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
    try:
        with tempfile.TemporaryFile(dir=place if place.is_dir() else place.parent):
            writable = place.is_dir()
    except OSError:
        writable = False
    facts = {"path": str(path), "exists": path.exists(), "free": free, "writable": writable}
    return {"name": name, **facts}


def paths() -> list[dict[str, Any]]:
    """Where runs read and write, unless told otherwise."""
    folders = {
        "prepared data (SCALING_CACHE)": cache_root,
        "compiled programs": compile_cache,
        "data sets (TFDS_DATA_DIR)": tfds_root,
        "here": pathlib.Path.cwd,
        "temporary files": lambda: pathlib.Path(tempfile.gettempdir()),
    }
    return [inspect_path(name, folder) for name, folder in folders.items()]


# --- the backend, in a process of its own -----------------------------------------------------


def probe(seconds: float) -> dict[str, Any]:
    """Starts the backend in this process: {platform, devices, start_seconds, matmul}."""
    begin = time.monotonic()
    import jax
    import jax.numpy as jnp

    devices = jax.devices()
    started = time.monotonic() - begin
    rates = {
        name: matmul_rate(jax, jnp.dtype(name), seconds / 2) for name in ("float32", "bfloat16")
    }
    return {
        "platform": devices[0].platform,
        "devices": dict(Counter(device.device_kind for device in devices)),
        "processes": jax.process_count(),
        "start_seconds": started,
        "matmul": rates,
    }


def matmul_rate(jax: Any, dtype: Any, seconds: float) -> float:
    """FLOP/s of square matrix products on one device, in about `seconds`."""
    multiply = jax.jit(lambda a, b: a @ b)
    size, took = 256, 0.0
    while True:
        a = jax.numpy.full((size, size), 1 / size, dtype)
        jax.block_until_ready(multiply(a, a))
        begin = time.monotonic()
        jax.block_until_ready(multiply(a, a))
        took = time.monotonic() - begin
        if took > 0.01 or size >= 8192:
            break
        size *= 2
    count, begin = 0, time.monotonic()
    while time.monotonic() - begin < seconds:
        result = a
        for _ in range(max(1, int(0.1 / took))):
            result = multiply(result, a)
            count += 1
        jax.block_until_ready(result)
    return 2 * size**3 * count / (time.monotonic() - begin)


def run_probe(timeout: float, seconds: float) -> dict[str, Any]:
    """`probe` in a child with a time limit; {error} when it failed, {error, hung} when it hung."""
    command = [sys.executable, "-m", "scaling.doctor", "--probe", f"--seconds={seconds}"]
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as out,
        tempfile.TemporaryFile("w+", encoding="utf-8") as err,
    ):
        # A group of its own: whatever the backend starts is ended with it.
        child = subprocess.Popen(command, stdout=out, stderr=err, start_new_session=True)
        try:
            code = child.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):  # one stuck in a driver stays
                child.wait(5)
            return {"error": f"the backend did not answer within {timeout:.0f} s", "hung": True}
        out.seek(0)
        err.seek(0)
        lines = out.read().strip().splitlines()
        if code == 0 and lines:
            return json.loads(lines[-1])
        said = [line for line in err.read().strip().splitlines() if line.strip()]
        last = said[-1][:500] if said else "it said nothing"
        return {"error": f"the backend failed (exit code {code}): {last}", "hung": False}


# --- the verdict -----------------------------------------------------------------------------


def examine(timeout: float = 90.0, seconds: float = 2.0) -> dict[str, Any]:
    """Everything, as JSON data; `advice` is empty on a healthy machine."""
    held = device_files()
    locks = [str(_LOCKFILE)] if _LOCKFILE.exists() else []
    report: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": provenance.cores(),
        "host_memory": psutil.virtual_memory()._asdict(),
        "versions": provenance.versions(),
        "environment": provenance.environment(os.environ),
        "device_files": held,
        "lockfiles": locks,
        "holders": holders([*held, *locks]),
        "paths": paths(),
        "allocator": allocator.describe(),
        "requirements": requirements(),
        "backend": run_probe(timeout, seconds),
    }
    report["advice"] = advise(report)
    return report


def advise(report: dict[str, Any]) -> list[str]:
    """What is wrong and what to do about it, most urgent first."""
    advice = _about_backend(report) + list(report["requirements"])
    for path in report["paths"]:
        if path["name"].startswith("data sets"):
            continue  # only read from, and only by some runs
        if "error" in path:
            advice.append(f"{path['name']}: {path['error']}")
        elif not path["writable"]:
            advice.append(
                f"{path['name']}: {path['path']} cannot be written to; fix its owner and mode"
                + (" or set SCALING_CACHE elsewhere" if "here" not in path["name"] else "")
            )
        elif path["free"] < _LOW_SPACE:
            free = path["free"] / GiB
            advice.append(f"{path['name']}: only {free:.1f} GiB free at {path['path']}")
    return advice


def _about_backend(report: dict[str, Any]) -> list[str]:
    backend, advice = report["backend"], []
    who = ", ".join(f"{h['name']} (process {h['pid']})" for h in report["holders"])
    if "error" in backend:
        advice.append(backend["error"])
        if "XLA_FLAGS" in backend["error"]:  # it ended before it looked for a device
            advice.append("XLA_FLAGS: this version of XLA does not know a flag in it; take it out")
        elif who:
            advice.append(f"the accelerator is held by {who}: wait for it or stop it")
        elif report["lockfiles"]:
            advice.append(
                f"no process holds {report['lockfiles'][0]}: a dead one left it; delete it"
            )
        else:
            advice.append(
                "no process seems to hold an accelerator; see the full message with "
                '`python -c "import jax; jax.devices()"`, and try JAX_PLATFORMS=cpu'
            )
        return advice
    if backend["platform"] == "cpu" and report["device_files"]:
        forced = report["environment"].get("JAX_PLATFORMS", "")
        plugins = {"jax-cuda12-plugin", "jax-cuda13-plugin", "libtpu"} & set(report["versions"])
        gpu = any("nvidia" in name for name in report["device_files"])
        if forced.split(",")[0] == "cpu":
            remedy = "JAX_PLATFORMS=cpu hides it; unset that variable"
        elif not plugins and (gpu or any("accel" in n for n in report["device_files"])):
            remedy = f"pip install 'scaling[{'gpu' if gpu else 'tpu'}]'"
        elif plugins:
            remedy = f"the plug-in is there ({', '.join(sorted(plugins))}); check the driver"
        else:
            return advice  # VFIO devices without libtpu are rarely ours
        advice.append(f"{report['device_files'][0]} is there but JAX runs on CPU: {remedy}")
    for kind in backend["devices"]:
        device = hardware.DEVICES.get(kind)
        rate = backend["matmul"]["bfloat16"]
        if device is not None and rate < 0.5 * device.flops:
            advice.append(
                f"{kind} reaches {rate / 1e12:.0f} of {device.flops / 1e12:.0f} TFLOP/s in "
                "bfloat16: another program uses it, or its power or clocks are limited"
            )
    return advice


# --- what is printed -------------------------------------------------------------------------


def render(report: dict[str, Any]) -> str:
    """The report for people."""
    memory = report["host_memory"]
    backend = report["backend"]
    rows = [
        ("system", f"{report['platform']}, Python {report['python']}, {report['cpus']} CPUs"),
        ("memory", f"{memory['available'] / GiB:.1f} of {memory['total'] / GiB:.1f} GiB available"),
        ("allocator", report["allocator"]),
        ("versions", ", ".join(f"{k} {v}" for k, v in report["versions"].items())),
        ("accelerators", ", ".join(report["device_files"]) or "none seen by the system"),
        ("held by", ", ".join(
            f"{h['name']} (process {h['pid']}, {h['user']}): {' '.join(h['files'])}"
            for h in report["holders"]
        ) or "no process"),
        ("lock files", ", ".join(report["lockfiles"]) or "none"),
    ]  # fmt: skip
    if "error" in backend:
        rows.append(("backend", backend["error"]))
    else:
        kinds = ", ".join(f"{n} x {kind}" for kind, n in backend["devices"].items())
        rates = ", ".join(f"{v / 1e9:,.0f} GFLOP/s {k}" for k, v in backend["matmul"].items())
        rows += [
            ("backend", f"{backend['platform']}: {kinds} (up in {backend['start_seconds']:.1f} s)"),
            ("matmul", f"{rates} on one device"),
        ]
    rows += [(f"${key}", value) for key, value in report["environment"].items()]
    rows += [
        (p["name"], p["error"] if "error" in p else f"{p['path']}: "
         + ("" if p["exists"] else "not there yet, ")
         + ("writable" if p["writable"] else "NOT writable") + f", {p['free'] / GiB:.0f} GiB free")
        for p in report["paths"]
    ]  # fmt: skip
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {text}" for name, text in rows]
    lines += ["", *(f"advice: {line}" for line in report["advice"])]
    return "\n".join(lines + ([] if report["advice"] else ["healthy"]))
