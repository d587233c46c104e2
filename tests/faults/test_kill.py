"""Killed anywhere, resumed: the stream of metrics is the uninterrupted one, bit for bit."""

import os
import pathlib
import random
import shlex
import signal
import subprocess
import time

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

from scaling.train.signals import StopRequest


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def text(folder) -> pathlib.Path:
    return corpus(folder)


@pytest.fixture(scope="module")
def uninterrupted(folder, text) -> list[str]:
    run(command(text, folder / "whole"))
    return stream(folder / "whole")


def kill_and_resume(text, workdir, uninterrupted, kills: int, seed: int) -> None:
    """Kills at random moments, every other one inside a save, then lets the run end."""
    chance = random.Random(seed)
    log, killed, saves = workdir.with_suffix(".log"), 0, 0
    for i in range(kills):
        process = start(command(text, workdir), log)
        # Forward by less than the run has left for the kills to come.
        goal = last_step(workdir) + chance.randint(1, max(1, 380 // kills))
        alive = wait_until(lambda goal=goal: last_step(workdir) >= goal, process, 120)
        if alive and i % 2:
            alive = wait_until(lambda: saving(workdir), process, 60)
            saves += alive
            time.sleep(chance.random() * 0.02)
        killed += alive
        kill(process)
    run(command(text, workdir))
    assert killed >= kills * 0.8, log.read_text()[-3000:]
    assert saves >= kills * 0.3, log.read_text()[-3000:]
    assert summary(workdir)["status"] == "completed"
    assert stream(workdir) == uninterrupted
    assert (workdir / "superseded.jsonl").exists(), "no kill cost anything: they came too late"


def test_stream_is_bit_equal_after_kills(folder, text, uninterrupted):
    assert len(uninterrupted) == 400 + 10
    kill_and_resume(text, folder / "killed", uninterrupted, kills=2, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_stream_is_bit_equal_after_twenty_kills(folder, text, uninterrupted):
    kill_and_resume(text, folder / "killed_often", uninterrupted, kills=20, seed=2)


def terminate(text, workdir, moment, *more: str) -> int:
    """SIGTERM at a moment; the exit code."""
    log = workdir.with_suffix(".log")
    process = start(command(text, workdir, *more), log)
    assert wait_until(moment, process, 120), log.read_text()
    process.send_signal(signal.SIGTERM)
    return process.wait(timeout=60)


def test_sigterm_while_compiling_training_evaluating_and_saving(folder, text, uninterrupted):
    workdir = folder / "terminated"
    log = workdir.with_suffix(".log")
    moments = {
        "compile": lambda: log.exists() and "model:" in log.read_text(),
        "train": lambda: last_step(workdir) >= 25,
        "eval": lambda: (
            f"step {last_step(workdir)} eval" in log.read_text() or last_step(workdir) >= 119
        ),
        "save": lambda: last_step(workdir) >= 200 and saving(workdir),
    }
    for phase, moment in moments.items():
        assert terminate(text, workdir, moment) == 75, phase
        left = summary(workdir)
        assert left["status"] == "preempted", phase
        assert left["step"] == last_step(workdir), phase
    run(command(text, workdir))
    assert stream(workdir) == uninterrupted


def test_a_stop_that_nobody_can_be_told_of_is_still_one():
    """Ctrl-C in `... 2>&1 | tee log` ends the reader of standard error too."""
    reader, writer = os.pipe()
    os.close(reader)
    kept = os.dup(2)
    os.dup2(writer, 2)
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGINT)
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(writer)
    assert stop.reason == "SIGINT"


@pytest.mark.slow
def test_ctrl_c_into_tee_saves(folder, text):
    workdir, log = folder / "tee", folder / "tee.log"
    never = ("--config.train.steps=1000000", "--config.checkpoint.every=1000000")
    words = shlex.join(command(text, workdir, *never, "--config.eval.every=0"))
    # The shell stays, as one at a terminal does, and says how the run ended.
    line = f"trap : INT; {words} 2>&1 | tee {shlex.quote(str(log))}; exit ${{PIPESTATUS[0]}}"
    shell = subprocess.Popen(
        ["bash", "-c", line],
        env=environment(), start_new_session=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert wait_until(lambda: last_step(workdir) >= 20, shell, 120), log.read_text()
        os.killpg(shell.pid, signal.SIGINT)
        assert shell.wait(60) == 75, log.read_text()
    finally:
        if shell.poll() is None:
            os.killpg(shell.pid, signal.SIGKILL)
    assert summary(workdir)["status"] == "preempted"
    assert (workdir / "checkpoints" / f"{summary(workdir)['step']:08d}").is_dir()


def train_values(lines: list[str], key: str) -> np.ndarray:
    import json

    rows = [json.loads(line) for line in lines]
    return np.array([row[key] for row in rows if key in row])


@pytest.mark.slow
def test_resumed_on_other_meshes(folder, text, uninterrupted):
    """1 device, then 8 over data, then 2 x 4 over data and fsdp: same examples, same losses."""
    workdir = folder / "meshes"
    at = lambda step: lambda: last_step(workdir) >= step  # noqa: E731
    assert terminate(text, workdir, at(50)) == 75
    log = workdir.with_suffix(".log")
    eight = environment(8)
    for devices, mesh, goal in (
        (8, ("--config.mesh.data=8",), 120),
        (8, ("--config.mesh.data=2", "--config.mesh.fsdp=4"), None),
    ):
        process = start(command(text, workdir, *mesh), log, **eight)
        if goal:
            assert wait_until(at(goal), process, 120), log.read_text()
            process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=200) == (75 if goal else 0), (devices, log.read_text()[-2000:])
    lines = stream(workdir)
    ids = "data/ids_crc32"
    np.testing.assert_array_equal(train_values(lines, ids), train_values(uninterrupted, ids))
    # Sums in another order, 350 steps of Adam on them.
    losses = train_values(lines, "train/loss")
    np.testing.assert_allclose(losses, train_values(uninterrupted, "train/loss"), rtol=5e-3)
    ends = [train_values(x, "eval/loss")[-1] for x in (lines, uninterrupted)]
    assert ends[0] == pytest.approx(ends[1], rel=1e-3)
