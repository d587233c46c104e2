"""Launcher `slurm`: workers as Slurm jobs through submitit, which requeues a preempted job.

    python -m scaling.sweep --sweep=FILE --workdir=DIR --launcher=slurm --workers=8 \\
        --resources=slurm_partition=gpu,gpus_per_node=1,cpus_per_task=8,timeout_min=240

DIR must be on a file system that all nodes share. Slurm warns a job before it preempts it or its time
is up (SIGUSR2); the worker then saves and ends, submitit requeues the job, and the cell goes on from
its checkpoint. `cluster=local` runs the same jobs on this machine, without Slurm; submitit starts
each of those six times at most, after which the same command goes on.

submitit itself pickles the small `Job` below into DIR/slurm; no run reads a pickle.
"""

import os
import pathlib
import signal
import subprocess
import textwrap
import time
from typing import Any

from scaling.sweeps.display import Display, tail
from scaling.sweeps.launchers import LaunchError, Request, Resources, parse_resources, refused
from scaling.sweeps.ledger import Ledger, counts
from scaling.sweeps.schedule import GROUP, Schedule
from scaling.sweeps.sweep_dir import ENDS, SweepDir
from scaling.sweeps.worker import command
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
    "max_num_timeout": "how often a job may reach its time limit and come back",
}
MAX_TIMEOUTS = 1000  # submitit's own 3 would end a job that gets on well
WORKERS = 4
POLL_SECONDS = 2.0


def parse(text: str) -> Resources:
    """What `--resources` asks for; `slurm_*` goes to submitit as it stands."""
    asked: Resources = {"cluster": "slurm", "timeout_min": 240}
    asked |= parse_resources(text, KEYS, prefix="slurm_")
    for name in ("max_num_timeout", "slurm_max_num_timeout"):  # the second is submitit's spelling
        asked["max_num_timeout"] = asked.pop(name, asked.get("max_num_timeout", MAX_TIMEOUTS))
    if asked["cluster"] not in ("slurm", "local"):
        what = f"cluster={asked['cluster']} is not supported"
        raise refused(what, "write cluster=slurm or cluster=local")
    nodes = asked.pop("nodes", 1)
    if nodes != 1:
        remedy = "start scaling.main of a large cell with srun in its run directory instead"
        raise refused(f"nodes={nodes}: a worker is one process", remedy)
    return asked


class Job:
    """A Slurm job: keeps one worker, and stops it when the job is preempted."""

    def __init__(self, sweep: str, tries: int, group: int) -> None:
        self.sweep, self.tries, self.group = sweep, tries, group
        self.pid = 0

    def __call__(self) -> int:
        """Runs a worker to its end; returns its exit code."""
        process = subprocess.Popen(command(pathlib.Path(self.sweep), self.tries, self.group))
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
    """Whether a child still runs; leaves its exit code for the loop of `Job`."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None
    except ChildProcessError:
        return False


def start_jobs(
    sweep: SweepDir, asked: Resources, workers: int, tries: int, group: int
) -> list[Any]:
    """Submits `workers` jobs; LaunchError without submitit or Slurm, or where it refuses a key."""
    try:
        import submitit
    except ImportError as error:
        raise LaunchError(f"{error}: pip install 'scaling[sweep]'") from error
    refusals = (RuntimeError, NameError, TypeError, ValueError)
    parameters = dict(asked)
    cluster, timeouts = str(parameters.pop("cluster")), parameters.pop("max_num_timeout")
    try:
        limit = {f"{cluster}_max_num_timeout": timeouts}
        executor = submitit.AutoExecutor(sweep.path / "slurm", cluster=cluster, **limit)
        executor.update_parameters(name=sweep.name, **parameters)
        with executor.batch():
            return [executor.submit(Job(str(sweep.path), tries, group)) for _ in range(workers)]
    except (*refusals, submitit.core.utils.FailedJobError) as error:
        raise LaunchError(f"submitit: {error}") from error


def launch(sweep: SweepDir, request: Request) -> int:
    """Submits workers and follows them to the end of the sweep; see `local.launch` for the codes.

    A request to stop ends only the following: the jobs go on.
    """
    asked, ledger = parse(request.resources), Ledger(sweep)
    tries, group = request.tries, request.group or GROUP
    ready = len(Schedule(sweep, sweep.ids, group).ready(tries))
    workers = min(request.workers or WORKERS, ready)
    jobs = start_jobs(sweep, asked, workers, tries, group) if ready else []
    started = time.monotonic()
    with StopRequest() as stop, Display(sweep, tries) as display:
        if jobs:
            display.say(f"{len(jobs)} jobs: {', '.join(job.job_id for job in jobs)}")
        while stop.reason is None and not all(job.done() for job in jobs):
            time.sleep(POLL_SECONDS)
            display.update()
        display.update()
        if stop.reason is not None:
            display.say("the jobs go on; the same command follows them, scancel ends them")
            return EXIT_PREEMPTED
        ledger.settle()
        states = ledger.states(tries)
        display.say(f"{counts(states)} after {duration(time.monotonic() - started)}")
        if set(states.values()) <= set(ENDS):
            return 0
        for job in jobs:
            display.say(last_words(job.job_id, pathlib.Path(job.paths.stderr)))
        display.say(f"see {sweep.path / 'slurm'} for all output; the same command starts more")
        return 1


def last_words(job_id: str, errors: pathlib.Path) -> str:
    """The end of what a job wrote to `errors`, in which submitit says why it was not requeued."""
    lines = textwrap.indent(tail(errors, 6), "    ")
    return f"job {job_id} ended, the last lines of {errors}:\n{lines}"
