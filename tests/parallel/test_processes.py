"""Real processes on loopback: they start together, differ, go missing, die and stop together."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import jax
import pytest

from scaling.parallel import processes
from scaling.parallel.link import RosterError
from scaling.parallel.processes import (
    Place,
    Processes,
    _first_host,
    compare_configs,
    differences,
    discover,
    join,
    start_processes,
    versions,
)

WORKER = pathlib.Path(__file__).with_name("process_worker.py")
SLOW = pytest.mark.slow
FACTS = {"config": '{"lr": 1}', "code": "abc"}


def free_port() -> int:
    """A port whose successor is free as well."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("", port + 1))
            except (OSError, OverflowError):
                continue
            return port


class Job:
    """Worker processes of one test."""

    def __init__(
        self,
        mode: str,
        size: int,
        absent: tuple[int, ...] = (),
        facts: dict[int, dict] | None = None,
        env: dict[str, str] | None = None,
        devices: dict[int, int] | None = None,
    ) -> None:
        port, self.start = free_port(), time.monotonic()
        self.workers: dict[int, subprocess.Popen[str]] = {}
        for i in (i for i in range(size) if i not in absent):
            flags = f"--xla_force_host_platform_device_count={(devices or {}).get(i, 2)}"
            given = json.dumps((facts or {}).get(i, FACTS))
            self.workers[i] = subprocess.Popen(
                [sys.executable, WORKER, mode, f"127.0.0.1:{port}", str(size), str(i), given],
                env=os.environ
                | {"XLA_FLAGS": flags, "SCALING_START_TIMEOUT": "30", "SCALING_SILENCE": "20"}
                | (env or {}),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )

    def wait_ready(self) -> None:
        for worker in self.workers.values():
            assert worker.stdout is not None
            lines = iter(worker.stdout.readline, "")  # gloo talks on stdout, too
            assert any(line.endswith("ready\n") for line in lines), worker.communicate()

    def finish(self, timeout: float = 60) -> dict[int, tuple[int, str, str]]:
        """process: (exit code, last line of stdout, stderr)."""
        try:
            texts = {i: w.communicate(timeout=timeout) for i, w in self.workers.items()}
            return {
                i: (self.workers[i].returncode, (out.splitlines() or [""])[-1], err)
                for i, (out, err) in texts.items()
            }
        finally:
            for worker in self.workers.values():
                worker.kill()
                worker.wait()


def test_processes_form_one_mesh_and_stop_at_one_step_when_one_is_told() -> None:
    job = Job("loop", 2)
    job.wait_ready()
    job.workers[1].send_signal(signal.SIGTERM)
    ended = check_rows(job)
    assert len({step for *_, step in ended}) == 1, ended


@pytest.mark.slow
def test_four_processes_stop_when_all_are_told() -> None:
    job = Job("loop", 4)
    job.wait_ready()
    for worker in job.workers.values():
        worker.send_signal(signal.SIGTERM)
    ended = check_rows(job)
    assert len({step for *_, step in ended}) == 1, ended


def check_rows(job: Job) -> list[list[Any]]:
    """What the workers said at their end: each has read its own rows and knows the sum of all."""
    ended, size = job.finish(), len(job.workers)
    expected = float(sum(i * i for i in range(3 * 4 * size)))
    said = []
    for process_id, (code, out, err) in ended.items():
        assert code == 0, err
        said.append(json.loads(out))
        rows = [4 * process_id, 4 * process_id + 4]
        assert said[-1][:4] == [process_id, 2 * size, expected, rows]
    return said


def test_a_missing_process_is_named_by_the_others() -> None:
    job = Job("loop", 3, absent=(2,), env={"SCALING_START_TIMEOUT": "3"})
    for code, _, err in job.finish().values():
        assert code == 1
        assert "missing at 'start' after 3 s: process 2 (2 of 3 processes came)" in err
    assert time.monotonic() - job.start < 40


