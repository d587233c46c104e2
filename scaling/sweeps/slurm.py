"""Launcher `slurm`: workers as Slurm jobs through submitit; a preempted job is requeued by itself.

    python -m scaling.sweep --sweep=FILE --workdir=DIR --launcher=slurm --workers=8 \\
        --resources=slurm_partition=gpu,gpus_per_node=1,cpus_per_task=8,timeout_min=240

DIR must be on a file system that all nodes share. Slurm warns a job before it preempts it or its time
is up (SIGUSR2); the worker then saves and ends, submitit requeues the job, and the cell goes on from
its checkpoint. `cluster=local` runs the same jobs on this machine, without Slurm.

submitit itself pickles the small `Job` below into DIR/slurm; no run reads a pickle.
"""

import os
import pathlib
import signal
import subprocess
import time
from typing import Any

from scaling.configs import ConfigError
from scaling.sweeps import ledger as ledger_lib
from scaling.sweeps import live, resources, units
from scaling.sweeps.local import LaunchError, command
from scaling.sweeps.sweep_dir import SweepDir
from scaling.track.progress import duration
from scaling.train.signals import EXIT_PREEMPTED, StopRequest

KEYS = {
    "cluster": "slurm, or local for this machine",
    "timeout_min": "longest time of a job, minutes",
    "gpus_per_node": "GPUs of a worker",
    "cpus_per_task": "processor cores of a worker",
    "mem_gb": "memory of a worker",
    "nodes": "machines of a worker: 1",
    "signal_delay_s": "seconds of warning before a job's time is up",
}
POLL_SECONDS = 2.0


def parse(text: str) -> dict[str, Any]:
    """What `--resources` asks for; `slurm_*` goes to submitit as it stands.

    Raises:
      ConfigError: an unknown key, or several nodes.
    """
    asked: dict[str, Any] = {"cluster": "slurm", "timeout_min": 240}
    asked |= resources.parse(text, KEYS, prefix="slurm_")
    if asked["cluster"] not in ("slurm", "local"):
        raise ConfigError(
            "--resources", f"cluster={asked['cluster']}", "write cluster=slurm or local"
        )
    if asked.get("nodes", 1) != 1:
        raise ConfigError(
            "--resources", f"nodes={asked['nodes']}, and a worker is one process",
            "start scaling.main of a large cell with srun in its run directory instead",
        )  # fmt: skip
    return asked


class Job:
    """What a Slurm job does: keep one worker, and end it gently when told to."""

    def __init__(self, sweep: str, tries: int, group: int) -> None:
        self.sweep, self.tries, self.group = sweep, tries, group
        self.pid = 0

    def __call__(self) -> int:
        """Runs a worker to its end; returns its exit code."""
        words = command(pathlib.Path(self.sweep), self.tries, self.group, f"--parent={os.getpid()}")
        process = subprocess.Popen(words)
        self.pid = process.pid
        while process.poll() is None:
            # Not wait(): the handler below interrupts this, and would wait for its lock.
            time.sleep(0.2)
        return int(process.returncode)

    def checkpoint(self) -> Any:
        """Called by submitit in its signal handler: save, end, and come back as a new job."""
        import submitit

        if self.pid:
            os.kill(self.pid, signal.SIGTERM)
            while _lives(self.pid):
                time.sleep(0.1)
        return submitit.helpers.DelayedSubmission(Job(self.sweep, self.tries, self.group))


def _lives(pid: int) -> bool:
    """Whether a child runs still; leaves its exit code for whoever waits for it."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None
    except ChildProcessError:
        return False


def start_jobs(
    sweep: SweepDir, asked: dict[str, Any], workers: int, tries: int, group: int
) -> list[Any]:
    """Hands `workers` jobs over; returns submitit's jobs.

    Raises:
      LaunchError: submitit is missing, there is no Slurm, or it refuses a parameter.
    """
    try:
        import submitit
    except ImportError as error:
        raise LaunchError(f"{error}: pip install 'scaling[sweep]'") from error
    parameters = {key: value for key, value in asked.items() if key not in ("cluster", "nodes")}
    try:
        executor = submitit.AutoExecutor(sweep.path / "slurm", cluster=asked["cluster"])
        executor.update_parameters(name=sweep.name, **parameters)
        with executor.batch():
            jobs = [executor.submit(Job(str(sweep.path), tries, group)) for _ in range(workers)]
    except (
        RuntimeError,
        NameError,
        TypeError,
        ValueError,
        submitit.core.utils.FailedJobError,
    ) as error:
        raise LaunchError(f"submitit: {error}") from error
    return jobs


def launch(
    sweep: SweepDir,
    asked: dict[str, Any],
    workers: int | None,
    tries: int,
    group: int | None,
    submit: bool,
) -> int:
    """Submits workers and follows them to the end of the sweep; see `local.launch` for the codes.

    Being told to stop only ends the following: the jobs go on.

    Raises:
      LaunchError: see `start_jobs`.
    """
    del submit
    size = group or units.GROUP
    ready = len(units.Plan(sweep, sweep.ids, size).ready(tries))
    jobs = start_jobs(sweep, asked, min(workers or 4, ready), tries, size) if ready else []
    started = time.monotonic()
    with StopRequest() as stop, live.Display(sweep, tries) as display:
        if jobs:
            display.say(f"{len(jobs)} jobs: {', '.join(job.job_id for job in jobs)}")
        while stop.reason is None and not all(job.done() for job in jobs):
            time.sleep(POLL_SECONDS)
            display.update()
        display.update()
        if stop.reason is not None:
            display.say("the jobs go on; the same command follows them, scancel ends them")
            return EXIT_PREEMPTED
        ledger_lib.settle(sweep)
        found = ledger_lib.states(sweep, tries)
        display.say(f"{ledger_lib.counts(found)} after {duration(time.monotonic() - started)}")
    ended = set(found.values()) <= set(ledger_lib.ENDS)
    if not ended:
        display.say(
            f"see {sweep.path / 'slurm'} for what the jobs said; the same command starts more"
        )
    return 0 if ended else 1
