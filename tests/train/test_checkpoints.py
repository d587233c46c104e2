"""Checkpoints: round trips on any mesh, damage, full and read-only disks, kills, retention."""

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
from typing import Any, NamedTuple
from unittest.mock import ANY

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROOT
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from scaling.train import checkpoint_format as layout
from scaling.train.checkpoint_reading import is_key
from scaling.train.checkpoints import (
    CheckpointError,
    CheckpointMismatch,
    Checkpoints,
    load_numpy,
    newest_whole,
    read_info,
)

FIXTURE = ROOT / "tests" / "fixtures" / "checkpoint_v1"
EXTRA = FIXTURE.with_name("checkpoint_v1_extra")


class Moments(NamedTuple):
    mu: Any
    nu: Any


class State(flax.struct.PyTreeNode):
    step: Any
    params: Any
    opt_state: Any
    model_state: Any
    ema: Any
    key: Any


def make_state(scale: float = 1.0, seed: int = 0) -> State:
    """A state with every kind of leaf: bfloat16, empty, scalar, host array, number, typed key."""
    w = (jnp.arange(128, dtype=jnp.float32).reshape(16, 8) * scale).at[0, 0].set(seed)
    return State(
        step=jnp.asarray(seed, jnp.int32),
        params={"layers_0": {"kernel": w, "bias": w[0].astype(jnp.bfloat16)}, "empty": w[:0]},
        opt_state=(Moments(mu=[w + 1], nu=w[0] * 2), {}, None),
        model_state={"mean": np.arange(3, dtype=np.float64) * scale, "count": 3},
        ema=None,
        key=jax.random.split(jax.random.key(seed), 4),
    )


def host_leaves(tree: Any) -> list[np.ndarray]:
    return [
        np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf)
        for leaf in jax.tree.leaves(tree)
    ]


