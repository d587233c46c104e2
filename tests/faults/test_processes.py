"""Several real processes on the loopback address train one model; when one is wrong, all say so."""

import json
import pathlib
import signal
import socket
import subprocess

import numpy as np
import pytest
from run_helpers import (
    command,
    corpus,
    environment,
    kill,
    last_step,
    run,
    saving,
    start,
    stream,
    summary,
    wait_until,
)

SHORT = ("--config.train.steps=60", "--config.eval.every=30")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def text(folder) -> pathlib.Path:
    return corpus(folder)


@pytest.fixture(scope="module")
def alone(folder, text) -> list[str]:
    run(command(text, folder / "alone", *SHORT))
    return stream(folder / "alone")


class Job:
    """The processes of one run."""

    def __init__(
        self, text, workdir, count: int, *more: str, wrong: dict | None = None, **env: str
    ):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.logs = [workdir.with_name(f"{workdir.name}.{i}.log") for i in range(count)]
        self.processes = []
        for i in range(count):
            flags = (f"--coordinator=127.0.0.1:{port}", f"--num_processes={count}")
            extra = (wrong or {}).get(i, ())
            if extra is None:
                continue  # this one never comes
            arguments = command(text, workdir, *more, *flags, f"--process_id={i}", *extra)
            self.processes.append(start(arguments, self.logs[i], **environment(1, **env)))

    def codes(self, seconds: float = 200) -> list[int]:
        try:
            return [process.wait(timeout=seconds) for process in self.processes]
        except subprocess.TimeoutExpired:
            for process in self.processes:
                process.kill()
            raise AssertionError(f"still running after {seconds} s:\n{self.output()}") from None

    def output(self) -> str:
        return "\n".join(log.read_text()[-3000:] for log in self.logs if log.exists())


def values(lines: list[str], key: str) -> np.ndarray:
    rows = [json.loads(line) for line in lines]
    return np.array([row[key] for row in rows if key in row])


def assert_same_run(lines: list[str], expected: list[str]) -> None:
    ids = "data/ids_crc32"
    np.testing.assert_array_equal(values(lines, ids), values(expected, ids))
    # Gradients are summed over processes instead of over rows: rounding, 60 steps of Adam.
    for key in ("train/loss", "eval/loss"):
        np.testing.assert_allclose(values(lines, key), values(expected, key), rtol=1e-3)


def test_two_processes_train_as_one(folder, text, alone):
    job = Job(text, folder / "two", 2, *SHORT)
    assert job.codes() == [0, 0], job.output()
    assert_same_run(stream(folder / "two"), alone)
    assert summary(folder / "two")["status"] == "completed"


@pytest.mark.slow
def test_four_processes_on_two_axes_train_as_one(folder, text, alone):
    mesh = ("--config.mesh.data=2", "--config.mesh.fsdp=2")
    job = Job(text, folder / "four", 4, *SHORT, *mesh)
    assert job.codes() == [0] * 4, job.output()
    assert_same_run(stream(folder / "four"), alone)


def test_one_then_two_then_one_again(folder, text, alone):
    """Started by one process, gone on with by two, a signal to one of them stops both."""
    workdir = folder / "stopped"
    first = start(command(text, workdir, *SHORT), folder / "first.log")
    assert wait_until(lambda: last_step(workdir) >= 5, first, 120), (
        folder / "first.log"
    ).read_text()
    first.send_signal(signal.SIGTERM)
    assert first.wait(60) == 75
    before = last_step(workdir)
    job = Job(text, workdir, 2, *SHORT)
    goal = before + 5
    assert wait_until(lambda: last_step(workdir) >= goal, job.processes[0], 120), job.output()
    job.processes[1].send_signal(signal.SIGTERM)
    assert job.codes(90) == [75, 75], job.output()
    assert before < summary(workdir)["step"] < 60
    run(command(text, workdir, *SHORT))
    assert_same_run(stream(workdir), alone)


def test_another_config_is_refused_by_both_with_the_difference(folder, text):
    wrong = {1: ("--config.optim.learning_rate=0.5",)}
    job = Job(text, folder / "other", 2, *SHORT, wrong=wrong)
    assert job.codes(60) == [1, 1], job.output()
    for log in job.logs:
        assert "optim.learning_rate" in log.read_text()
        assert "0.5" in log.read_text()
    assert not (folder / "other" / "metrics.jsonl").exists()


@pytest.mark.slow  # tests/parallel has it without the front door
def test_a_missing_process_is_named(folder, text):
    job = Job(text, folder / "missing", 3, wrong={1: None}, SCALING_START_TIMEOUT="12")
    assert job.codes(60) == [1, 1], job.output()
    for i in (0, 2):
        assert "process 1 (2 of 3 processes came)" in job.logs[i].read_text(), job.output()


def test_dead_in_a_save_the_other_names_it_and_the_run_can_go_on(folder, text, alone):
    workdir = folder / "dead"
    job = Job(text, workdir, 2, *SHORT)
    ready = wait_until(lambda: last_step(workdir) >= 10 and saving(workdir), job.processes[1], 120)
    assert ready, job.output()
    kill(job.processes[1])
    assert job.codes(60)[0] == 1, job.output()
    assert "process 1" in job.logs[0].read_text()
    run(command(text, workdir, *SHORT))
    assert_same_run(stream(workdir), alone)
