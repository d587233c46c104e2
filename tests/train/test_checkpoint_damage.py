"""Checkpoints that are damaged, disks that cannot be written, kills while saving."""

import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest
from helpers import ROOT
from train.checkpoint_states import arrays_of, assert_same, flip, make_state, put

from scaling.train import checkpoint_format as layout
from scaling.train.checkpoints import (
    CheckpointError,
    Checkpoints,
    read_info,
)

# --- damage ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    directory = tmp_path_factory.mktemp("two")
    with Checkpoints(directory) as saver:
        put(saver, 1)
        put(saver, 2)
    return directory


def files_of(directory: pathlib.Path) -> Iterator[pathlib.Path]:
    return (p.relative_to(directory) for p in sorted(directory.rglob("*")) if p.is_file())


def test_a_flipped_byte_in_any_file_falls_back(
    two_steps: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    generator = random.Random(0)
    names = list(files_of(two_steps / "00000002"))
    assert len(names) > 10
    for number, name in enumerate(names):
        copy = tmp_path / str(number)
        shutil.copytree(two_steps, copy)
        flip(copy / "00000002" / name, generator.randrange(1 << 30))
        with Checkpoints(copy, read_only=True) as reader:
            step, state, notes = reader.restore(make_state())
        assert step == 1, name
        assert "step 2 is damaged" in notes[0]
        assert notes[-1] == "fell back to step 1"
        assert_same(state, make_state(seed=1))


def test_missing_and_truncated_files_fall_back_also_as_numpy(
    two_steps: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    shutil.copytree(two_steps, tmp_path / "c")
    data = max((tmp_path / "c" / "00000002").rglob("d/*"), key=lambda p: p.stat().st_size)
    data.write_bytes(data.read_bytes()[:-1])
    (tmp_path / "c" / "00000002" / layout.METRICS).unlink()
    said: list[str] = []
    tree = arrays_of(read_info(tmp_path / "c", say=said.append))
    assert re.search(r"(?s)metrics.json is missing; .* bytes, not .* to step 1", "\n".join(said))
    assert int(tree["step"]) == 1
    assert read_info(tmp_path / "c", say=said.append).step == 1


def test_the_damaged_one_is_kept_aside_and_never_counts_again(
    two_steps: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    shutil.copytree(two_steps, tmp_path / "c")
    flip(tmp_path / "c" / "00000002" / "config.json", 0)
    with Checkpoints(tmp_path / "c", keep_last=1) as saver:
        saver.restore(make_state())
        assert saver.steps() == [1, 2]
        put(saver, 2)
        saver.wait()
        assert saver.steps() == [2]
        step, _, notes = saver.restore(make_state())
    assert (step, notes) == (2, [])
    assert (tmp_path / "c" / "damaged-00000002").is_dir()


def test_all_damaged_is_an_error_that_lists_each(
    two_steps: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    shutil.copytree(two_steps, tmp_path / "c")
    for step in (1, 2):
        flip(tmp_path / "c" / f"{step:08d}" / layout.TREE, 3)
    with Checkpoints(tmp_path / "c", read_only=True) as reader:
        with pytest.raises(CheckpointError, match=r"(?s)step 2 is damaged.*step 1 is damaged"):
            reader.restore(make_state())
        with pytest.raises(CheckpointError, match="step 1 is damaged"):
            reader.restore(make_state(), step=1)


def test_without_a_manifest_it_is_restored_with_a_note(
    two_steps: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    shutil.copytree(two_steps, tmp_path / "c")
    (tmp_path / "c" / "00000002" / layout.MANIFEST).unlink()
    with Checkpoints(tmp_path / "c", read_only=True) as reader:
        step, state, notes = reader.restore(make_state())
    assert step == 2
    assert "no manifest" in notes[0]
    assert_same(state, make_state(seed=2))


def test_a_newer_format_is_not_damage(two_steps: pathlib.Path, tmp_path: pathlib.Path) -> None:
    shutil.copytree(two_steps, tmp_path / "c")
    path = tmp_path / "c" / "00000002" / layout.MANIFEST
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"format": 3}))
    with pytest.raises(CheckpointError, match=r"format 3.*update the package"):
        read_info(tmp_path / "c")
    with Checkpoints(tmp_path / "c") as saver, pytest.raises(CheckpointError, match="format 3"):
        saver.restore(make_state())


# --- disks that cannot be written ------------------------------------------------------------


def mount(target: pathlib.Path, *options: str) -> None:
    """Mounts a tmpfs or skips, saying why (it takes root)."""
    target.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(target)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs is not permitted here")


def test_a_full_disk_stops_the_run_and_spares_the_old_checkpoint(tmp_path: pathlib.Path) -> None:
    disk = tmp_path / "disk"
    mount(disk, "size=3m")
    noise = np.random.default_rng(0).random((1 << 18,), np.float32)
    try:
        with Checkpoints(disk / "c") as saver:
            put(saver, 1, {"w": noise})
            saver.wait()
            put(saver, 2, {"w": np.tile(noise, 4) * np.arange(1 << 20, dtype=np.float32)})
            with pytest.raises(CheckpointError, match=r"step 2 in .*disk is full.*--workdir"):
                saver.wait()
            with pytest.raises(CheckpointError, match="disk is full"):
                saver.check()
            with pytest.raises(CheckpointError, match="disk is full"):
                put(saver, 3, {"w": noise})
            saver._saving = None
        with Checkpoints(disk / "c", keep_last=1) as saver:
            assert saver.notes == []
            step, state, notes = saver.restore({"w": noise})
            assert (step, notes) == (1, [])
            np.testing.assert_array_equal(state["w"], noise)
            put(saver, 2, {"w": noise + 1})
            saver.wait()
            assert saver.steps() == [2]
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_file_size_limit_fails_the_save_not_the_process(tmp_path: pathlib.Path) -> None:
    """The same path as a full disk, where no tmpfs can be mounted."""
    script = """
    import resource, sys
    import numpy as np
    from scaling.train.checkpoints import CheckpointError, Checkpoints
    saver = Checkpoints(sys.argv[1])
    saver.save(1, {"w": np.ones(4)}, {}, {})
    saver.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
    try:
        saver.save(2, {"w": np.random.default_rng(0).random(1 << 17)}, {}, {})
        saver.wait()
    except CheckpointError as error:
        print("refused:", error)
    print("left:", saver.restore({"w": np.ones(4)})[0])
    """
    done = run_script(script, tmp_path)
    assert "refused: could not save the checkpoint of step 2" in done.stdout, done.stderr
    assert "ulimit -f" in done.stdout
    assert "left: 1" in done.stdout


def test_a_read_only_directory_is_a_clear_error(tmp_path: pathlib.Path) -> None:
    disk = tmp_path / "disk"
    mount(disk, "size=3m")
    try:
        with Checkpoints(disk / "c") as saver:
            put(saver, 1)
            saver.wait()
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
            with pytest.raises(CheckpointError, match=r"step 2 in .*cannot be written"):
                put(saver, 2)
            assert saver.restore(make_state())[0] == 1
        with pytest.raises(CheckpointError, match="cannot be written"):
            Checkpoints(disk / "other")
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


# --- kills -----------------------------------------------------------------------------------

WRITER = """
import itertools, sys
import numpy as np
import jax.numpy as jnp
from scaling.train.checkpoints import Checkpoints
saver = Checkpoints(sys.argv[1], keep_last=2)
start = max(saver.steps(), default=0)
told = None
print("ready", flush=True)
for step in itertools.count(start + 1):
    state = {"w": jnp.full((64, 512), step), "n": {str(i): np.full(50, step) for i in range(5)}}
    saver.save(step, state, {}, {})
    for _ in range(20):
        if saver.committed != told:
            told = saver.committed
            print(told, flush=True)
        saver.check()
"""


def run_script(script: str, *arguments: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)


def kill_at(directory: pathlib.Path, reports: int, delay: float) -> int:
    """Runs the writer, kills it `delay` seconds after so many reports; the last step reported."""
    command = [sys.executable, "-c", WRITER, str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        lines = [child.stdout.readline() for _ in range(reports)]
        time.sleep(delay)
        os.kill(child.pid, signal.SIGKILL)
        lines += [line for line in child.stdout.read().splitlines(True) if line.endswith("\n")]
    return int(lines[-1]) if lines else 0


def check_after_kill(directory: pathlib.Path, reported: int, before: int) -> int:
    with Checkpoints(directory, read_only=True) as reader:
        if not reader.steps():
            assert max(reported, before) == 0
            return 0
        like = {
            "w": np.zeros((64, 512), np.int32),
            "n": {str(i): np.zeros(50, int) for i in range(5)},
        }
        step, state, notes = reader.restore(like)
    assert notes == []
    assert step >= max(reported, before)
    for leaf in jax.tree.leaves(state):
        assert np.all(leaf == step)
    return step


def kill_many(directory: pathlib.Path, times: int, seed: int) -> None:
    generator, before = random.Random(seed), 0
    for _ in range(times):
        reported = kill_at(directory, generator.randrange(4), generator.uniform(0.0, 0.1))
        before = check_after_kill(directory, reported, before)


def test_killed_while_saving(tmp_path: pathlib.Path) -> None:
    kill_many(tmp_path, times=3, seed=time.time_ns())


@pytest.mark.slow
def test_killed_while_saving_often(tmp_path: pathlib.Path) -> None:
    kill_many(tmp_path, times=20, seed=time.time_ns())
