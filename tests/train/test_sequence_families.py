"""Runs of recurrent models, mixtures of experts and translation: resumed, cut, sharded, evaluated."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from data_helpers import some_texts, write_documents
from run_helpers import cut_back, stream, summary

from scaling import configs, data, parallel
from scaling.main import main
from scaling.ops.cross_entropy import cross_entropy
from scaling.tasks.base import Context, build_task
from scaling.train.evaluate import Scheduled, collect, first_carry
from scaling.train.population import run_population
from scaling.train.reopen import open_run

CONFIGS = pathlib.Path(__file__).with_name("sequence.py")
FAMILIES = ("gru", "moe", "translation")
# They share every seam with these two.
LATER = [
    pytest.param(family, marks=pytest.mark.slow) for family in ("lstm", "masked", "translation")
]
# Two heads do not divide by four.
EXPERTS = "(('experts','tensor'),('heads',None),('kv_heads',None))"


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("text")
    words = [text.partition(":")[2].strip() for text in some_texts(200, size=14)]
    pairs = ["source,target", *(f"{word},{word[::-1][:9]}" for word in words if word)]
    (folder / "pairs.csv").write_text("\n".join(pairs), encoding="utf-8")
    return write_documents(folder / "text.jsonl", some_texts(150, size=40))


@pytest.fixture(scope="module")
def runs(tmp_path_factory, text):
    """{family: run directory} of finished runs on eight devices, made when asked for."""
    folder, made = tmp_path_factory.mktemp("sequence"), {}

    def get(family: str) -> pathlib.Path:
        if family not in made:
            made[family] = folder / family
            launch(family, text, made[family])
        return made[family]

    return get


def launch(family: str, text: pathlib.Path, workdir: pathlib.Path, *flags: str) -> None:
    flags = tuple(f"--config.{flag}" for flag in flags)
    assert main([f"--config={spec(family, text)}", f"--workdir={workdir}", *flags]) == 0


def spec(family: str, text: pathlib.Path) -> str:
    path = text.with_name("pairs.csv") if family == "translation" else text
    return f"{CONFIGS}:{family},{path}"


def resolved(family: str, text: pathlib.Path, *overrides: str):
    return configs.load_resolved(spec(family, text), ["mesh.data=1", *overrides])


def lines(workdir: pathlib.Path) -> list[dict]:
    read = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in read if "train/loss" in line]


def losses(workdir: pathlib.Path) -> list[float]:
    return [line["train/loss"] for line in lines(workdir)]


def translations(workdir: pathlib.Path) -> list[dict]:
    path = workdir / "evaluations" / "translate" / "00000008.json"
    return json.loads(path.read_text("utf-8"))["texts"]


@pytest.mark.parametrize("family", ["gru", "moe", *LATER])
def test_a_run_taken_up_again_is_the_same_run(family, text, runs, tmp_path):
    cut_back(runs(family), tmp_path / "killed", saved=4, reached=6)
    launch(family, text, tmp_path / "killed")
    assert stream(tmp_path / "killed") == stream(runs(family))


@pytest.mark.parametrize("family", FAMILIES)
def test_evaluating_its_checkpoint_gives_what_the_run_said(family, runs, capsys):
    assert main([f"--evaluate={runs(family)}"]) == 0
    assert json.loads(capsys.readouterr().out)["eval"] == summary(runs(family))["eval"]


@pytest.mark.parametrize(
    ("family", "count"),
    [
        ("gru", 2),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("gru", 4), ("moe", 2), ("moe", 4), ("translation", 2))
        ),
    ],
)
def test_microbatches(family, count, text, runs, tmp_path):
    launch(family, text, tmp_path / "cut", f"train.accumulate={count}")
    np.testing.assert_allclose(losses(tmp_path / "cut"), losses(runs(family)), rtol=2e-4)
    states = [open_run(run).checkpoint()[1].model_state for run in (tmp_path / "cut", runs(family))]
    assert jax.tree.leaves(states[0]) or family == "translation", "neither a carry nor a bias"
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3), *states)


@pytest.mark.parametrize(
    ("family", "mesh"),
    [
        ("gru", ("mesh.data=1", "mesh.fsdp=8")),
        ("moe", ("mesh.data=2", "mesh.tensor=4", f"mesh.rules={EXPERTS}")),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("moe", ("mesh.data=1", "mesh.fsdp=8")),
                ("moe", ("mesh.data=4", "mesh.tensor=2")),
                ("translation", ("mesh.data=2", "mesh.fsdp=2", "mesh.tensor=2")),
            )
        ),
    ],
)
def test_another_mesh_is_the_same_run(family, mesh, text, runs, tmp_path):
    launch(family, text, tmp_path / "other", *mesh)
    np.testing.assert_allclose(losses(tmp_path / "other"), losses(runs(family)), rtol=5e-4)
    if family == "translation":
        written = [translations(run) for run in (tmp_path / "other", runs(family))]
        assert written[0] == written[1]


@pytest.mark.slow
@pytest.mark.parametrize("family", [*FAMILIES, "masked"])
def test_one_device_is_the_same_run(family, text, runs, tmp_path, monkeypatch):
    whole = parallel.make_mesh
    alone = lambda config, devices=None: whole(config, jax.devices()[:1])  # noqa: E731
    monkeypatch.setattr(parallel, "make_mesh", alone)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    launch(family, text, tmp_path / "alone")
    np.testing.assert_allclose(losses(tmp_path / "alone"), losses(runs(family)), rtol=5e-4)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["map", "vmap"])
@pytest.mark.parametrize("family", [*FAMILIES, "masked"])
def test_a_population_of_two(family, mode, text, runs, tmp_path):
    members = [resolved(family, text), resolved(family, text, "optim.learning_rate=0.02")]
    statuses = run_population(members, [tmp_path / "a", tmp_path / "b"], mode=mode)
    assert statuses == ["completed", "completed"]
    np.testing.assert_allclose(losses(tmp_path / "a"), losses(runs(family)), rtol=2e-3)
    assert losses(tmp_path / "a") != losses(tmp_path / "b")


def test_an_evaluation_reads_each_lane_from_its_beginning_to_its_end(text, tmp_path):
    config = resolved("gru", text)
    built = data.build(config, tmp_path)
    task = build_task(config, built.info, "cpu")
    split, rows = built.evals["eval"], 16
    variables = jax.jit(task.init)(jax.random.key(0))
    variables = jax.tree.map(
        lambda x: x.value if hasattr(x, "value") else x,
        variables,
        is_leaf=lambda x: hasattr(x, "value"),
    )
    job = Scheduled("eval", task.evaluations["score"], split, 0, None, None, rows)
    context = Context(jax.random.key(0), jnp.int32(0), False)
    run = jax.jit(lambda batch, carry: job.evaluation.run(variables, batch, context, carry))
    batches = [split.batch(i, rows, 0, rows) for i in range(split.num_batches(rows))]
    (totals,) = collect(job, True, lambda i, carry: run(batches[i], carry), first_carry(job))
    # The same in one long window a lane, with the documents numbered through it.
    long = {key: np.concatenate([b[key] for b in batches], axis=1) for key in batches[0]}
    long["segments"] = np.cumsum(long["inputs"] == built.info.separator, axis=1)
    logits = task.functions["logits"](variables, long, context)
    nll, _ = cross_entropy(logits, long["targets"])
    np.testing.assert_allclose(totals["loss"][0], np.sum(nll * long["weights"]), rtol=1e-5)
    # Without the carry it is another number.
    forgetful = [run(b, first_carry(job))[0]["loss"][0] for b in batches]
    assert abs(sum(forgetful) - totals["loss"][0]) > 1e-3


def test_a_state_goes_on_in_training_and_stands_for_the_rows_of_the_batch(runs):
    _, state = open_run(runs("gru")).checkpoint()
    carry = jax.tree.leaves(state.model_state["carry"])
    assert [x.shape for x in carry] == [(32, 16)] * 2
    assert all(np.abs(x).max() > 0 for x in carry)


def test_text_is_sampled_from_a_recurrent_model(runs, capsys):
    assert main([f"--sample={runs('gru')}", "--prompt=the", "--tokens=5"]) == 0
    assert capsys.readouterr().out.startswith("the")


def test_the_load_of_every_expert_is_in_the_stream(runs):
    load = np.array(lines(runs("moe"))[-1]["train/load"])
    assert load.shape == (2, 8)  # layers, experts
    np.testing.assert_allclose(load.sum(-1), 1.0, rtol=1e-5)
    counts = summary(runs("moe"))["params"]
    assert counts["total"] - counts["active"] == 2 * 6 * 3 * 16 * 16
