"""The front door: what it refuses, and a whole sweep in worker processes."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from sweep_helpers import check_once, claimed, command, ends, ledger, start, sweep_file

from scaling import sweep as door
from scaling.laws.readers import read_table
from scaling.sweeps import display, launchers, lease, seeds, timing, worker
from scaling.sweeps import ledger as ledger_lib
from scaling.sweeps.launchers import local
from scaling.sweeps.sweep_dir import open_sweep
from scaling.track.lock import Lock
from scaling.train.signals import StopRequest


@pytest.fixture(autouse=True)
def _no_probe(monkeypatch):
    """What a sweep costs in time is tested in test_timing."""
    monkeypatch.setattr(timing, "probe", lambda *_: timing.Probe({}, [], "not timed"))


def refused(capsys, *words):
    code = door.main(list(words))
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "--sweep: is required"),
        (("--swep=x.py",), "did you mean --sweep"),
        (("--table",), "--workdir: is required"),
        (("--table", "--workdir=x", "--yes"), "does not go with --table"),
        (("--sweep=x.py", "--launcher=pbs"), "there is no 'pbs'"),
        (("--sweep=x.py", "--workers=0"), "--workers: must be at least 1"),
        (("--search=x.py", "--batch=0"), "--batch: must be at least 1"),
        (("--search=x.py", "--workers=2"), "--workers: does not go with --search"),
        (("--sweep=x.py", "--search=y.py"), "--search: does not go with --sweep"),
        (("--part=0/2",), "--workdir: is required with --part"),
        (("--worker", "--workdir=x", "--cores=99999"), "--cores: '99999' are not cores of this"),
        (("--worker", "--workdir=x", "--workers=2"), "--workers: does not go with --worker"),
        (("--search=absent.py",), "--search: there is no file absent.py"),
        (("--sweep=x.py", "--resources=a=1"), "does not go with --launcher=local"),
        (("--sweep=x.py", "--launcher=slurm", "--submit"), "does not go with --launcher=slurm"),
        (("--sweep=x.py", "--launcher=jobset", "--tries=5"), "does not go with --launcher=jobset"),
        (("--sweep=x.py", "--launcher=skypilot", "--group=2"), "does not go with --launcher=sky"),
        (("--sweep=absent.py",), "there is no file absent.py"),
    ],
)
def test_wrong_usage_is_2_and_says_what(capsys, words, message):
    code, said = refused(capsys, *words)
    assert code == 2
    assert message in said


def test_bad_usage_and_help_start_no_jax():
    code = (
        "import contextlib, sys\nfrom scaling import sweep\n"
        "for flag in sys.argv[1:]:\n    with contextlib.suppress(SystemExit):\n"
        "        sweep.main([flag])\n"
        "assert 'jax' not in sys.modules, 'jax was imported'"
    )
    flags = ("--help", "--sweep=absent.py", "--tabel")
    subprocess.run([sys.executable, "-c", code, *flags], check=True, capture_output=True)


def test_cells_that_cannot_run_stop_all_before_the_first(tmp_path, capsys):
    bad = sweep_file(tmp_path, 'axis("train.batch_size", (8, 8, 4, -1))')
    code, said = refused(capsys, f"--sweep={bad}", f"--workdir={tmp_path / 'out'}")
    assert code == 2
    assert "train.batch_size" in said
    assert "cell 4 (batch_size=-1)" in said
    assert not (tmp_path / "out").exists()


def test_a_million_cells_want_a_yes(tmp_path, capsys):
    many = sweep_file(
        tmp_path, "product(seeds(1000), axis('optim.b1', [i / 1000 for i in range(1000)]))"
    )
    code, said = refused(capsys, f"--sweep={many}", f"--workdir={tmp_path / 'out'}")
    assert code == 2
    assert "1,000,000 cells" in said
    assert "--yes" in said


def test_dry_run_shows_cells_and_warnings_and_writes_nothing(tmp_path, capsys):
    grid = "isoflop((2e7, 4e7), ladder((8, 16, 24), head_dim=8))"
    file = sweep_file(tmp_path, grid)
    assert door.main([f"--sweep={file}", f"--workdir={tmp_path / 'out'}", "--dry_run"]) == 0
    said = capsys.readouterr().out
    assert "6 cells: 6 pending" in said
    assert "budget 2e+07: Chinchilla's rule expects the best size at" in said
    assert not (tmp_path / "out").exists()


def test_a_sweep_runs_retries_and_is_not_run_again(tmp_path, capsys):
    """Two healthy cells in one program, one that diverges, one that cannot start."""
    design = (
        "chain(seeds(2), settings([{'optim.learning_rate': 1e30, 'optim.clip_norm': None}]),"
        " settings([{'train.init_from': '/nowhere'}]))"
    )
    file, workdir = sweep_file(tmp_path, design), tmp_path / "out"
    code = door.main([f"--sweep={file}", f"--workdir={workdir}", "--workers=2", "--tries=2"])
    said = capsys.readouterr().out
    assert code == 1
    assert len(ends(workdir)) == 2
    assert len(ends(workdir, "diverged")) == 1
    (failed,) = set(ends(workdir, "failed"))
    assert len(ends(workdir, "failed")) == 2, "tried twice"
    assert "/nowhere" in (workdir / "logs" / f"{failed}.1.log").read_text()
    assert "/nowhere" in said
    table = (workdir / "table.csv").read_text()
    assert [table.count(word) for word in ("completed", "diverged", "failed")] == [2, 1, 1]

    before = ledger(workdir)
    assert door.main([f"--sweep={file}", f"--workdir={workdir}", "--tries=2"]) == 1
    assert ledger(workdir) == before
    assert "2 completed, 1 diverged, 1 failed" in capsys.readouterr().out
    other = sweep_file(tmp_path, "seeds(5, first=3)", "other")
    code, said = refused(capsys, f"--sweep={other}", f"--workdir={workdir}")
    assert code == 2
    assert "belongs to another sweep" in said


def here(name, sweep, request):
    """A launcher whose worker is this process."""
    return door.main(["--worker", f"--workdir={sweep.path}", f"--tries={request.tries}"])


def test_runs_of_several_lengths_share_a_trunk(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(launchers, "launch", here)
    schedule = "{'optim.schedule': {'name': 'wsd', 'warmup_steps': 2, 'decay_steps': 4}}"
    grid = f"product(settings([{schedule}], [{{}}]), axis('train.steps', (12, 20)))"
    file, workdir = sweep_file(tmp_path, grid), tmp_path / "out"
    assert door.main([f"--sweep={file}", f"--workdir={workdir}"]) == 0
    said = capsys.readouterr().out
    assert "shared trunks save" in said
    assert "(25%)" in said  # 8 of 32 steps
    check_once(workdir, 2)
    order = ends(workdir, "running")
    sweep = open_sweep(workdir)
    (trunk,) = {branch.trunk for branch in sweep.branches.values()}
    assert order[0] == trunk
    for cell, branch in sweep.branches.items():
        provenance = json.loads((sweep.cell_dir(cell) / "provenance.json").read_text())
        assert provenance["attempts"][0]["trunk"]["step"] == branch.step == 8
    with open(workdir / "table.csv", newline="") as table:
        finals = [row for row in csv.DictReader(table) if row["point"] == "final"]
    assert [row["trunk"] for row in finals] == [trunk, ""]
    rows = read_table(workdir)
    assert set(rows.text["run_id"]) == {trunk}


def test_a_part_runs_as_pods_run_it(tmp_path, capfd):
    workdir = tmp_path / "out"
    (cell,) = claimed(workdir, seeds(1)).ids
    assert door.main([f"--workdir={workdir}", "--part=0/2"]) == 0
    assert f"{cell}: exit code 0, completed" in capfd.readouterr().out
    for part in ("1/2", "0/1"):
        assert door.main([f"--workdir={workdir}", f"--part={part}"]) == 0
        assert "exit code" not in capfd.readouterr().out, "finished cells are left alone"
    assert door.main([f"--workdir={workdir}", "--part=2/2"]) == 2
    assert "is not a part" in capfd.readouterr().err


def test_a_stop_saves_all_and_the_next_launch_goes_on(tmp_path, capsys):
    file = sweep_file(tmp_path, 'settings([{"train.steps": 100_000, "seed": s} for s in (0, 1)])')
    workdir, log = tmp_path / "out", tmp_path / "log"
    words = command(file, workdir, "--workers=1", "--group=1")
    process = start(words, log)
    try:
        wait_for_metrics(workdir, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(180) == 75, log.read_text()
    finally:
        process.kill()
    (stopped,) = ends(workdir, "preempted")
    assert list((workdir / "cells" / stopped / "checkpoints").iterdir())
    assert "SIGTERM" in log.read_text()
    with open(workdir / "ledger.jsonl", "ab") as ledger_file:
        ledger_file.write(b'{"torn')
    assert door.main([*words[3:], "--dry_run"]) == 0
    assert "2 cells: 1 pending, 1 preempted" in capsys.readouterr().out


def wait_for_metrics(workdir, process):
    for _ in range(1800):
        time.sleep(0.1)
        assert process.poll() is None, "ended too early"
        if any(path.stat().st_size for path in workdir.glob("cells/*/metrics.jsonl")):
            return
    raise TimeoutError("no metrics within 180 s")


def test_workers_share_out_cores_and_devices(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 4})
    monkeypatch.setattr(local, "visible_gpus", list)
    assert [one.cores for one in local.slots(2, 10)] == [(0, 1), (2, 3)]
    assert len(local.slots(None, 3)) == 3
    monkeypatch.setattr(local, "visible_gpus", lambda: ["0", "3"])
    found = local.slots(None, 10)
    assert [one.env for one in found] == [
        {"CUDA_VISIBLE_DEVICES": "0"},
        {"CUDA_VISIBLE_DEVICES": "3"},
    ]


@pytest.mark.parametrize(
    ("stated", "names"),
    [
        ("-1", []), ("NoDevFiles", []), ("none", []), ("void", []), ("", []),
        ("0,-1", ["0"]), ("0,-1,1", ["0"]), ("1,0", ["1", "0"]), ("0,7,1", ["0"]), ("0,,1", ["0"]),
        (" 1, 0", ["1", "0"]), ("GPU-8e1f,MIG-3a,x,0", ["GPU-8e1f", "MIG-3a"]),
    ],
)  # fmt: skip
def test_visible_devices_end_at_the_first_invalid_entry(monkeypatch, stated, names):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", stated)
    monkeypatch.setattr(local, "_gpus", lambda: ["0", "1"])
    assert local.visible_gpus() == names
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    assert len(local.slots(None, 9)) == (len(names) or 3)


def test_a_death_while_jax_starts_takes_no_attempt_and_shows_the_log(tmp_path):
    file, workdir = sweep_file(tmp_path, "axis('model.model_dim', (8, 16))"), tmp_path / "out"
    words, log = command(file, workdir, "--workers=1"), tmp_path / "log"
    assert start(words, log, XLA_FLAGS="--no_such_flag=1").wait(120) == 1
    assert "ran no cell" in log.read_text()
    assert "no_such_flag" in log.read_text()
    assert not (workdir / "ledger.jsonl").exists()


def test_cells_that_failed_for_good_can_be_given_back(tmp_path, monkeypatch, capsys):
    file, workdir = sweep_file(tmp_path, "seeds(2)"), tmp_path / "out"
    words = [f"--sweep={file}", f"--workdir={workdir}"]
    monkeypatch.setattr(launchers, "launch", lambda name, sweep, request: 0)
    assert door.main(words) == 0
    book = ledger_lib.Ledger(open_sweep(workdir))
    one, two = book.sweep.ids
    for attempt in range(ledger_lib.LOST_LIMIT):
        book.append(one, attempt, "lost")
    for attempt in range(3):
        book.append(two, attempt, "failed")
    assert list(book.states(3).values()) == ["failed", "failed"]
    assert book.states(50)[one] == "preempted"  # --tries=50 counts for lost workers too
    assert door.main([*words, "--retry"]) == 0
    assert "2 failed cells get their attempts again" in capsys.readouterr().out
    assert list(book.states(3).values()) == ["pending", "pending"]


def test_workers_that_die_at_once_end_the_launcher(tmp_path, monkeypatch):
    file = sweep_file(tmp_path, "seeds(1)")
    monkeypatch.setattr(
        local, "command", lambda *_: [sys.executable, "-c", "raise SystemExit('no disk')"]
    )
    assert door.main([f"--sweep={file}", f"--workdir={tmp_path / 'out'}"]) == 1


def test_a_worker_that_ran_a_cell_and_failed_it_is_not_stillborn(tmp_path, monkeypatch):
    sweep = claimed(tmp_path / "out", seeds(3))
    monkeypatch.setattr(local, "command", lambda *_: [sys.executable, "-c", "raise SystemExit(1)"])
    book = ledger_lib.Ledger(sweep)
    with local.Pool(sweep, local.slots(3, 3), tries=1, group=1) as pool:
        pool.fill(3)
        workers = list(pool.running.values())
        for cell, process in zip(sweep.ids, workers, strict=True):
            book.append(cell, 1, "running", pid=process.pid)
            book.append(cell, 1, "failed", reason="this cell is wrong")
            process.wait(60)
        pool.reap(0)  # their lines were new at the look before, when they had not ended yet
        assert not pool.running
        assert pool.stillborn == 0
        pool.fill(3)  # and these run none
        for process in pool.running.values():
            process.wait(60)
        with pytest.raises(local.LaunchError, match="ran no cell"):
            pool.reap(0)


@pytest.mark.parametrize("group", [1, 2])
def test_cells_in_use_end_preempted_and_are_not_tried_again_at_once(tmp_path, monkeypatch, group):
    sweep = claimed(tmp_path / "out", seeds(2))
    locks = [Lock(sweep.cell_dir(cell)) for cell in sweep.ids]  # as if run by hand
    heart = lease.Heartbeat(lambda reason: None)
    one = worker.Worker(sweep, sweep.ids, 3, group, StopRequest(), heart)
    for left in range(2 // group, 0, -1):
        leases = next(one._takeable(), None)
        assert leases, f"{left} units have not had their turn"
        one._run_unit(leases)
    assert next(one._takeable(), None) is None, "a cell in use was taken again without a pause"
    heart.close()
    events = [(record["event"], record.get("reason")) for record in ledger(sweep.path)]
    assert sorted(events, key=str) == [
        *[("preempted", "its run directory is in use")] * 2, *[("running", None)] * 2,
    ]  # fmt: skip
    assert set(ledger_lib.Ledger(sweep).states(1).values()) == {"preempted"}, (
        "not even one try is lost"
    )
    # The worker waits for them and does not end; after the pause it takes them.
    for lock in locks:
        lock.release()
    monkeypatch.setattr(worker, "IN_USE_SECONDS", 0.0)
    assert next(one._takeable())


def test_the_live_table_shows_what_runs(tmp_path):
    sweep = claimed(tmp_path / "out", seeds(2))
    cell = sweep.ids[0]
    lease.take(sweep.path / "leases", cell)
    lines = [{"step": 5, "train/loss": 1.25}, {"step": 5, "eval/loss": 2.0}]
    (sweep.cell_dir(cell) / "metrics.jsonl").write_text(
        "".join(json.dumps(x) + "\n" for x in lines)
    )
    out = io.StringIO()
    with display.Display(sweep, 3, out) as shown:
        shown._console.print(shown.table({cell: "running", sweep.ids[1]: "pending"}))
    said = out.getvalue()
    assert "5/20" in said
    assert "1.2500" in said
    assert "1 running, 1 pending" in said


@pytest.mark.slow
def test_two_launchers_at_once_run_no_cell_twice(tmp_path):
    file, workdir = sweep_file(tmp_path, "seeds(12)"), tmp_path / "out"
    launchers = [
        start(command(file, workdir, "--workers=1", "--group=2"), tmp_path / f"log{i}")
        for i in range(2)
    ]
    assert [one.wait(600) for one in launchers] == [0, 0]
    check_once(workdir, 12)
    pids = {one["pid"] for one in ledger(workdir) if one["event"] == "running"}
    assert len(pids) >= 2, "both had a share"
    assert len(ends(workdir, "running")) == 12
