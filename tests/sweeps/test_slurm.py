"""submitit for real, with its local executor: preempted, requeued, and on from the checkpoint."""

import json
import logging
import os
import signal
import time

import psutil
import pytest
from run_helpers import stream
from sweep_helpers import check_once, claimed, ends, ledger, sweep_file

from scaling import sweep as door
from scaling.sweeps import axis, launchers
from scaling.sweeps.launchers import slurm

STEPS = 400


@pytest.fixture(autouse=True)
def _submitit(monkeypatch):
    # Its import shuts down every logging handler there is, and one of them closes pytest's stderr.
    monkeypatch.setattr(logging, "_handlerList", [])
    pytest.importorskip("submitit")


def newest_step(run):
    try:
        return json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    except (OSError, IndexError, ValueError):
        return 0


@pytest.mark.slow
def test_a_preempted_job_is_requeued_and_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    sweep = claimed(tmp_path / "out", axis("train.steps", (STEPS,)))
    (cell,) = sweep.ids
    (job,) = slurm.start_jobs(sweep, slurm.parse("cluster=local,timeout_min=10"), 1, 3, 1)
    run = sweep.cell_dir(cell)
    while newest_step(run) < 40:
        time.sleep(0.05)
        assert not job.done(), "the job ended before it was preempted"
    # submitit's LocalJob._interrupt signals the controller; the task is the controller's child.
    (task,) = psutil.Process(int(job.job_id)).children()
    os.kill(task.pid, signal.SIGUSR2)
    while not job.done():
        time.sleep(0.1)
    assert job.result() == 0
    events = [one["event"] for one in ledger(sweep.path)]
    assert events == ["running", "preempted", "running", "completed"]
    check_once(sweep.path, 1)
    log = sweep.log(cell, 2).read_text()
    assert "resuming at step" in log
    alone = tmp_path / "alone"
    from scaling import parallel
    from scaling.train.run import run as train
    from scaling.train.signals import StopRequest

    with StopRequest() as stop:
        train(sweep.cell(cell).config, alone, parallel.Processes(), stop)
    assert [x for x in stream(run) if "train/loss" in x] == [
        x for x in stream(alone) if "train/loss" in x
    ]


@pytest.mark.slow
def test_the_front_door_runs_a_sweep_through_submitit(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    file, workdir = sweep_file(tmp_path, "seeds(4)"), tmp_path / "out"
    words = [f"--sweep={file}", f"--workdir={workdir}", "--launcher=slurm", "--workers=2"]
    assert door.main([*words, "--resources=cluster=local,timeout_min=10", "--group=1"]) == 0
    check_once(workdir, 4)
    assert (workdir / "table.csv").exists()


@pytest.mark.parametrize(
    ("text", "limit"),
    [("", 1000), ("max_num_timeout=7,", 7), ("slurm_max_num_timeout=9,", 9)],
)
def test_a_job_may_reach_its_time_limit_often(tmp_path, monkeypatch, text, limit):
    import submitit

    made = []

    class Executor(submitit.LocalExecutor):
        def __init__(self, *words, **more):
            super().__init__(*words, **more)
            made.append(self)

        @classmethod
        def name(cls):
            return "local"

        def _submit_command(self, command):
            raise RuntimeError("far enough")

    monkeypatch.setattr(
        "submitit.core.plugins.get_executors", lambda: {"local": Executor, "slurm": Executor}
    )
    sweep = claimed(tmp_path / "out", axis("train.steps", (STEPS,)))
    with pytest.raises(launchers.LaunchError, match="far enough"):
        slurm.start_jobs(sweep, slurm.parse(f"{text}cluster=local,timeout_min=10"), 1, 3, 1)
    assert made[0].max_num_timeout == limit


def test_why_a_job_was_not_requeued_is_shown(tmp_path):
    errors = tmp_path / "7_0_log.err"
    errors.write_text("much\n" * 20 + "Job not requeued because: timed-out too many times.\n")
    assert slurm.last_words("7", errors).startswith("job 7 ended")
    assert slurm.last_words("7", errors).endswith("timed-out too many times.")


def test_a_machine_without_slurm_says_so(tmp_path, capsys):
    file = sweep_file(tmp_path, "seeds(2)")
    code = door.main([f"--sweep={file}", f"--workdir={tmp_path / 'out'}", "--launcher=slurm"])
    assert code == 1
    assert "srun" in capsys.readouterr().err
    assert not ends(tmp_path / "out") if (tmp_path / "out" / "ledger.jsonl").exists() else True
