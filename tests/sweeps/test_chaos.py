"""Launcher and workers killed over and over: nothing is lost, nothing is done twice."""

import contextlib
import csv
import os
import random
import signal
import time

import psutil
import pytest
from sweep_helpers import check_once, command, ends, ledger, start, sweep_file

KILLS, CELLS = 20, 24


def workers(workdir) -> list[int]:
    """Processes that hold a cell now."""
    found = set()
    for cell in (workdir / "leases").iterdir():
        newest = max((path for path in cell.iterdir() if path.name.isdecimal()), default=None,
                     key=lambda path: int(path.name))  # fmt: skip
        text = newest.read_text() if newest else ""
        if '"released"' not in text and '"pid": ' in text:
            found.add(int(text.split('"pid": ')[1].split(",")[0]))
    return [pid for pid in found if psutil.pid_exists(pid)]


def wait_for_work(workdir, launcher, since: int, done: int) -> bool:
    """Until something new runs and `done` cells have completed; False if the launcher ends first."""
    for _ in range(6000):
        if launcher.poll() is not None:
            return False
        if (workdir / "ledger.jsonl").exists():
            lines = ledger(workdir)
            fresh = any(one["event"] == "running" for one in lines[since:])
            if fresh and len(ends(workdir)) >= done:
                return True
        time.sleep(0.05)
    raise TimeoutError("nothing happened within 300 s")


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("group", [1, 2])
def test_every_cell_completes_once_whoever_is_killed(tmp_path, group):
    cells = f"product(axis('train.steps', (150,)), seeds({CELLS}))"
    file, workdir, log = sweep_file(tmp_path, cells), tmp_path / "out", tmp_path / "log"
    words = command(file, workdir, "--workers=2", f"--group={group}")
    dice, launcher, kills = random.Random(0), None, {"launcher": 0, "worker": 0}
    while sum(kills.values()) < KILLS:
        if launcher is None or launcher.poll() is not None:
            assert launcher is None or launcher.returncode < 0, log.read_text()  # by our hand
            launcher = start(words, log, SCALING_LEASE_SECONDS="12")
        since = len(ledger(workdir)) if (workdir / "ledger.jsonl").exists() else 0
        # Spread over the sweep: the last kill finds most of the cells done.
        done = sum(kills.values()) * (CELLS - 4) // KILLS
        if not wait_for_work(workdir, launcher, since, done):
            continue
        time.sleep(dice.uniform(0.0, 2.0))
        holders = workers(workdir)
        if holders and dice.random() < 0.6:
            kill(dice.choice(holders))
            kills["worker"] += 1
        else:
            kill(launcher.pid)
            launcher.wait()
            kills["launcher"] += 1
    if launcher.poll() is None:
        kill(launcher.pid)
        launcher.wait()
    left = CELLS - len(ends(workdir))
    print(f"kills {kills}; {left} of {CELLS} cells left; {len(ledger(workdir))} lines")
    last = start(words, log)
    assert last.wait(900) == 0, log.read_text()
    check_once(workdir, CELLS)
    with open(workdir / "table.csv", newline="") as table:
        assert [row["status"] for row in csv.DictReader(table)] == ["completed"] * CELLS
