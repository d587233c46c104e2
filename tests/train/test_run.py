"""Whole runs through the front door, in this process: policies, early ends, second launches."""

import json
import pathlib
from functools import partial

import jax
import pytest
from run_helpers import TINY, command, corpus, environment, run, stream, summary

from scaling import configs
from scaling.main import main
from scaling.train.record import digest

# A large learning rate makes the gradient norm jump, so that some steps count as spikes.
SPIKY = ("train.spike_factor=1.2", "optim.learning_rate=0.02")


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> pathlib.Path:
    return corpus(tmp_path_factory.mktemp("run"))


def launch(text: pathlib.Path, workdir: pathlib.Path, *overrides: str, expect: int = 0) -> None:
    changed = {one.partition("=")[0] for one in overrides}
    short = ("train.steps=40", "eval.every=20", "track.progress=off", "model.dropout=0")
    kept = [one for one in short if one.partition("=")[0] not in changed]
    flags = [f"--config.{one}" for one in (*kept, *overrides)]
    assert main([f"--config={TINY}:{text}", f"--workdir={workdir}", *flags]) == expect


@pytest.fixture(scope="module")
def plain(text, tmp_path_factory) -> pathlib.Path:
    workdir = tmp_path_factory.mktemp("plain") / "run"
    launch(text, workdir)
    return workdir


def test_summary_has_every_contracted_field(plain):
    found = summary(plain)
    assert found["status"] == "completed"
    assert found["step"] == 40
    assert found["tokens"] == 40 * 8 * 16
    assert {"total", "non_embedding", "active"} <= found["params"].keys()
    assert found["flops"]["six_nd"] == 6 * found["params"]["total"] * found["tokens"]
    assert found["flops"]["exact"] > 0
    assert {"loss", "perplexity", "bits_per_byte", "accuracy"} <= found["eval"].keys()
    assert {"compile", "train", "eval", "checkpoint", "data_wait"} <= found["seconds"].keys()
    assert found["run_id"]
    assert found["seed"] == 0
    assert 0 < found["goodput"] < 1


def test_stream_has_the_documented_keys(plain):
    lines = [json.loads(line) for line in (plain / "metrics.jsonl").read_text().splitlines()]
    train = [line for line in lines if "train/loss" in line]
    assert [line["step"] for line in train] == list(range(1, 41))
    keys = {"train/grad_norm", "optim/learning_rate", "perf/tokens_per_second", "perf/mfu"}
    assert keys | {"perf/data_wait_fraction", "perf/host_memory_bytes"} <= train[-1].keys()
    assert train[-1]["perf/mfu"] is None  # the peak of this processor is not known
    assert [line["step"] for line in lines if "eval/loss" in line] == [20, 40]
    saved = configs.from_json((plain / "config.json").read_text())
    assert saved.optim.b2 == 0.95, "defaults must be written out"


def test_a_second_launch_reports_and_changes_nothing(text, plain, capsys):
    before = {p: p.stat().st_mtime_ns for p in plain.rglob("metrics.jsonl")}
    launch(text, plain, "track.progress=lines")
    assert "already completed" in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in plain.rglob("metrics.jsonl")}


def test_an_identical_launch_compiles_the_step_zero_times(text, plain, tmp_path, capsys):
    launch(text, tmp_path / "again", "track.progress=lines")
    assert "(from the cache)" in capsys.readouterr().out
    assert stream(tmp_path / "again") == stream(plain)


