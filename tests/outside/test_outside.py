"""Ten families of a user's own package, and shipped ones: every one does what all do.

Trained, killed and resumed, evaluated, replayed, accumulated, sharded, planned, and as populations.
"""

import dataclasses
import json
import pathlib
import sys

import jax
import numpy as np
import pytest
from helpers import quick
from run_helpers import cut_back, stream, summary

from scaling import configs, data, parallel
from scaling.configs import ConfigError
from scaling.experiment import EvaluationEntry
from scaling.main import main
from scaling.tasks.base import Context, build_task
from scaling.train import data_record, evaluations
from scaling.train.population import run_population
from scaling.train.program import build_program
from scaling.train.reopen import open_run

HERE = pathlib.Path(__file__).parent
CONFIGS = HERE / "configs.py"
FAMILIES = ("gan", "mlm", "s2s", "moe", "gru", "ctc", "mf", "aug", "lora", "own")
FAMILIES += ("dcgan", "rating", "speech", "contrastive")
# Through the same seams as these.
ALIKE = ("vit", "mixed", "resnet", "unet", "sasrec", "two_tower", "conformer")
ALIKE += ("kim", "encoder", "attacked", "tagger", "tagger_encoder")
EVERY = FAMILIES + ALIKE


def lean(*kept: str) -> pytest.MarkDecorator:
    """Every family by --slow; by default these, which between them pass every seam of the test."""
    return pytest.mark.parametrize("family", quick(EVERY, *kept))


