"""Checkpoints of several real processes on loopback: saved by two, read by one, and the reverse.

Where each of them lists the folder otherwise, both go by the listing of process 0.
"""

import json
import os
import pathlib
import socket
import subprocess
import sys
import textwrap
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROOT
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from scaling.train.checkpoints import Checkpoints, read_info

WORKER = """
import json, os, sys, time, types
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
port, index, folder, mode = sys.argv[1:]
jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(index), initialization_timeout=60)
from scaling.train import checkpoint_format as layout
from scaling.train import checkpoints
from scaling.train.checkpoints import CheckpointError, Checkpoints, agreed_source
checkpoints.SAVE_SECONDS = 60
# Process 0 lists the files while process 1 is half-way through writing its part of the manifest;
# process 1 does not see the first file yet.
stored_files = layout.stored_files
if mode == "save" and index == "1":
    replace = os.replace
    os.replace = lambda *names: (time.sleep(0.6), replace(*names))
    layout.stored_files = lambda path: stored_files(path)[1:]
elif mode == "save":
    layout.stored_files = lambda path: (time.sleep(0.3), stored_files(path))[1]
mesh = Mesh(np.array(jax.devices()), ("data",))
sharded, copied = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
def whole(step):
    return {"w": np.arange(64, dtype=np.float32).reshape(8, 8) * step, "n": np.int32(step)}
def place(step):
    tree = whole(step)
    put = lambda x, s: jax.make_array_from_callback(x.shape, s, lambda i: x[i])
    key = jax.jit(lambda: jax.random.key(step), out_shardings=copied)()
    return {"w": put(tree["w"], sharded), "n": put(np.asarray(tree["n"]), copied), "key": key}
listed = layout.find_steps
def lists(who, steps_of):
    # From now on one process lists the steps that `steps_of` makes of those that are there.
    layout.find_steps = lambda path: steps_of(listed(path)) if index == who else listed(path)
def state_of(step):
    return {"params": place(step)}
def number(state):
    return int(np.asarray(state["params"]["n"].addressable_shards[0].data))
def otherwise(saver):
    # What both do while they list the folder otherwise, as on a network file system.
    from scaling.experiment import InitFrom
    from scaling.train.init_from import load_initial
    from scaling.train.record import Record
    for step in (2, 4, 6):
        saver.save(step, state_of(step), {}, {})
    saver.wait()
    # A rollback from step 9, while process 1 does not see the newest checkpoint yet.
    record = Record.__new__(Record)
    record.config = types.SimpleNamespace(train=types.SimpleNamespace(steps=1000))
    record.checkpoints, record.say = saver, lambda text: None
    lists("1", lambda steps: steps[:-1])
    back, state = record.newest(state_of(0), 9)
    # A start from a run that goes on: it saves between the looks of process 0 and of process 1.
    lists("0", lambda steps: steps[:-1])
    like = {"params": {name: place(0)[name] for name in ("w", "n")}}
    begun, _ = load_initial({"trunk": InitFrom(folder)}, like, say=lambda text: None)
    # What process 0 cannot do is an error in both, and the next save meets no barrier of this one.
    refused = []
    for attempt in (
        lambda: agreed_source(folder + "-nowhere"),
        lambda: saver.save(7, state_of(7), {}, {"a/b": ""}),
    ):
        try:
            attempt()
        except CheckpointError as error:
            refused.append(str(error))
    # Back to 4, on to 6 again, while process 1 still sees the 6 that process 0 has set aside.
    lists("1", lambda steps: sorted({*steps, 6}))
    saver.restore(state_of(0), 4)
    saver.save(5, state_of(5), {}, {})
    saved = saver.save(6, state_of(6), {}, {})
    saver.wait()
    return {
        "rollback": [back, number(state)],
        "init_from": number(begun),
        "refused": refused,
        "saved": saved,
    }
with Checkpoints(folder, keep_last=2) as saver:
    if mode == "otherwise":
        print(json.dumps(otherwise(saver)))
        sys.exit()
    if mode == "save":
        for step in (1, 2, 3):
            saver.save(step, place(step), {}, {})
        saver.wait()
        assert saver.committed == 3, saver.committed
        assert saver.steps() == [2, 3], saver.steps()
    layout.stored_files = stored_files
    step, state, notes = saver.restore(place(0))
    same = all(
        np.array_equal(s.data, whole(step)["w"][s.index]) for s in state["w"].addressable_shards
    )
    key = jax.random.key_data(state["key"]).addressable_shards[0].data
    print(json.dumps([step, same, notes, np.asarray(key).tolist()]))
"""


def run_two(folder: pathlib.Path, mode: str) -> list[Any]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WORKER), str(port), str(i), str(folder), mode],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment,
        )
        for i in range(2)
    ]
    results = []
    try:
        for child in children:
            out, err = child.communicate(timeout=120)
            assert child.returncode == 0, err[-3000:]
            results.append(json.loads(out.strip().splitlines()[-1]))
    finally:
        for child in children:
            child.kill()
    return results


def test_two_processes_and_one_read_each_other(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "checkpoints"
    key = np.asarray(jax.random.key_data(jax.random.key(3))).tolist()
    assert run_two(folder, "save") == [[3, True, [], key]] * 2
    w = np.arange(64, dtype=np.float32).reshape(8, 8)
    np.testing.assert_array_equal(read_info(tmp_path).read_arrays({"w": None})["w"], w * 3)
    manifest = json.loads((folder / "00000003" / "manifest.json").read_text())
    assert any("process_1" in name for name in manifest["files"])
    assert not list(folder.rglob("manifest.part*"))

    # One process with eight devices writes the next; then its newest array file is damaged.
    mesh = Mesh(np.array(jax.devices()), ("data",))
    state = {
        "w": jax.device_put(w * 4, NamedSharding(mesh, P("data"))),
        "n": jnp.int32(4),
        "key": jax.random.key(4),
    }
    with Checkpoints(folder, keep_last=5) as saver:
        step, restored, _ = saver.restore(state)
        assert step == 3
        np.testing.assert_array_equal(restored["w"], w * 3)
        saver.save(4, state, {}, {})
        saver.wait()
        saver.save(5, state, {}, {})
    name = next(p for p in (folder / "00000005").rglob("d/*") if p.is_file())
    name.write_bytes(name.read_bytes()[:-1] + b"?")
    for found in run_two(folder, "restore"):
        assert found[:2] == [4, True]
        assert "step 5 is damaged" in found[2][0]
        assert found[2][-1] == "fell back to step 4"


@pytest.fixture(scope="module")
def otherwise(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two processes did that listed the folder otherwise; see WORKER."""
    return run_two(tmp_path_factory.mktemp("otherwise"), "otherwise")


def test_a_rollback_restores_one_step_whatever_each_process_lists(otherwise: list[Any]) -> None:
    assert [one["rollback"] for one in otherwise] == [[6, 6]] * 2


def test_both_begin_from_one_step_of_a_run_that_goes_on(otherwise: list[Any]) -> None:
    assert [one["init_from"] for one in otherwise] == [4, 4]


def test_what_process_0_cannot_do_is_an_error_in_both(otherwise: list[Any]) -> None:
    by_first, by_second = [one["refused"] for one in otherwise]
    assert "no checkpoint in" in by_first[0]
    assert "'a/b' cannot name a file" in by_first[1]
    assert by_second == ["process 0 failed; its output says why"] * 2


def test_a_step_that_was_set_aside_is_saved_again_by_both(otherwise: list[Any]) -> None:
    assert [one["saved"] for one in otherwise] == [True, True]
