"""metrics.jsonl: exact floats, torn lines, superseded lines, refusals."""

import json
import math
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT

from scaling.track.stream import MetricsStream, StreamError, read_metrics


def superseded(folder: pathlib.Path) -> list[int]:
    path = folder / "superseded.jsonl"
    return (
        [json.loads(line)["step"] for line in path.read_text().splitlines()]
        if path.exists()
        else []
    )


def test_floats_round_trip_and_every_line_is_strict_json(tmp_path: pathlib.Path) -> None:
    generator = random.Random(0)
    values = {
        f"v{i}": generator.uniform(-1, 1) * 10 ** generator.randint(-300, 300) for i in range(99)
    }
    values |= {"nan": math.nan, "up": math.inf, "down": -math.inf, "tiny": 5e-324}
    values["f32"] = np.float32(0.1)
    with MetricsStream(tmp_path) as stream:
        stream.write(1, values)
        stream.write(1, {"eval/loss": np.ones(2), "flag": True, "none": None, "note": "x"})
    text = (tmp_path / "metrics.jsonl").read_text()

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    for line in text.splitlines():
        json.loads(line, parse_constant=refuse)
    first, second = read_metrics(tmp_path)
    assert first.pop("step") == 1
    assert math.isnan(first.pop("nan"))
    values.pop("nan")
    assert first == {k: float(v) for k, v in values.items()}
    assert second == {"step": 1, "eval/loss": [1.0, 1.0], "flag": True, "none": None, "note": "x"}


def test_resume_supersedes_later_lines_and_keeps_each_step_once(tmp_path: pathlib.Path) -> None:
    with MetricsStream(tmp_path) as stream:
        for step in range(1, 11):
            stream.write(step, {"train/loss": step / 3})
    with MetricsStream(tmp_path, start_step=6) as stream:
        assert stream.last_step == 6
        assert stream.notes == ["moved 4 lines after step 6 to superseded.jsonl"]
        stream.write(7, {"train/loss": 0.0})
        assert stream.rewind(3) == 4
        stream.write(4, {})
        with pytest.raises(StreamError, match=r"step 2 comes after step 4; call rewind\(2\)"):
            stream.write(2, {})
        with pytest.raises(StreamError, match="twice"):
            stream.write(5, {"step": 5})
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3, 4]
    assert superseded(tmp_path) == [7, 8, 9, 10, 4, 5, 6, 7]
    with MetricsStream(tmp_path, start_step=0) as stream:
        assert stream.last_step is None
    assert read_metrics(tmp_path) == []


@pytest.mark.parametrize("cut", [1, 5, 12])
def test_a_torn_last_line_is_dropped(tmp_path: pathlib.Path, cut: int) -> None:
    with MetricsStream(tmp_path) as stream:
        for step in range(1, 4):
            stream.write(step, {"a": 1})
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]
    with MetricsStream(tmp_path, start_step=3) as stream:
        assert stream.last_step == 2
        assert "torn" in stream.notes[0]
        stream.write(3, {})
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3]
    assert superseded(tmp_path) == []


def test_zeros_of_a_power_cut_are_dropped_with_the_lines_before_them(
    tmp_path: pathlib.Path,
) -> None:
    with MetricsStream(tmp_path) as stream:
        for step in range(1, 4):
            stream.write(step, {})
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b"\0" * 4096)
    with MetricsStream(tmp_path, start_step=2) as stream:
        assert stream.last_step == 2
    assert superseded(tmp_path) == [3]


def test_damage_before_the_end_is_an_error(tmp_path: pathlib.Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"stop": 2}\n{"step": 3}\n')
    with pytest.raises(StreamError, match="byte 12"):
        MetricsStream(tmp_path, start_step=1)
    with pytest.raises(StreamError, match=r"metrics\.jsonl:2"):
        read_metrics(tmp_path)


def test_opening_reads_only_the_tail(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = json.dumps({"step": 1, "pad": "x" * 1000}) + "\n"
    (tmp_path / "metrics.jsonl").write_text(line * 2000)
    read = 0
    pread = os.pread

    def counted(descriptor: int, length: int, offset: int) -> bytes:
        nonlocal read
        read += length
        return pread(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", counted)
    with MetricsStream(tmp_path, start_step=5) as stream:
        assert stream.last_step == 1
    assert read < 200_000


def test_a_kill_between_the_two_files_repeats_nothing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with MetricsStream(tmp_path) as stream:
        for step in range(1, 6):
            stream.write(step, {})

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", killed)
        with pytest.raises(KeyboardInterrupt):
            MetricsStream(tmp_path, start_step=2)
    MetricsStream(tmp_path, start_step=2).close()
    assert superseded(tmp_path) == [3, 4, 5]
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]


def test_a_killed_writer_loses_no_line(tmp_path: pathlib.Path) -> None:
    script = (
        "import itertools, sys\nfrom scaling.track.stream import MetricsStream\n"
        "stream = MetricsStream(sys.argv[1])\n"
        "for step in itertools.count(1):\n"
        "    stream.write(step, {'a': 'x' * 500}); print(step, flush=True)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as child:
        assert child.stdout is not None
        for _ in range(50):
            child.stdout.readline()
        child.send_signal(signal.SIGKILL)
        rest = [line for line in child.stdout.read().splitlines(True) if line.endswith("\n")]
    told = int(rest[-1]) if rest else 50
    steps = [row["step"] for row in read_metrics(tmp_path)]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) >= told


def test_a_full_disk_is_named_and_leaves_whole_lines(tmp_path: pathlib.Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    try:
        stream = MetricsStream(disk)

        def fill() -> None:
            for step in range(1000):
                stream.write(step, {"pad": "x" * 900})

        with pytest.raises(OSError, match=r"cannot append metrics; free space.*metrics\.jsonl"):
            fill()
        stream.close()
        assert (disk / "metrics.jsonl").read_bytes().endswith(b"}\n")
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