@pytest.fixture(scope="module", autouse=True)
def myx():
    sys.path.insert(0, str(HERE))
    yield
    sys.path.remove(str(HERE))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{family: run directory} of finished runs, made when asked for."""
    folder, made = tmp_path_factory.mktemp("outside"), {}

    def get(family: str) -> pathlib.Path:
        if family not in made:
            made[family] = folder / family
            more = ()
            if family == "lora":
                rules = r"(('^(.*)$','frozen:\\1'),)"
                more = (f"--config.train.init_from={get('base')}",)
                more += (f"--config.train.init_from_map={rules}",)
            launch(family, made[family], *more)
        return made[family]

    return get


def launch(family: str, workdir: pathlib.Path, *flags: str, expect: int = 0) -> None:
    assert main([f"--config={CONFIGS}:{family}", f"--workdir={workdir}", *flags]) == expect


def losses(workdir: pathlib.Path) -> list[float]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line["train/loss"] for line in lines if "train/loss" in line]


def resolved(family: str, *overrides: str):
    return configs.load_resolved(f"{CONFIGS}:{family}", ["mesh.data=1", *overrides])


@lean("gan", "speech")
def test_dry_run_builds_it(family, capsys):
    assert main([f"--config={CONFIGS}:{family}", "--dry_run"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == family


@lean(*FAMILIES)
def test_a_run_taken_up_again_is_the_same_run(family, runs, tmp_path):
    whole = runs(family)
    if family == "lora":
        pytest.skip("starts from another run: its fingerprint holds that run's path")
    cut_back(whole, tmp_path / "killed", saved=4, reached=6)
    launch(family, tmp_path / "killed")
    assert stream(tmp_path / "killed") == stream(whole)


@lean(*FAMILIES)
def test_a_run_counts_its_costs(family, runs):
    costs = summary(runs(family))
    assert costs["params"]["total"] > 0
    assert costs["flops"]["six_nd"] > 0
    assert costs["flops"]["exact"] > 0 or family == "mf", "it has no matrix products"


@lean("gan", "mlm", "s2s", "gru", "mf", "lora", "own", "rating", "speech", "attacked")
def test_evaluating_its_checkpoint_gives_what_the_run_said(family, runs, capsys):
    assert main([f"--evaluate={runs(family)}"]) == 0
    found, said = json.loads(capsys.readouterr().out), summary(runs(family))
    for name, values in {"eval": said["eval"], **said.get("evals", {})}.items():
        assert found[name] == values, name


@lean("gan", "moe", "gru", "lora", "own")
def test_replaying_a_step_gives_its_metrics(family, runs, capsys):
    assert main([f"--replay={runs(family)}", "--step=6"]) == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    loss = next(float(words[1]) for words in shown if words[:1] == ["loss"])
    assert loss == losses(runs(family))[5]


# Whose loss is a sum over rows without random draws: any split of a batch gives the same.
ROWWISE = ("s2s", "gru", "ctc", "mf", "own", "resnet", "vit", "speech", "conformer")
ROWWISE += ("contrastive", "tagger", "tagger_encoder")


@pytest.mark.slow
@pytest.mark.parametrize("family", EVERY)
def test_microbatches(family, runs, tmp_path):
    for count in (2, 4):
        # A loss over the whole batch is cut inside of the task.
        key = "task.pieces" if family == "contrastive" else "train.accumulate"
        launch(family, tmp_path / str(count), f"--config.{key}={count}")
        if family in ROWWISE:
            np.testing.assert_allclose(
                losses(tmp_path / str(count)), losses(runs(family)), rtol=1e-4
            )


@pytest.mark.slow
@pytest.mark.parametrize("family", EVERY)
def test_with_parameters_split_over_devices_it_is_the_same_run(family, runs, tmp_path):
    split = ("--config.mesh.data=1", "--config.mesh.fsdp=8")
    # Dimensions of 2 or 4 do not divide by 8: the user says that they may stay whole.
    launch(family, tmp_path / "fsdp", *split, "--config.mesh.allow_replicated=('*',)")
    if family == "lora":
        return  # its base is another run
    np.testing.assert_allclose(losses(tmp_path / "fsdp"), losses(runs(family)), rtol=2e-3)


@lean("gan", "moe", "gru", "lora", "own", "speech")
def test_it_lowers_for_a_plan_and_its_costs_are_counted(family):
    config = resolved(family)
    mesh = parallel.make_mesh(config.mesh, jax.devices()[:1])
    program = build_program(config, data.describe(config), mesh)
    assert program.lower_step().cost_analysis()["flops"] > 0
    assert program.task.params.total > 0
    assert program.task.flops.six_nd > 0
    assert program.task.flops.exact > 0 or family == "mf", "it has no matrix products"


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["map", "vmap"])
@pytest.mark.parametrize("family", EVERY)
def test_a_population_of_two(family, mode, runs, tmp_path):
    name = "learning_rate" if family != "lora" else "weight_decay"
    members = [resolved(family), resolved(family, f"optim.{name}=0.02")]
    statuses = run_population(members, [tmp_path / "a", tmp_path / "b"], mode=mode)
    assert statuses == ["completed", "completed"]
    if family != "lora" and mode == "map":
        np.testing.assert_allclose(losses(tmp_path / "a"), losses(runs(family)), rtol=2e-3)
    assert losses(tmp_path / "a") != losses(tmp_path / "b")
    assert set(summary(tmp_path / "a")["eval"]) == set(summary(runs(family))["eval"])


# --- what each family is there to show --------------------------------------------------------


def test_two_optimizers_with_schedules_of_their_own(runs):
    lines = [json.loads(x) for x in (runs("gan") / "metrics.jsonl").read_text().splitlines()]
    train = [line for line in lines if "train/loss" in line]
    assert train[0]["optim/learning_rate"] == pytest.approx(1e-2)
    assert [line["optim/learning_rate/discriminator"] for line in train[:2]] == pytest.approx(
        [1e-3, 2e-3]
    )
    assert train[0]["train/grad_norm"] == pytest.approx(
        np.hypot(train[0]["train/grad_norm/discriminator"], generator_norm(train[0])), rel=1e-5
    )


def generator_norm(line: dict) -> float:
    return np.sqrt(line["train/grad_norm"] ** 2 - line["train/grad_norm/discriminator"] ** 2)


def test_masks_of_an_evaluation_differ_from_batch_to_batch(runs):
    from scaling.train.evaluate import batch_key

    assert not np.array_equal(batch_key(0, "eval", 0), batch_key(0, "eval", 1))
    assert not np.array_equal(batch_key(0, "eval", 0), batch_key(1, "eval", 0))
    assert 0.1 < summary(runs("mlm"))["eval"]["masked"] < 0.2


def test_decoding_is_an_evaluation_with_samples(runs):
    greedy = summary(runs("s2s"))["evals"]["greedy"]
    assert greedy["pairs"] == 100  # the padding of the last batch is left out
    assert 0 <= greedy["bleu"] <= 100
    kept = json.loads((runs("s2s") / "evaluations" / "greedy" / "00000008.json").read_text())
    assert kept["samples"] == greedy["samples"]
    assert "error_rate" in summary(runs("ctc"))["evals"]["decode"]
    assert set(summary(runs("mf"))["evals"]["rank"]) == {"hit10", "ndcg10"}


def test_sown_losses_and_vectors_of_a_mixture_of_experts(runs):
    lines = [json.loads(x) for x in (runs("moe") / "metrics.jsonl").read_text().splitlines()]
    load = np.array(lines[0]["train/load"])  # [layers, experts]
    assert load.shape == (2, 4)
    np.testing.assert_allclose(load.sum(-1), 1.0, rtol=1e-5)
    _, state = open_run(runs("moe")).checkpoint()
    router = state.params["layers"]["mlp"]["router"]
    assert float(np.abs(router).sum()) > 0


def test_a_carry_that_is_kept_lowers_the_loss(tmp_path):
    """Without it the past of a lane is lost."""
    longer = ("--config.train.steps=120", "--config.eval.every=0", "--config.checkpoint.every=0")
    launch("gru", tmp_path / "kept", *longer)
    launch("gru", tmp_path / "lost", *longer, "--config.task.keep_carry=False")
    assert summary(tmp_path / "kept")["eval"]["loss"] < summary(tmp_path / "lost")["eval"]["loss"]


def test_augmentation_on_the_host_is_a_function_of_the_position():
    built = data.build(resolved("aug"))
    first = built.train.batch(0, 0, 32)["images"]
    np.testing.assert_array_equal(first, built.train.batch(0, 0, 32)["images"])
    np.testing.assert_array_equal(first[4:8], built.train.batch(0, 4, 8)["images"])
    epoch = len(built.train._dataset) // 32
    order = built.train.indices(epoch)
    again = {int(i): x for i, x in zip(built.train.indices(0), first, strict=True)}
    repeated = [
        (x, again[int(i)])
        for i, x in zip(order, built.train.batch(epoch, 0, 32)["images"], strict=True)
        if int(i) in again
    ]
    assert all((a != b).any() for a, b in repeated)


@pytest.fixture(scope="module")
def judge(tmp_path_factory) -> pathlib.Path:
    """The run of a classifier with averaged weights."""
    folder = tmp_path_factory.mktemp("judge") / "run"
    launch("mixed", folder, "--config.train.ema_decay=0.9")
    return folder


@pytest.mark.slow
def test_a_run_is_judged_while_it_trains(judge, tmp_path):
    launch(f"dcgan,{judge}", tmp_path / "judged")
    values = summary(tmp_path / "judged")["evals"]["frechet"]
    assert values["samples"] == 100  # as many as are held out; the padding of a batch is left out
    assert values["distance"] > values["halves"] > 0
    assert sum(values["classes"].values()) == pytest.approx(1)
    folder = tmp_path / "judged" / "evaluations" / "frechet"
    assert (folder / values["sheet"]).read_bytes()[1:4] == b"PNG"


def test_a_judge_looks_through_the_averaged_weights_of_its_run(runs, judge):
    run = open_run(runs("dcgan"))
    task, variables = run.program.task, run.variables()
    options = {"classifier": str(judge)}
    evaluation = evaluations.named(task, EvaluationEntry("frechet", options), "frechet")
    batch = data.build(resolved("dcgan")).evals["eval"].batch(0, 4, 0, 4)
    context = Context(jax.random.key(0), np.int32(0), False)
    rows, _ = jax.jit(lambda b: evaluation.run(variables, b, context, None))(batch)
    opened = open_run(judge)
    features = opened.program.task.functions["features"]
    expected = features(opened.variables(), batch, context)
    np.testing.assert_allclose(rows["real"], expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(expected, features(opened.checkpoint()[1].variables(), batch, context))
    expected = features(opened.variables(), {**batch, "images": rows["images"]}, context)
    np.testing.assert_allclose(rows["generated"], expected, rtol=1e-4, atol=1e-5)


def test_what_cannot_judge_is_named(tmp_path):
    def task(family):
        config = resolved(family)
        return build_task(config, data.describe(config), "cpu")

    def recorded(family, **facts):
        """A run directory without a checkpoint."""
        folder = tmp_path / "-".join([family, *facts])
        folder.mkdir()
        config = resolved(family)
        built = data.build(config)
        built = dataclasses.replace(built, info=dataclasses.replace(built.info, **facts))
        (folder / "config.json").write_text(configs.to_json(config))
        (folder / "data.json").write_text(data_record.to_text(built))
        return folder

    def refused(classifier, message, task):
        options = {"classifier": str(classifier)} if classifier else {}
        with pytest.raises(ConfigError, match=message):
            evaluations.named(task, EvaluationEntry("frechet", options), "judge")

    key, makes = r"eval\.also\.judge\.options\.classifier: ", task("dcgan")
    refused("", key + "is not set", makes)
    refused(tmp_path, key + ".* is not a run directory", makes)
    refused("gs://runs/one", key + ".* is a URL", makes)
    refused(recorded("unet"), key + ".* is a run of task diffusion", makes)
    refused(recorded("mixed"), key + ".*checkpoint", makes)
    refused(recorded("headless"), key + ".*its layer `head` reads, and it has none", makes)
    other = recorded("mixed", image_shape=(9, 9, 1))
    refused(other, key + r".* examples of \(9, 9, 1\), and these are \(8, 8, 1\)", makes)
    refused(other, r"eval\.also\.judge\.evaluation: .* makes images", task("mixed"))


def test_frozen_parameters_stay_and_are_not_differentiated(runs):
    _, base = open_run(runs("base")).checkpoint()
    run = open_run(runs("lora"))
    _, tuned = run.checkpoint()
    jax.tree.map(np.testing.assert_array_equal, tuned.frozen, base.params)
    moments = {x.shape for x in jax.tree.leaves(tuned.opt_state)}
    assert (32, 64) not in {shape[-2:] for shape in moments}, "moments of a frozen matrix"
    assert any(float(np.abs(x).max()) > 0 for x in jax.tree.leaves(tuned.params) if x.ndim == 3)


def test_a_run_is_opened_without_corpus_and_cache(runs, tmp_path, monkeypatch, capsys):
    import shutil

    copy = tmp_path / "copied"
    shutil.copytree(runs("own"), copy)
    monkeypatch.setenv("SCALING_CACHE", str(tmp_path / "empty"))
    batch = data.build(resolved("own")).train.batch(0, 0, 4)
    monkeypatch.setattr(data, "build", lambda config: pytest.fail("the corpus was asked for"))

    def logits(path):
        run = open_run(path)
        context = Context(jax.random.key(0), np.int32(0), False)
        return np.asarray(run.program.task.functions["logits"](run.variables(), batch, context))

    np.testing.assert_array_equal(logits(copy), logits(runs("own")))
    tokenizer = open_run(copy).artefacts["tokenizer"]
    assert tokenizer.decode(tokenizer.encode(["la la"])[0]) == "la la"