def assert_same(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(host_leaves(a), host_leaves(b), strict=True):
        assert x.dtype == y.dtype
        assert x.shape == y.shape
        assert x.tobytes() == y.tobytes()


def put(saver: Checkpoints, step: int, state: Any = None, **metrics: float) -> None:
    saver.save(
        step, make_state(seed=step) if state is None else state, metrics, {"config.json": "{}"}
    )


def flip(path: pathlib.Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset % len(data)] ^= 0x40
    path.write_bytes(bytes(data))


def on_mesh(state: State, shape: tuple[int, int]) -> State:
    devices = np.array(jax.devices()[: shape[0] * shape[1]]).reshape(shape)
    mesh = Mesh(devices, ("data", "tensor"))

    def place(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array):
            return leaf
        spec = P("data", "tensor") if leaf.ndim == 2 and leaf.size else P()
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    return jax.tree.map(place, state)


# --- round trips -----------------------------------------------------------------------------


def test_round_trip_of_every_kind_of_leaf(tmp_path: pathlib.Path) -> None:
    state = make_state(seed=7)
    texts = {"config.json": '{"a": 1}', "provenance.json": "{}", "tokenizer.json": "\u00e9\n"}
    with Checkpoints(tmp_path / "c") as saver:
        assert saver.steps() == []
        assert saver.save(7, state, {"eval/loss": float("nan")}, texts)
        saver.wait()
        assert saver.committed == 7
        step, restored, notes = saver.restore(state)
    assert (step, notes) == (7, [])
    assert_same(restored, state)
    assert restored.model_state["count"] == 3
    assert isinstance(restored.model_state["count"], int)
    assert jax.dtypes.issubdtype(restored.key.dtype, jax.dtypes.prng_key)
    info = read_info(tmp_path / "c")
    assert (info.step, info.path, info.texts) == (7, tmp_path / "c" / "00000007", texts)
    assert np.isnan(info.metrics["eval/loss"])
    assert info.leaves["params/layers_0/bias"] == {"shape": [8], "dtype": "bfloat16"}


@pytest.mark.parametrize("shape", [(1, 1), (8, 1), (2, 4)])
def test_restores_on_any_mesh(tmp_path: pathlib.Path, shape: tuple[int, int]) -> None:
    state = on_mesh(make_state(seed=1), (4, 2))
    like = jax.tree.map(
        lambda x: (
            jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
            if isinstance(x, jax.Array)
            else x
        ),
        on_mesh(make_state(), shape),
    )
    with Checkpoints(tmp_path) as saver:
        put(saver, 1, state)
        _, restored, _ = saver.restore(like)
    assert_same(restored, state)
    kernel = restored.params["layers_0"]["kernel"]
    assert kernel.sharding == like.params["layers_0"]["kernel"].sharding


def test_state_may_be_donated_when_save_returns(tmp_path: pathlib.Path) -> None:
    scramble = jax.jit(lambda tree: jax.tree.map(lambda x: -x - 1, tree), donate_argnums=0)
    state = {f"w{i}": jnp.full((64, 1024), float(i)) for i in range(24)}
    host = {"n": np.zeros(1000)}
    expected = jax.tree.map(lambda x: np.array(x), (state, host))
    with Checkpoints(tmp_path) as saver:
        put(saver, 1, (state, host))
        for _ in range(3):
            state = scramble(state)
        host["n"][:] = 1
        jax.block_until_ready(state)
        _, restored, _ = saver.restore(expected)
    assert_same(restored, expected)


def test_numpy_needs_no_template(tmp_path: pathlib.Path) -> None:
    state = on_mesh(make_state(seed=2), (2, 4))
    with Checkpoints(tmp_path / "checkpoints") as saver:
        put(saver, 2, state)
    tree = load_numpy(tmp_path)
    assert tree["params"]["empty"].shape == (0, 8)
    np.testing.assert_array_equal(tree["opt_state"]["0"]["mu"]["0"], state.opt_state[0].mu[0])
    assert tree["key"].dtype == np.uint32
    part = load_numpy(tmp_path, 2, "params/layers_0")
    assert set(part) == {"kernel", "bias"}
    assert part["bias"].dtype == jnp.bfloat16
    with pytest.raises(CheckpointError, match=r"nothing under 'parms'.*params"):
        load_numpy(tmp_path, subtree="parms")
    with pytest.raises(CheckpointError, match=r"of step 3 in .*there is \[2\]"):
        load_numpy(tmp_path, 3)


def test_the_fixture_loads_for_ever() -> None:
    """Written by format 1. Never regenerate it: a change that cannot read it breaks users."""
    tree = load_numpy(FIXTURE)
    kernel = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(tree["params"]["dense"]["kernel"], kernel)
    np.testing.assert_array_equal(tree["params"]["dense"]["bias"], np.ones(3, jnp.bfloat16))
    assert tree["params"]["dense"]["bias"].dtype == jnp.bfloat16
    assert int(tree["step"]) == 5
    like = jax.tree.map(jnp.asarray, tree)
    with Checkpoints(FIXTURE, read_only=True) as reader:
        step, restored, notes = reader.restore(like)
    assert (step, notes) == (5, [])
    assert_same(restored, like)
    assert read_info(FIXTURE).texts["config.json"] == '{"name": "fixture"}'


def test_format_1_is_read_under_the_names_of_today() -> None:
    """Its field `extra` is `model_state` now: with a template, as numpy, and in what is said of it."""
    tree = load_numpy(EXTRA)
    assert set(tree) == {"step", "rng", "params", "model_state", "ema", "guard"}
    norm = tree["model_state"]["batch_stats"]["norm"]
    np.testing.assert_array_equal(norm["var"], np.full(3, 4.0, np.float32))
    assert set(load_numpy(EXTRA, subtree="model_state/batch_stats/norm")) == {"mean", "var"}
    assert load_numpy(EXTRA, subtree="step") == {"step": 5}
    like = jax.tree.map(jnp.asarray, tree)
    with Checkpoints(EXTRA, read_only=True) as reader:
        step, restored, notes = reader.restore(like)
    assert (step, notes) == (5, [])
    assert_same(restored, like)
    info = read_info(EXTRA)
    assert "model_state/batch_stats/norm/mean" in info.leaves
    assert info.texts == {"config.json": '{"name": "fixture"}', "provenance.json": ANY}


def test_texts_are_checked_and_cannot_replace_files_of_the_checkpoint(tmp_path) -> None:
    with Checkpoints(tmp_path) as saver:
        for name in ("tree.json", "manifest.part0", "../a", "a/b", ".a"):
            with pytest.raises(CheckpointError, match="rename it"):
                saver.save(1, {"w": np.zeros(3)}, {}, {name: ""})
        assert saver.steps() == []
        saver.save(1, {"w": np.zeros(3)}, {}, {"tokenizer.json": "abc"})
    (tmp_path / "00000001" / "tokenizer.json").write_text("abd")
    with pytest.raises(CheckpointError, match=r"tokenizer.json is not what was written"):
        read_info(tmp_path)


def test_another_tree_is_refused_by_name_and_is_no_damage(tmp_path: pathlib.Path) -> None:
    with Checkpoints(tmp_path) as saver:
        put(saver, 1)
        put(saver, 2)
        like = make_state()
        wider = like.replace(
            params={"layers_0": {"kernel": jnp.zeros((16, 9))}, "new": jnp.ones(2)}
        )
        with pytest.raises(CheckpointMismatch) as caught:
            saver.restore(wider)
    text = str(caught.value)
    assert "params/new: stored nothing, wanted float32[2]" in text
    assert "params/layers_0/bias: stored bfloat16[8], wanted nothing" in text
    assert "params/layers_0/kernel: stored float32[16, 8], wanted float32[16, 9]" in text


# --- what is kept ----------------------------------------------------------------------------


def test_keeps_the_last_and_the_best(tmp_path: pathlib.Path) -> None:
    losses = {1: 5.0, 2: 1.0, 3: 3.0, 4: 2.0, 5: float("nan"), 6: 4.0}
    with Checkpoints(tmp_path, keep_last=2, keep_best=2) as saver:
        for step, loss in losses.items():
            put(saver, step, {"w": np.ones(2)}, **{"eval/loss": loss})
        saver.save(7, {"w": np.ones(2)}, {}, {})
        saver.wait()
        assert saver.steps() == [2, 4, 6, 7]
        assert not saver.save(7, {"w": np.ones(2)}, {}, {})
    with Checkpoints(tmp_path, keep_last=1, keep_best=1, best_mode="max") as saver:
        put(saver, 8, {"w": np.ones(2)}, **{"eval/loss": 0.0})
        saver.wait()
        assert saver.steps() == [6, 8]


def test_what_cannot_be_deleted_does_not_end_the_run(tmp_path, monkeypatch) -> None:
    """As on a network file system, where a reader's open file keeps a directory from going."""
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        raise BrokenPipeError(32, "nobody reads standard error")

    with monkeypatch.context() as patch, Checkpoints(tmp_path, keep_last=1, say=say) as saver:

        def refuse(*_: object) -> None:
            raise OSError(39, "Directory not empty", "00000001")

        patch.setattr(layout, "drop", refuse)
        for step in (1, 2):
            saver.save(step, {"w": np.zeros(3)}, {}, {})
        saver.wait()
        assert saver.steps() == [1, 2]
        assert len(said) == 1
        assert "could not be deleted, which is tried again" in said[0]
        patch.undo()
        saver.save(3, {"w": np.zeros(3)}, {}, {})
        saver.wait()
        assert saver.steps() == [3]


def test_leftovers_of_a_killed_save_are_removed_and_reported(tmp_path: pathlib.Path) -> None:
    (tmp_path / ".tmp-00000009" / "arrays.orbax-checkpoint-tmp").mkdir(parents=True)
    with Checkpoints(tmp_path, read_only=True) as reader:
        assert reader.steps() == []
        with pytest.raises(CheckpointError, match="read only"):
            put(reader, 1)
    assert (tmp_path / ".tmp-00000009").exists()
    with Checkpoints(tmp_path) as saver:
        assert saver.notes == ["removed .tmp-00000009, left by a save that was killed"]
    assert list(tmp_path.iterdir()) == []


def test_a_lost_future_is_set_aside(tmp_path: pathlib.Path) -> None:
    with Checkpoints(tmp_path, keep_last=5) as saver:
        for step in (1, 2, 3):
            put(saver, step)
        step, _, _ = saver.restore(make_state(), step=1)
        assert step == 1
        put(saver, 2, make_state(scale=3.0))
        saver.wait()
        assert saver.steps() == [1, 2]
        _, restored, _ = saver.restore(make_state())
    assert_same(restored, make_state(scale=3.0))
    assert (tmp_path / "abandoned-00000003").is_dir()


def test_bad_numbers_are_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="keep_last=0"):
        Checkpoints(tmp_path, keep_last=0)
    with Checkpoints(tmp_path) as saver:
        with pytest.raises(CheckpointError, match="no checkpoint"):
            saver.restore(make_state())
        with pytest.raises(CheckpointError, match="a/b"):
            put(saver, 1, {"a/b": np.ones(1)})
        with pytest.raises(CheckpointError, match="not a number"):
            put(saver, 1, {"a": "text"})
        put(saver, 1)


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
    tree = load_numpy(tmp_path / "c", say=said.append)
    assert re.search(r"(?s)metrics.json is missing; .* bytes, not .* to step 1", "\n".join(said))
    assert int(tree["step"]) == 1
    assert newest_whole(tmp_path / "c", say=said.append) == 1


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
        load_numpy(tmp_path / "c")
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