def test_evaluating_a_checkpoint_alone_gives_what_the_run_said(plain, capsys):
    assert main([f"--evaluate={plain}"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["step"] == 40
    assert found["eval"] == summary(plain)["eval"]
    assert main([f"--evaluate={plain}", "--step=39"]) == 1
    assert "[30, 40]" in capsys.readouterr().err


def test_another_config_in_the_same_directory_is_refused(text, plain, capsys):
    launch(text, plain, "optim.learning_rate=0.5", expect=1)
    told = capsys.readouterr().err
    assert "optim.learning_rate" in told
    assert "Traceback" not in told


def test_more_steps_are_another_experiment_but_the_cadence_is_not(text, plain):
    launch(text, plain, "checkpoint.every=5")
    launch(text, plain, "train.steps=50", expect=1)


def test_early_stopping_ends_the_run_as_completed(text, plain, tmp_path):
    workdir = tmp_path / "early"
    early = ("eval.every=5", "eval.patience=2", "eval.min_delta=10", "train.steps=400")
    launch(text, workdir, *early)
    assert summary(workdir)["status"] == "completed"
    assert summary(workdir)["step"] == 15
    # On the way an evaluation reads 2 batches; what the run ends with is of the whole split.
    assert summary(workdir)["eval"]["tokens"] == summary(plain)["eval"]["tokens"] > 8 * 16 * 2
    launch(text, workdir, *early)  # a second launch reports, it does not go on
    whole, lines = summary(workdir), stream(workdir)
    assert whole["step"] == 15
    # All that a kill between the stop and the summary leaves undone.
    (workdir / "summary.json").unlink()
    launch(text, workdir, *early)
    again = summary(workdir)
    assert [again[key] for key in ("status", "step", "eval")] == [
        whole[key] for key in ("status", "step", "eval")
    ]
    assert stream(workdir) == lines


def test_the_last_evaluation_takes_as_many_tokens_as_asked_for(text, plain, tmp_path, capsys):
    workdir, whole = tmp_path / "part", summary(plain)["eval"]
    launch(text, workdir, "eval.final_units=257")  # a batch is of 8 x 16
    part = summary(workdir)["eval"]
    assert 256 < part["tokens"] <= 384 < whole["tokens"]
    assert part["loss_standard_error"] > whole["loss_standard_error"] > 0
    assert f"(standard error {part['loss_standard_error']:.4f})" in digest(summary(workdir))
    assert main([f"--evaluate={workdir}"]) == 0
    assert json.loads(capsys.readouterr().out)["eval"]["tokens"] == whole["tokens"]


@pytest.mark.parametrize("use", ["eval.patience=2", "checkpoint.keep_best=2"])
def test_a_stop_metric_that_is_not_there_is_named(text, tmp_path, capsys, use):
    wrong = ("eval.every=5", "eval.stop_metric=eval/los", use)
    launch(text, tmp_path / "typo", *wrong, expect=1)
    told = capsys.readouterr().err
    assert "eval.stop_metric='eval/los' is not evaluated; give one of eval/loss" in told
    assert "Traceback" not in told


def test_only_what_was_measured_on_its_parameters_ranks_a_checkpoint(plain):
    saved = {
        step: json.loads((plain / "checkpoints" / f"{step:08d}" / "metrics.json").read_text())
        for step in (30, 40)
    }
    assert "eval/loss" not in saved[30]  # evaluated at 20 and 40
    assert saved[40]["eval/loss"] == summary(plain)["eval"]["loss"]


def test_a_run_from_another_has_an_average_of_its_own(text, plain, tmp_path):
    launch(text, tmp_path / "from", f"train.init_from={plain}", "train.steps=6", "eval.every=0")
    assert summary(tmp_path / "from")["step"] == 6


def test_a_run_that_does_not_fit_is_refused_before_anything_is_compiled(
    text, plain, tmp_path, capsys, monkeypatch
):
    def compiles(*_):
        raise AssertionError("compiled")

    monkeypatch.setattr("scaling.train.run.compile_sharded", compiles)
    wider = (f"train.init_from={plain}", "model.model_dim=24")
    launch(text, tmp_path / "from", *wider, expect=1)
    assert "train.init_from: shapes differ" in capsys.readouterr().err


def test_bad_steps_stop_the_run(text, tmp_path, capsys):
    workdir = tmp_path / "stop"
    launch(text, workdir, *SPIKY, "track.progress=lines", expect=1)
    assert summary(workdir)["status"] == "diverged"
    told = capsys.readouterr().out
    assert "start again in another --workdir with --config.train.on_bad_step=skip" in told
    assert len(list((workdir / "bad_steps").glob("*.json"))) == 1
    launch(text, tmp_path / "zero", *SPIKY, "train.diverged_exit=0")


def test_bad_steps_are_skipped_and_can_be_replayed(text, tmp_path, capsys):
    workdir = tmp_path / "skip"
    launch(text, workdir, *SPIKY, "train.on_bad_step=skip", "train.max_bad_steps=100")
    records = [json.loads(p.read_text()) for p in sorted((workdir / "bad_steps").glob("*.json"))]
    assert records
    assert len(records[0]["example_ids"]) == 8
    assert summary(workdir)["status"] == "completed"
    step = records[0]["step"]
    assert main([f"--replay={workdir}", f"--step={step}"]) == 0
    told = capsys.readouterr().out
    assert "reproduces the recorded bad step" in told
    assert "params" not in told
    assert "embedding" in told


def test_rollback_leaves_the_bad_batches_out_and_is_deterministic(text, tmp_path):
    flags = (*SPIKY, "train.on_bad_step=rollback", "train.max_bad_steps=100")
    for name in ("a", "b"):
        launch(text, tmp_path / name, *flags)
    lines = [json.loads(line) for line in stream(tmp_path / "a")]
    out = {json.loads(p.read_text())["step"] for p in (tmp_path / "a" / "bad_steps").glob("*")}
    assert out
    assert out.isdisjoint({line["step"] for line in lines if "train/loss" in line})
    assert not any("train/bad" in line for line in lines), "their lines are superseded"
    assert stream(tmp_path / "a") == stream(tmp_path / "b")
    assert summary(tmp_path / "a")["status"] == "completed"


def test_too_many_bad_steps_end_it_under_any_policy(text, tmp_path):
    flags = (*SPIKY, "train.on_bad_step=skip", "train.max_bad_steps=0")
    launch(text, tmp_path / "many", *flags, expect=1)
    assert summary(tmp_path / "many")["status"] == "diverged"


def test_data_that_ends_ends_the_run(text, plain, tmp_path):
    launch(text, tmp_path / "end", "data.on_end=stop", "data.limit=1000", "train.steps=100")
    found = summary(tmp_path / "end")
    assert found["step"] == 8  # 62 windows, 8 a step: the last batch is padded with two
    assert found["tokens"] == found["units"] == 62 * 16
    per_token = summary(plain)["flops"]["exact"] / summary(plain)["tokens"]
    assert found["flops"]["exact"] == per_token * 62 * 16
    last = json.loads(stream(tmp_path / "end")[-2])
    assert (last["data/epoch"], last["data/tokens"]) == (1.0, 62 * 16)
    launch(text, tmp_path / "end", "data.on_end=stop", "data.limit=1000", "train.steps=100")


@pytest.mark.parametrize(
    ("overrides", "words", "code"),
    [
        (("platform=tpu",), "platform=tpu", 1),
        (("data.source.paths=('/no/such/file.txt',)",), "/no/such/file.txt", 1),
        (("train.batch_size=12",), "batch", 2),
        (("task=classification",), "data.source: gives text, but task.name=classification", 2),
        (("model=cnn",), "model", 2),
        (("model.vocab_size=40",), "model.vocab_size: 40 is less than the 257 of the data", 2),
    ],
    ids=str,
)
def test_what_cannot_run_says_why_without_a_traceback(
    text, tmp_path, capsys, overrides, words, code
):
    launch(text, tmp_path / "bad", *overrides, expect=code)
    told = capsys.readouterr()
    assert words in told.err + told.out
    assert "Traceback" not in told.err
    assert not (tmp_path / "bad" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("setting", "variable"),
    [
        (jax.disable_jit, "JAX_DISABLE_JIT"),
        (partial(jax.numpy_dtype_promotion, "strict"), "JAX_NUMPY_DTYPE_PROMOTION"),
    ],
)
def test_settings_of_jax_that_no_run_works_under_are_named(
    text, tmp_path, capsys, setting, variable
):
    with setting():
        launch(text, tmp_path / "bad", expect=2)
    assert f"{variable}: " in capsys.readouterr().err


def test_a_platform_that_is_unknown_is_named(text, tmp_path):
    told = run(command(text, tmp_path / "bad"), environment(JAX_PLATFORMS="nonsense"), expect=1)
    assert "JAX_PLATFORMS" in told
    assert "Traceback" not in told