def test_another_config_is_refused_by_all_with_the_difference() -> None:
    job = Job("loop", 2, facts={1: FACTS | {"config": '{"lr": 2}', "code": "xyz"}})
    for code, _, err in job.finish().values():
        assert code == 1
        assert """differ in config: '{"lr": 1}' and '{"lr": 2}'""" in err
        assert "processes 0 and 1 differ in code: abc and xyz" in err
    assert time.monotonic() - job.start < 60


@pytest.mark.slow
def test_another_number_of_devices_is_refused_by_all() -> None:
    job = Job("loop", 2, devices={1: 3})
    for code, _, err in job.finish().values():
        assert code == 1
        assert "differ in local devices: 2 x cpu and 3 x cpu" in err


def test_other_devices_are_refused_by_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """As above, without JAX: each thread is a process with devices of its own."""
    mine = threading.local()
    monkeypatch.setattr(processes, "_initialize", lambda *_: None)
    monkeypatch.setattr(jax, "local_devices", lambda: [SimpleNamespace(device_kind=mine.kind)])
    port = free_port()

    def member(process_id: int) -> str:
        mine.kind = f"kind {process_id}"
        with pytest.raises(RosterError) as caught:
            join(Place(f"127.0.0.1:{port}", 2, process_id), FACTS, env={})
        return str(caught.value)

    with ThreadPoolExecutor(2) as pool:
        for said in pool.map(member, range(2)):
            assert "differ in local devices: 1 x kind 0 and 1 x kind 1" in said


# Process 0 takes JAX's coordinator with it.
@pytest.mark.parametrize(
    ("victim", "size"), [(0, 2), pytest.param(0, 3, marks=SLOW), pytest.param(1, 3, marks=SLOW)]
)
def test_a_killed_process_ends_the_others_and_is_named(victim: int, size: int) -> None:
    job = Job("loop", size)
    job.wait_ready()
    job.workers[victim].kill()
    killed = time.monotonic()
    ended = job.finish()
    assert time.monotonic() - killed < 30
    for process_id, (code, _, err) in ended.items():
        if process_id != victim:
            assert code == 1
            assert f"process {victim} (" in err
            assert "died at" in err
            assert "leaves with exit code 1" in err


def test_a_death_ends_those_who_are_stuck_in_a_collective() -> None:
    job = Job("block", 2, env={"SCALING_SILENCE": "4"})
    job.wait_ready()
    start = time.monotonic()
    job.workers[0].wait(timeout=40)  # stuck in the sum until the silence is too long
    assert time.monotonic() - start < 30
    job.workers[1].kill()
    ended = job.finish()
    assert ended[0][0] == 1
    assert "process 1 (" in ended[0][2]
    assert "not a word for" in ended[0][2]


def test_an_error_in_one_is_told_to_the_others() -> None:
    job = Job("raise", 2)
    ended = job.finish()
    assert [code for code, _, _ in ended.values()] == [1, 1]
    assert "process 1 (" in ended[0][2]
    assert "OSError: no space left on the test" in ended[0][2]
    assert "Traceback" in ended[1][2]


@pytest.mark.slow
def test_automatic_start_where_jax_finds_the_others() -> None:
    job, port = Job("loop", 0), free_port()
    for i in range(2):
        slurm = {
            "SLURM_JOB_ID": str(port), "SLURM_STEP_NODELIST": "localhost",
            "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i),
            "SLURM_NTASKS": "2",
        }  # fmt: skip
        command = [sys.executable, WORKER, "loop", "auto", "0", "-1", json.dumps(FACTS)]
        env = os.environ | slurm | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
        job.workers[i] = subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    job.wait_ready()
    job.workers[0].send_signal(signal.SIGTERM)
    check_rows(job)


