"""Files and directories of runs as tables."""

import json
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from scaling.laws import LawError, read_table


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("params,loss\n1,2,3\n", "line 2: 3 cells under 2"),
        ("params,params\n1,2\n", "repeats"),
        ("params,,loss\n1,2,3\n", "column 2 has no name"),
        ("params,loss,,\n1,2,,7\n", "4 cells under 2"),
        ("1,2\n3,4\n", "must hold the column names"),
        ("params;loss\n1;2\n", "separated by semicolons; save it as .csv with commas"),
    ],
)
def test_broken_csv_is_refused(tmp_path, text, message):
    path = tmp_path / "runs.csv"
    path.write_text(text)
    with pytest.raises(LawError, match=message):
        read_table(path)


def test_binary_and_unknown_files_are_refused(tmp_path):
    (tmp_path / "runs.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(LawError, match="not UTF-8"):
        read_table(tmp_path / "runs.csv")
    (tmp_path / "runs.pkl").write_bytes(b"")
    with pytest.raises(LawError, match=r"\.pkl is not one of"):
        read_table(tmp_path / "runs.pkl")
    with pytest.raises(LawError, match="does not exist"):
        read_table(tmp_path / "nothing.csv")


def test_an_endless_file_is_refused_early(tmp_path):
    """A pipe that never ends stands for a file of 50 million rows: reading stops at the limit."""
    path = tmp_path / "huge.csv"
    os.mkfifo(path)

    def pour():
        try:
            with path.open("w") as file:
                file.write("params,tokens,loss\n")
                while True:
                    file.write("1e8,1e9,3.0\n" * 1000)
        except BrokenPipeError:
            pass

    writer = threading.Thread(target=pour, daemon=True)
    writer.start()
    with pytest.raises(LawError, match=r"more than 20,000 rows.*aggregate or thin"):
        read_table(path, max_rows=20_000)
    writer.join(10)
    assert not writer.is_alive()


@pytest.mark.slow
def test_a_file_of_fifty_million_rows_is_refused_in_little_memory(tmp_path):
    path = tmp_path / "huge.csv"
    block = b"1e8,1e9,3.0\n" * 100_000
    with path.open("wb") as file:
        file.write(b"params,tokens,loss\n")
        for _ in range(500):
            file.write(block)
    command = [sys.executable, "-m", "scaling.fit", f"--runs={path}", "--law=chinchilla"]
    code = (
        "import resource, subprocess, sys\n"
        "run = subprocess.run(sys.argv[1:], capture_output=True, text=True)\n"
        "peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024\n"
        "print(run.returncode, peak, run.stderr)"
    )
    began = time.monotonic()
    run = subprocess.run(
        [sys.executable, "-c", code, *command, f"--out={tmp_path / 'o'}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    path.unlink()
    status, peak, error = run.stdout.split(" ", 2)
    assert status == "2"
    assert "more than 1,000,000 rows" in error
    assert "aggregate or thin" in error
    assert "Traceback" not in error
    assert int(peak) < 600  # MB
    assert time.monotonic() - began < 120


def test_more_rows_than_memory_is_planned_for_are_refused(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("params,tokens,loss\n1,2,3\n")
    with pytest.raises(LawError, match="--max-rows=60000000 is above 10,000,000"):
        read_table(path, max_rows=60_000_000)


def test_json_of_other_programs(tmp_path):
    """A byte order mark, and a number that no float holds."""
    path = tmp_path / "runs.jsonl"
    rows = ['{"params": 1e8, "tokens": 1e9, "loss": 3.0}', '{"params": 1' + "0" * 400 + "}"]
    path.write_text("\ufeff" + "\n".join(rows), encoding="utf-8")
    table = read_table(path)
    assert table.columns["params"][0] == 1e8
    assert np.isnan(table.columns["params"][1])


def test_columns_keep_the_order_of_the_file(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("loss,params,a,zz,tokens\n1,2,3,4,5\n")
    assert list(read_table(path).columns) == ["loss", "params", "a", "zz", "tokens"]


def test_json_lines(tmp_path):
    path = tmp_path / "runs.jsonl"
    path.write_text('{"params": 1, "eval": {"loss": 2}}\n\n{"params": 3, "flops": 4}\n')
    table = read_table(path)
    assert list(table.columns["params"]) == [1, 3]
    assert np.isnan(table.columns["eval.loss"][1])
    path.write_text("{broken\n")
    with pytest.raises(LawError, match="line 1: not JSON"):
        read_table(path)


def test_a_sweep_directory(tmp_path):
    for i in range(3):
        write_run(tmp_path, f"run{i}", loss=3 - 0.1 * i)
    write_run(tmp_path, "dead", status="diverged")
    table = read_table(tmp_path, params="non_embedding", flops="exact")
    assert list(table.columns["loss"]) == [3.0, 2.9, 2.8]
    assert list(table.columns["params"]) == [100] * 3
    assert list(table.columns["flops"]) == [7e11] * 3
    assert len(table.excluded) == 1
    assert "diverged" in table.excluded[0][1]
    assert table.notes["params"].startswith("non_embedding")
    curves = read_table(tmp_path, curves=True)
    assert len(curves) == 6
    assert list(curves.columns["tokens"][:2]) == [5e8, 1e9]
    with pytest.raises(LawError, match="holds no run"):
        read_table(_empty(tmp_path))


def test_a_run_of_any_unit_and_objective(tmp_path):
    for name, units in (("a", 300), ("b", 600)):
        write_run(tmp_path, name)
        path = tmp_path / name / "summary.json"
        summary = json.loads(path.read_text())
        del summary["tokens"]
        summary |= {"unit": "points", "units": units, "objective": "error_rate"}
        summary["eval"] = {"loss": 9.0, "error_rate": units / 1000}
        path.write_text(json.dumps(summary))
    table = read_table(tmp_path)
    assert list(table.columns["tokens"]) == [300, 600]
    assert list(table.columns["loss"]) == [0.3, 0.6]


def test_a_damaged_summary_excludes_its_run_and_no_other(tmp_path):
    write_run(tmp_path, "whole")
    write_run(tmp_path, "broken")
    (tmp_path / "broken" / "summary.json").write_text("{")
    write_run(tmp_path, "torn")
    (tmp_path / "torn" / "metrics.jsonl").write_text("oops\n{}\n")
    table = read_table(tmp_path, curves=True)
    assert len(table) == 2
    reasons = [reason for _, reason in table.excluded]
    assert "broken/summary.json is not valid JSON" in reasons[0]
    assert "torn/metrics.jsonl:1" in reasons[1]


def test_runs_behind_symbolic_links_are_in_the_table(tmp_path):
    write_run(tmp_path / "elsewhere", "far")
    write_run(tmp_path / "sweep", "near")
    (tmp_path / "sweep" / "linked").symlink_to(tmp_path / "elsewhere" / "far")
    (tmp_path / "sweep" / "again").symlink_to(tmp_path / "sweep" / "near")
    (tmp_path / "sweep" / "loop").symlink_to(tmp_path / "sweep")
    assert read_table(tmp_path / "sweep").text["run_id"] == ["far", "near"]


def write_run(folder, name, status="completed", loss=3.0, step=100):
    run = folder / name
    run.mkdir(parents=True)
    summary = {
        "status": status, "step": step, "tokens": 1e9, "run_id": name, "seed": 1,
        "params": {"total": 120, "non_embedding": 100, "active": 120},
        "flops": {"six_nd": 6e11, "exact": 7e11}, "eval": {"loss": loss},
    }  # fmt: skip
    (run / "summary.json").write_text(json.dumps(summary))
    lines = [{"step": s, "eval/loss": 4 - s / 100} for s in (50, 100)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))


def _empty(folder):
    path = folder / "empty"
    path.mkdir()
    return path


def test_empty_columns_at_the_right_are_left_out(tmp_path):
    path = tmp_path / "sheet.csv"
    path.write_text("params,loss,,\n1,2,,\n,,,\n3,4,, \n")
    table = read_table(path)
    assert list(table.columns) == ["params", "loss"]
    np.testing.assert_array_equal(table.columns["loss"], [2, 4])
