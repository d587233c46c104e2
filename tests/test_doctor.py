"""The doctor: a healthy machine, a hung and a failed backend, who holds what, advice."""

import json
import os
import pathlib
import subprocess
import sys
import time
from typing import Any

import pytest
from helpers import ROOT

from scaling.track import machine

HEALTHY: dict[str, Any] = {
    "environment": {}, "versions": {"jax": "0.10.2"}, "device_files": [], "lockfiles": [],
    "holders": [], "requirements": [], "paths": [],
    "backend": {"platform": "cpu", "devices": {"cpu": 1}, "matmul": {"bfloat16": 1e9}},
}  # fmt: skip


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scaling.doctor", "--seconds=0.2", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True
    )


def test_a_real_machine(tmp_path: pathlib.Path) -> None:
    done = run("--json", SCALING_CACHE=str(tmp_path / "new"))
    report = json.loads(done.stdout)
    assert done.returncode == bool(report["advice"]), done.stderr
    assert report["backend"]["platform"] == "cpu"
    assert report["backend"]["devices"] == {"cpu": 8}
    assert all(rate > 1e7 for rate in report["backend"]["matmul"].values())
    assert report["paths"][0]["exists"] is False
    assert report["requirements"] == []
    text = machine.render(report)
    for words in ("jax 0", "GFLOP/s bfloat16", "8 x cpu", "GiB free", str(tmp_path / "new")):
        assert words in text


def test_a_failed_backend_is_advice_and_exit_1() -> None:
    done = run(JAX_PLATFORMS="nonsense")
    assert done.returncode == 1
    assert "the backend failed" in done.stdout
    assert "nonsense" in done.stdout
    assert "advice:" in done.stdout


def test_a_hung_backend_is_given_up(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nsleep 60\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    begin = time.monotonic()
    backend = machine.run_probe(timeout=0.3, seconds=0.1)
    assert time.monotonic() - begin < 6
    assert backend == {"error": "the backend did not answer within 0 s", "hung": True}


def test_who_holds_a_file(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "nvidia0"
    path.touch()
    script = "import sys, time; f = open(sys.argv[1]); print('open', flush=True); time.sleep(60)"
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        found = machine.holders([str(path)])
        child.kill()
    assert [(h["pid"], h["files"]) for h in found] == [(child.pid, [str(path)])]
    assert machine.holders([]) == []


def advise(**changes: Any) -> str:
    return "\n".join(machine.advise(HEALTHY | changes))


def test_advice() -> None:
    assert advise() == ""
    gpu = ["/dev/nvidia0"]
    assert "pip install 'scaling[gpu]'" in advise(device_files=gpu)
    assert "unset" in advise(device_files=gpu, environment={"JAX_PLATFORMS": "cpu"})
    assert "check the driver" in advise(device_files=gpu, versions={"jax-cuda12-plugin": "1"})
    assert "pip install 'scaling[tpu]'" in advise(device_files=["/dev/accel0"])
    assert advise(device_files=["/dev/vfio/0"]) == ""
    hung = {"error": "the backend did not answer within 90 s", "hung": True}
    assert "no process seems to hold" in advise(backend=hung)
    assert "a dead one left it" in advise(backend=hung, lockfiles=["/tmp/libtpu_lockfile"])
    holder = {"pid": 5, "name": "python", "user": "a", "files": gpu}
    assert "held by python (process 5)" in advise(backend=hung, holders=[holder])
    flags = {"error": "exit code 1: Unknown flag in XLA_FLAGS: --no_such_flag=1", "hung": False}
    assert "take it out" in advise(backend=flags, holders=[holder])
    assert "held by" not in advise(backend=flags, holders=[holder])
    slow = {"platform": "gpu", "devices": {"NVIDIA H200": 1}, "matmul": {"bfloat16": 1e14}}
    assert "reaches 100 of 989 TFLOP/s" in advise(backend=slow)
    full = {"name": "prepared data", "path": "/x", "exists": True, "free": 2**30, "writable": True}
    assert "only 1.0 GiB free at /x" in advise(paths=[full])
    assert "cannot be written" in advise(paths=[full | {"writable": False}])
    assert advise(paths=[full | {"name": "data sets", "writable": False}]) == ""
    assert advise(requirements=["x is not installed"]) == "x is not installed"


def test_paths_that_cannot_be_written(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").touch()
    assert machine.inspect_path("a", lambda: tmp_path / "b" / "c")["writable"]
    assert not machine.inspect_path("a", lambda: tmp_path / "file" / "c")["writable"]
    assert not machine.inspect_path("a", lambda: pathlib.Path("/proc/x"))["writable"]


def test_it_starts_no_backend_itself() -> None:
    script = "import sys, scaling.doctor; assert 'jax' not in sys.modules, 'jax was imported'"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)