ADDRESS = {"JAX_COORDINATOR_ADDRESS": "h:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}


@pytest.mark.parametrize(
    ("env", "place"),
    [
        ({}, None),
        (ADDRESS, Place("h:1", 2, 1)),
        (ADDRESS | {"JAX_NUM_PROCESSES": "1"}, None),
        ({"JAX_COORDINATOR_ADDRESS": "auto"}, Place("auto", 0, -1)),
        (
            {
                "SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "gpu[07-09,12],login",
                "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3",
            },
            Place("gpu07:12007", 4, 3),
        ),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, None),  # outside of srun
        ({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "1"}, Place("a:8476", 2, 1)),
        ({"TPU_WORKER_HOSTNAMES": "a", "TPU_WORKER_ID": "0"}, None),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        (
            {"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "1", "JAX_PLATFORMS": "cpu"},
            None,
        ),
        (
            {
                "TPU_WORKER_HOSTNAMES": "c,d", "TPU_WORKER_ID": "1", "MEGASCALE_NUM_SLICES": "2",
                "MEGASCALE_SLICE_ID": "1", "MEGASCALE_COORDINATOR_ADDRESS": "a:8080",
            },
            Place("a:8476", 4, 3),
        ),
    ],
)  # fmt: skip
def test_discover(env: dict[str, str], place: Place | None) -> None:
    assert discover(env=env) == place


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node[01-04]-ib", "node01-ib"),
        ("node[01,03]-ib,login", "node01-ib"),
        ("rack[1-2]n[07-15,20]", "rack1n07"),
        ("a-b.c", "a-b.c"),
        ("login,node[1-2]", "login"),
        ("[07-09]x", "07x"),
    ],
)
def test_the_first_host_of_a_slurm_list(nodes: str, first: str) -> None:
    assert _first_host(nodes) == first


@pytest.mark.parametrize("nodes", ["", "node[01-04", "node]", ",a", "node[-4]"])
def test_what_is_no_slurm_list_is_refused(nodes: str) -> None:
    with pytest.raises(RosterError, match="give JAX_COORDINATOR_ADDRESS"):
        _first_host(nodes)


def test_flags_come_first_and_half_an_environment_is_refused() -> None:
    assert discover("a:5", 3, 2, env=ADDRESS) == Place("a:5", 3, 2)
    with pytest.raises(RosterError, match="JAX_PROCESS_ID not set"):
        discover(env={k: v for k, v in ADDRESS.items() if k != "JAX_PROCESS_ID"})
    with pytest.raises(RosterError, match="JAX_NUM_PROCESSES='two' is not a number"):
        discover(env=ADDRESS | {"JAX_NUM_PROCESSES": "two"})


def test_one_process_alone_needs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ADDRESS:
        monkeypatch.delenv(name, raising=False)
    with start_processes(None) as processes:
        assert isinstance(processes, Processes)
        assert (processes.process_id, processes.num_processes) == (0, 1)
        assert [processes.stop_at(3, wanted) for wanted in (False, True)] == [False, True]
        assert processes.decide("x", 5, lambda values: values) == {0: 5}


def test_differences_name_processes_and_keys() -> None:
    assert differences({0: FACTS, 1: FACTS}, lambda a, b: "") is None
    said = differences({0: FACTS, 1: FACTS, 2: {"code": "abc", "config": "?", "jax": "1"}}, min)
    assert said is not None
    assert "processes 0 and 2 differ in config" in said
    assert "processes 0 and 2 differ in jax: (none) and 1" in said
    assert "and 1 differ" not in said


def test_config_differences_in_words() -> None:
    ours = json.dumps({"name": "x", "optim": {"learning_rate": 0.1, "b1": 0.9}})
    said = compare_configs(ours, ours.replace("0.1", "0.2"))
    assert said == "optim.learning_rate is 0.1 and 0.2"


def test_versions_cover_code_and_libraries() -> None:
    found = versions()
    assert {"code of scaling", "jax", "jaxlib", "flax", "optax", "numpy"} == set(found)
