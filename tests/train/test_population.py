"""Members of a population against the same runs alone; what happens to one leaves the others be."""

import json
import pathlib
import shutil

import jax
import pytest
from run_helpers import TINY, corpus, stream, summary

from scaling import configs, parallel
from scaling.main import main
from scaling.train.population import PopulationError, run_population
from scaling.train.run import Training
from scaling.train.signals import StopRequest

pytestmark = pytest.mark.usefixtures("same_bits")

SHORT = ("train.steps=40", "eval.every=20", "model.num_layers=1", "track.progress=off")
# A seed of one's own means initial values, dropout and order of the data of one's own.
# Three members with two orders of the data are one program, compiled once for most tests.
MEMBERS = {
    "plain": (),
    "seed": ("seed=1",),
    "rate": ("optim.learning_rate=0.003", "optim.clip_norm=0.5", "model.init_scale=0.5"),
}


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> pathlib.Path:
    return corpus(tmp_path_factory.mktemp("population"))


def on_one_device(patch: pytest.MonkeyPatch) -> None:
    """Runs and populations take the first device alone."""
    whole = parallel.make_mesh
    patch.setattr(
        parallel, "make_mesh", lambda config, devices=None: whole(config, jax.devices()[:1])
    )
    patch.setattr(jax, "device_count", lambda: 1)


@pytest.fixture
def one_device(monkeypatch) -> None:
    on_one_device(monkeypatch)


def settings(*overrides: str) -> list[str]:
    """`SHORT` and the overrides, the later of two for one key."""
    return list({one.partition("=")[0]: one for one in (*SHORT, *overrides)}.values())


def load(text: pathlib.Path, *overrides: str):
    return configs.load_resolved(f"{TINY}:{text}", settings(*overrides))


def population(text, folder, members, *common, **options) -> list[str]:
    """Trains members (name -> overrides) into `folder`/name."""
    loaded = [load(text, *common, *overrides) for overrides in members.values()]
    return run_population(loaded, [folder / name for name in members], **options)


def solo(text, workdir, *overrides: str, expect: int = 0) -> None:
    flags = [f"--config.{one}" for one in settings(*overrides)]
    assert main([f"--config={TINY}:{text}", f"--workdir={workdir}", *flags]) == expect


