"""The search: what it prunes, the order of its compiles, what it proposes; the proposal runs."""

import json
from typing import Literal

import jax
import numpy as np
import pytest
from helpers import IMAGE_INFO, ROOT, resolved, tiny_images

from scaling import configs, data, parallel, plan
from scaling.parallel.axes import check_devices
from scaling.planning import footprint, search, topology
from scaling.train.program import build_program

GiB = 2**30
V5E = footprint.Rates(197e12, 819e9, 200e9)


def small(**changes):
    base = {
        "name": "small",
        "task": {"name": "language_model"},
        "data": {"source": {"name": "stdlib"}, "tokenizer": {"name": "bytes"}, "seq_len": 16},
        "model": {
            "name": "transformer",
            "num_layers": 2,
            "model_dim": 64,
            "num_heads": 2,
            "vocab_size": 512,
        },
        "optim": {"name": "adamw", "schedule": {"name": "constant"}},
        "train": {"steps": 5, "batch_size": 16},
    }
    return resolved(configs.ConfigDict(base), changes)


def llama_7b():
    return configs.load_resolved(f"{ROOT}/experiments/llama.py:7b", ["train.batch_size=256"])


@pytest.fixture(scope="module")
def traced():
    return footprint.footprint(llama_7b(), topology.parse("v5e-64"))


@pytest.fixture(scope="module")
def of_7b(traced):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "footprint", lambda *_: traced)
        return search.candidates(llama_7b(), topology.parse("v5e-64"), V5E)


def test_every_candidate_divides(of_7b):
    assert len(of_7b) > 100
    for one in of_7b:
        sizes = [one.changes[f"mesh.{axis}"] for axis in ("replica", "data", "fsdp", "tensor")]
        assert np.prod(sizes) == 64
        check_devices(one.config, 64)


@pytest.mark.parametrize(
    ("remat", "peak"), [("none", 36.29), ("dots_attention", 12.54), ("dots", 11.53)]
)
def test_the_bound_is_just_below_what_the_compiler_needs(traced, remat, peak):
    """Peaks of 7B on v5e-256 at 1 x 4096, compiled with libtpu 0.0.42.1, in GiB."""
    mesh = {"replica": 1, "data": 1, "fsdp": 256, "tensor": 1}
    bound = traced.sketch(mesh, 256, 1, remat, V5E).bytes
    assert 0.85 * peak * GiB < bound < peak * GiB


def test_the_state_is_counted_exactly(traced):
    n = 6_738_415_616
    assert traced.params == 4 * n
    assert traced.state == pytest.approx(12 * n, abs=100)  # AdamW: two moments


def test_choices_of_remat_are_those_of_the_model_itself(monkeypatch):
    assert footprint.remat_choices(small())[:2] == ("none", "full")

    class Own:
        def __init__(self, remat: Literal["some", "all"] | None = None) -> None: ...

    config = configs.ConfigDict({"model": {"name": "own:Own"}})
    for parameter, choices in ((Own, ("some", "all")), (lambda width=3: None, (None,))):
        monkeypatch.setattr(configs, "component", lambda *_, own=parameter: own)
        assert footprint.remat_choices(config) == choices


def test_a_model_without_remat_is_searched_too(monkeypatch):
    """Batch norm in groups of 8: tracing must keep to numbers of rows that the model takes."""
    monkeypatch.setattr(data, "describe", lambda _: IMAGE_INFO)
    possible = search.candidates(tiny_images(), topology.parse("cpu-4"), V5E)
    assert all("model.remat" not in one.changes for one in possible)
    bounds = {
        one.changes["train.accumulate"]: one.sketch.bytes
        for one in possible
        if one.changes["mesh.data"] == 4
    }
    assert bounds[1] > bounds[2] > bounds[4]


def test_more_kept_is_more_memory_and_less_time(of_7b):
    def of(remat):
        return next(
            one.sketch
            for one in of_7b
            if one.changes["model.remat"] == remat
            and (one.changes["mesh.fsdp"], one.changes["train.accumulate"]) == (64, 1)
        )

    assert of("full").bytes < of("save_attention").bytes < of("dots").bytes < of("none").bytes
    assert of("full").seconds > of("dots").seconds >= of("dots_attention").seconds


