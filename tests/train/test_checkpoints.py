"""Checkpoints: round trips on any mesh, and what is kept."""

import pathlib
from unittest.mock import ANY

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROOT
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from train.checkpoint_states import arrays_of, assert_same, make_state, on_mesh, put

from scaling.train import checkpoint_format as layout
from scaling.train.checkpoints import (
    CheckpointError,
    CheckpointMismatch,
    Checkpoints,
    read_info,
)

FIXTURE = ROOT / "tests" / "fixtures" / "checkpoint_v1"
EXTRA = FIXTURE.with_name("checkpoint_v1_extra")


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


def test_replicas_share_the_writing_of_large_arrays_alone(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In slices, which are programs to compile: too slow for the many small arrays of a state."""
    replicated = NamedSharding(Mesh(np.array(jax.devices()), "data"), PartitionSpec())
    for columns, sliced in ((37, False), (1 << 18, True)):
        values = np.arange(8.0 * columns, dtype=np.float32).reshape(8, columns)
        state = {"w": jax.device_put(values, replicated)}
        caplog.clear()
        with jax.log_compiles(), Checkpoints(tmp_path / str(columns)) as saver:
            put(saver, 1, state)
            _, restored, _ = saver.restore(state)
        assert ("jit(slice)" in caplog.text) is sliced
        assert_same(restored, state)


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
    tree = arrays_of(read_info(tmp_path))
    assert tree["params"]["empty"].shape == (0, 8)
    np.testing.assert_array_equal(tree["opt_state"]["0"]["mu"]["0"], state.opt_state[0].mu[0])
    assert tree["key"].dtype == np.uint32
    assert tree["params"]["layers_0"]["bias"].dtype == jnp.bfloat16
    with pytest.raises(CheckpointError, match=r"of step 3 in .*there is \[2\]"):
        read_info(tmp_path, 3)


def test_the_fixture_loads_for_ever() -> None:
    """Written by format 1. Never regenerate it: a change that cannot read it breaks users."""
    tree = arrays_of(read_info(FIXTURE))
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
    tree = arrays_of(read_info(EXTRA))
    assert set(tree) == {"step", "rng", "params", "model_state", "ema", "guard"}
    norm = tree["model_state"]["batch_stats"]["norm"]
    np.testing.assert_array_equal(norm["var"], np.full(3, 4.0, np.float32))
    assert set(norm) == {"mean", "var"}
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
