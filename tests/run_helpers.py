"""Starting real runs in processes of their own, watching them, and comparing what they left."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from helpers import ROOT

TINY = ROOT / "tests" / "faults" / "tiny.py"


def corpus(folder: pathlib.Path) -> pathlib.Path:
    """A text of a few hundred lines that is the same everywhere."""
    path = folder / "corpus.txt"
    lines = [f"{i}: the square of {i} is {i * i}, its cube {i**3}.\n" for i in range(1500)]
    path.write_text("".join(lines))
    return path


def command(text: pathlib.Path, workdir: pathlib.Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "scaling.main", f"--config={TINY}:{text}"),
        *(f"--workdir={workdir}", *more),
    ]


def environment(devices: int = 1, **more: str) -> dict[str, str]:
    """One fake device a process unless asked otherwise; caches of the test session."""
    flags = re.sub(r"(device_count=)\d+", rf"\g<1>{devices}", os.environ["XLA_FLAGS"])
    return os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1"} | more


def start(arguments: list[str], log: pathlib.Path, **env: str) -> subprocess.Popen:
    with open(log, "ab") as out:
        return subprocess.Popen(arguments, stdout=out, stderr=out, env=env or environment())


def run(arguments: list[str], env: dict[str, str] | None = None, expect: int = 0) -> str:
    """Runs to the end; the output, and an error with it if the exit code is another."""
    done = subprocess.run(
        arguments, capture_output=True, text=True, env=env or environment(), timeout=300
    )
    output = done.stdout + done.stderr
    assert done.returncode == expect, f"exit code {done.returncode}, not {expect}:\n{output}"
    return output


def wait_until(condition: Callable[[], bool], process: subprocess.Popen, seconds: float) -> bool:
    """True once the condition holds; False when the process ended first."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        if process.poll() is not None:
            return False
        time.sleep(0.001)
    raise TimeoutError(f"nothing happened within {seconds} s")


def last_step(workdir: pathlib.Path) -> int:
    try:
        with open(workdir / "metrics.jsonl", "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 2000))
            lines = file.read().splitlines()
        return max(
            (json.loads(line)["step"] for line in lines[-2:] if line.endswith(b"}")), default=0
        )
    except (OSError, ValueError):
        return 0


def saving(workdir: pathlib.Path) -> bool:
    """Whether a save is under way."""
    try:
        return any(name.startswith(".tmp-") for name in os.listdir(workdir / "checkpoints"))
    except OSError:
        return False


def stream(workdir: pathlib.Path) -> list[str]:
    """The lines of the metrics stream, without timings: exactly what must be equal."""
    lines = []
    for line in (workdir / "metrics.jsonl").read_text().splitlines():
        values = json.loads(line)
        kept = {k: v for k, v in values.items() if not k.startswith("perf/")}
        lines.append(json.dumps(kept))
    return lines


def summary(workdir: pathlib.Path) -> dict:
    return json.loads((workdir / "summary.json").read_text())


def cut_back(workdir: pathlib.Path, copy: pathlib.Path, saved: int, reached: int) -> None:
    """Copies a finished run as a kill after step `reached` would have left it.

    Args:
      saved: the checkpoint that a relaunch goes on from; later ones are removed.
      reached: the last step in the stream; later lines are removed.
    """
    shutil.copytree(workdir, copy)
    (copy / "summary.json").unlink()
    for folder in (copy / "checkpoints").glob("[0-9]*"):
        if int(folder.name) > saved:
            shutil.rmtree(folder)
    assert (copy / "checkpoints" / f"{saved:08d}").is_dir()
    lines = (copy / "metrics.jsonl").read_text().splitlines(keepends=True)
    lines = [line for line in lines if json.loads(line)["step"] <= reached]
    (copy / "metrics.jsonl").write_text("".join(lines))


def kill(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