class FakeCompiler:
    """Reports by the sketch: fits below a limit."""

    def __init__(self, limit: float) -> None:
        self.limit, self.asked = limit, []

    def __call__(self, chosen, target, *, jobs, cache, effort="least", changes):
        for one in chosen:
            self.asked.append(one)
            need, seconds = 1.3 * one.sketch.bytes, one.sketch.seconds
            fits = need <= self.limit
            report = {
                "fits": fits,
                "overhead": 1.1,
                "memory": {"peak": need} if fits else None,
                "overflow": None if fits else {"required": need},
                "estimate": {"low": seconds, "high": 2 * seconds} if fits else None,
                "traffic": [],
            }
            yield search.Tried(one, report)


def test_the_search_compiles_the_fastest_first_and_skips_what_cannot_fit(
    monkeypatch, tmp_path, traced
):
    compiler = FakeCompiler(15.75 * GiB)
    monkeypatch.setattr(search, "footprint", lambda *_: traced)
    monkeypatch.setattr(search, "compile_all", compiler)
    said = []
    found = search.search(
        llama_7b(), topology.parse("v5e-64"), changes={}, most=6, cache=tmp_path, say=said.append
    )
    assert found.best is not None
    assert found.best.fits
    assert found.pruned > 0
    assert len(found.tried) <= 6
    assert found.best is min((t for t in found.tried if t.fits), key=lambda t: t.seconds)
    compiler.asked.pop()  # the best again, with full effort
    first = [one.sketch.seconds for one in compiler.asked]
    assert first[0] == min(first)
    assert all(one.sketch.bytes <= 15.75 * GiB for one in compiler.asked)
    assert "cannot fit by the lower bound" in said[0]
    # What did not fit is not tried again with as much kept on the same mesh.
    for i, one in enumerate(compiler.asked):
        for before in compiler.asked[:i]:
            if 1.3 * before.sketch.bytes > compiler.limit:
                assert not one.as_large_as(before)


def searching(folder, *flags):
    path = folder / "small.json"
    path.write_text(configs.to_json(small()))
    return [f"--config={path}", "--search", *flags]


def test_nothing_fits_is_an_answer(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(search, "compile_all", FakeCompiler(0.0))
    monkeypatch.setattr("scaling.planning.plan_jobs.cache_root", lambda: tmp_path)
    assert plan.main(searching(tmp_path, "--topology=cpu-4", "--compiles=2")) == 1
    assert "nothing fits" in capsys.readouterr().out


def test_the_proposal_for_eight_devices_runs(monkeypatch, tmp_path, capsys):
    """Two real compiles in processes of their own; then the best candidate takes a step here."""
    monkeypatch.setattr("scaling.planning.plan_jobs.cache_root", lambda: tmp_path)
    out = tmp_path / "found.json"
    argv = searching(tmp_path, "--topology=cpu-8", "--compiles=2", "--jobs=2", f"--json={out}")
    assert plan.main(argv) == 0
    shown = capsys.readouterr().out
    best = json.loads(out.read_text())["best"]
    assert f"--config.mesh.fsdp={best['mesh.fsdp']}" in shown
    changed = small(**best)
    mesh = parallel.make_mesh(changed.mesh, jax.devices()[:8])
    program = build_program(changed, data.describe(changed), mesh)
    batch = {
        key: jax.device_put(np.ones(x.shape, x.dtype), x.sharding)
        for key, x in program.train_batch.items()
    }
    state, metrics = program.step(program.fresh_state(), batch, program.hparams())
    assert int(state.step) == 1
    assert float(metrics["ok"]) == 1.0
    # A second search compiles nothing: reports are kept by fingerprint.
    monkeypatch.setattr(search, "_compile", None)
    assert plan.main(argv) == 0
    assert "from the cache" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "word"),
    [("flop=1", "flop"), ("flops=fast", "not a finite number"), ("flops=-1", "not above 0")],
)
def test_numbers_of_hardware_are_checked(text, word, capsys):
    assert plan.main(["--config=a.py", "--topology=cpu-8", f"--hardware={text}"]) == 2
    assert word in capsys.readouterr().err