def assert_same(left: pathlib.Path, right: pathlib.Path, rel: float = 0.0) -> None:
    """Equal streams. The norm of the parameters, which is only reported, to the last place."""
    lines = [[json.loads(line) for line in stream(one)] for one in (left, right)]
    assert [line["step"] for line in lines[0]] == [line["step"] for line in lines[1]]
    for a, b in zip(*lines, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            limit = max(rel, 3e-7 if key == "train/param_norm" else 0.0)
            if isinstance(a[key], float) and a[key] != b[key]:
                assert a[key] == pytest.approx(b[key], rel=limit, abs=0.0), (key, a["step"])
            else:
                assert a[key] == b[key], (key, a["step"])


@pytest.fixture(scope="module")
def alone(text, tmp_path_factory) -> pathlib.Path:
    """Each member as a run of its own, on one device."""
    folder = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        on_one_device(patch)
        for name, overrides in MEMBERS.items():
            solo(text, folder / name, *overrides)
    return folder


def test_members_leave_what_their_solo_runs_leave(text, alone, tmp_path, one_device):
    assert population(text, tmp_path, MEMBERS) == ["completed"] * 3
    for name in MEMBERS:
        assert_same(tmp_path / name, alone / name)
        mine, theirs = summary(tmp_path / name), summary(alone / name)
        assert mine.keys() == theirs.keys() | {"population"}
        same = set(theirs) - {"seconds", "goodput", "memory_bytes", "compiles"}
        assert {k: mine[k] for k in same} == {k: theirs[k] for k in same}
        for file in ("config.json", "provenance.json", "checkpoints/00000040"):
            assert (tmp_path / name / file).exists() == (alone / name / file).exists()


def test_devices_and_vmap_change_only_the_last_places(text, alone, tmp_path):
    assert population(text, tmp_path / "spread", MEMBERS) == ["completed"] * 3
    assert population(text, tmp_path / "vmap", MEMBERS, mode="vmap") == ["completed"] * 3
    for name in MEMBERS:
        assert_same(tmp_path / "spread" / name, alone / name, rel=5e-4)
        ends = [summary(one / name)["eval"]["loss"] for one in (tmp_path / "vmap", alone)]
        assert ends[0] == pytest.approx(ends[1], rel=5e-4)


def test_a_diverging_member_disturbs_nobody(text, alone, tmp_path, one_device):
    members = {"plain": (), "wild": ("optim.learning_rate=1e30",), "seed": ("seed=1",)}
    assert population(text, tmp_path, members) == ["completed", "diverged", "completed"]
    assert_same(tmp_path / "plain", alone / "plain")
    assert_same(tmp_path / "seed", alone / "seed")
    found = summary(tmp_path / "wild")
    assert "on_bad_step" in found["error"]
    assert len(list((tmp_path / "wild" / "bad_steps").glob("*.json"))) == 1
    solo(text, tmp_path / "wild alone", "optim.learning_rate=1e30", expect=1)
    assert_same(tmp_path / "wild", tmp_path / "wild alone")


SPIKES = (
    *("train.spike_factor=1.2", "train.on_bad_step=rollback", "train.max_bad_steps=100"),
    *("model.num_layers=2", "model.dropout=0"),
)
SPIKY = {"calm": ("optim.learning_rate=1e-5",), "spiky": ("optim.learning_rate=0.02",)}


def test_one_member_goes_back_while_the_others_wait(text, tmp_path, one_device):
    """Rollback returns to a checkpoint; everybody ends as alone."""
    assert population(text, tmp_path, SPIKY, *SPIKES) == ["completed"] * 2
    assert list((tmp_path / "spiky" / "bad_steps").glob("*.json"))
    for name, overrides in SPIKY.items():
        solo(text, tmp_path / "alone" / name, *SPIKES, *overrides)
        assert_same(tmp_path / name, tmp_path / "alone" / name)


def test_a_member_that_cannot_go_back_fails_alone(text, tmp_path, one_device, monkeypatch, capsys):
    def restore(self, member, step):
        raise OSError("the disk is gone")

    monkeypatch.setattr(Training, "_restore", restore)
    statuses = population(text, tmp_path, SPIKY, *SPIKES, "track.progress=lines")
    assert statuses == ["completed", "failed"]
    assert "the disk is gone" in capsys.readouterr().out


def test_without_held_out_data_runs_end_at_their_last_step(text, tmp_path, one_device):
    settings = ("data.eval_fraction=0", "eval.every=0", "train.steps=6")
    assert population(text, tmp_path, MEMBERS, *settings) == ["completed"] * 3
    solo(text, tmp_path / "alone", *settings)
    for name in (*MEMBERS, "alone"):
        assert summary(tmp_path / name)["eval"] == {}
        assert [json.loads(line)["step"] for line in stream(tmp_path / name)] == [1, 2, 3, 4, 5, 6]
    assert_same(tmp_path / "plain", tmp_path / "alone")


def test_stopped_and_resumed_together_or_alone(text, alone, tmp_path, one_device):
    with StopRequest() as stop:

        def watch(step: int, values: dict[int, dict[str, float]]) -> set[int]:
            stop.reason = "test"
            return set()

        statuses = population(text, tmp_path, MEMBERS, stop=stop, watch=watch)
    assert statuses == ["preempted"] * 3
    assert {summary(tmp_path / name)["step"] for name in MEMBERS} == {20}
    # As after a kill between two members' saves: this one goes on from its checkpoint before.
    shutil.rmtree(tmp_path / "seed" / "checkpoints" / "00000020")
    solo(text, tmp_path / "rate", *MEMBERS["rate"])
    assert population(text, tmp_path, MEMBERS) == ["completed"] * 3
    for name in MEMBERS:
        assert_same(tmp_path / name, alone / name)
    # A run that was stopped alone goes on in a population.
    shutil.copytree(alone / "plain", tmp_path / "left")
    for file in ("summary.json", "checkpoints/00000040"):
        path = tmp_path / "left" / file
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    members = {"left": (), "new": ("seed=7",), "plain": ()}
    assert population(text, tmp_path, members) == ["completed"] * 3
    assert_same(tmp_path / "left", alone / "plain")


def test_a_member_is_pruned(text, alone, tmp_path, one_device):
    seen = []

    def watch(step: int, values: dict[int, dict[str, float]]) -> set[int]:
        seen.append((step, [member for member, one in values.items() if one["eval/loss"] > 0]))
        return {1}

    members = {"plain": (), "pruned": ("seed=1",), "rate": MEMBERS["rate"]}
    ends = ["completed", "pruned", "completed"]
    assert population(text, tmp_path, members, watch=watch) == ends
    assert seen == [(20, [0, 1, 2])]
    assert summary(tmp_path / "pruned")["step"] == 20
    assert_same(tmp_path / "plain", alone / "plain")
    assert population(text, tmp_path, members) == ends, "all are final"


def test_members_stop_early_one_by_one(text, tmp_path, one_device):
    early = ("eval.every=5", "eval.patience=1", "eval.min_delta=0.1")
    rates = {"slow": 1e-6, "seed": 0.001, "fast": 0.01}
    members = {name: (f"optim.learning_rate={rate}",) for name, rate in rates.items()}
    members["seed"] += ("seed=1",)
    assert population(text, tmp_path, members, *early) == ["completed"] * 3
    assert summary(tmp_path / "slow")["step"] == 10
    assert summary(tmp_path / "fast")["step"] > 10
    # Killed between the stop and the summary, it does not go on.
    before = summary(tmp_path / "slow")
    (tmp_path / "slow" / "summary.json").unlink()
    assert population(text, tmp_path, members, *early) == ["completed"] * 3
    after = summary(tmp_path / "slow")
    assert (after["step"], after["eval"]) == (before["step"], before["eval"])


def test_a_member_whose_directory_is_taken_fails_alone(text, alone, tmp_path, one_device, capsys):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "config.json").write_text(configs.to_json(load(text, "optim.b2=0.5")))
    (tmp_path / "taken" / "provenance.json").write_text('{"fingerprint": "another"}')
    statuses = population(text, tmp_path, MEMBERS | {"taken": ()}, "track.progress=lines")
    assert statuses == ["completed"] * 3 + ["failed"]
    assert "belongs to another experiment" in capsys.readouterr().out
    assert_same(tmp_path / "plain", alone / "plain")


def test_what_cannot_train_together_is_refused(text, tmp_path):
    with pytest.raises(PopulationError, match=r"model\.model_dim"):
        population(text, tmp_path, {"a": (), "b": ("model.model_dim=64",)})
    with pytest.raises(PopulationError, match="same workdir"):
        run_population([load(text)] * 2, [tmp_path / "a"] * 2)
    assert not (tmp_path / "a").exists()
