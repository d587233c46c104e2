"""Sampling: cached decoding equals decoding from scratch, and the draws are what was asked for."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import TEXT_INFO, tiny_language_model

from scaling import parallel
from scaling.models.transformer import Transformer
from scaling.tasks.base import build_task
from scaling.tasks.generate import make_generate

PROMPT = np.array([[1, 5, 9, 2], [7, 7, 3, 0]], np.int32)


@pytest.fixture(scope="module", params=["rope", "learned"])
def model(request):
    config = tiny_language_model(
        **{
            "model.position": request.param,
            "model.max_len": 32,
            "model.num_kv_heads": 2,
            "model.attention_softcap": 5.0,
        }
    )
    task = build_task(config, TEXT_INFO, "cpu")
    variables = parallel.unbox(jax.jit(task.init)(jax.random.key(0)))
    fields = {f.name: config.model.get(f.name) for f in dataclasses.fields(Transformer)}
    skipped = ("parent", "name", "platform")
    return Transformer(**{k: v for k, v in fields.items() if k not in skipped}), variables


def generate(model, variables, temperature=0.0, seed=0, **options):
    function = jax.jit(make_generate(model, 60, 12, **options))
    return np.asarray(function(variables, PROMPT, jax.random.key(seed), jnp.float32(temperature)))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_cached_keys_and_values_change_nothing(model, temperature, monkeypatch):
    module, variables = model
    cached = generate(module, variables, temperature)
    monkeypatch.setattr(Transformer, "caches", False)
    np.testing.assert_array_equal(cached, generate(module, variables, temperature))


def test_draws_follow_the_seed_top_k_and_the_vocabulary(model):
    module, variables = model
    hot = generate(module, variables, 50.0)  # close to uniform
    assert hot.shape == (2, 12)
    assert hot.max() < 60, "the model's vocabulary is 64, the data's 60"
    np.testing.assert_array_equal(hot, generate(module, variables, 50.0))
    assert (hot != generate(module, variables, 50.0, seed=1)).any()
    best = generate(module, variables)
    np.testing.assert_array_equal(best, generate(module, variables, 50.0, top_k=1))


def test_a_finished_run_writes_text_on_a_machine_without_its_corpus(tmp_path, monkeypatch, capsys):
    from run_helpers import TINY, corpus

    from scaling.main import main

    text, run = corpus(tmp_path), tmp_path / "run"
    flags = ["train.steps=8", "track.progress=off", "data.tokenizer.name=bpe"]
    flags += ["data.tokenizer.vocab_size=300", "eval.also.sample.evaluation=sample"]
    raw = tmp_path / "config.py"
    raw.write_text(
        f"import sys; sys.path.insert(0, {str(TINY.parent)!r})\n"
        "import tiny\n"
        "def get_config(arg):\n"
        "    config = tiny.get_config(arg)\n"
        "    config.eval.also = {'sample': {'batches': 1}}\n"
        "    return config\n"
    )
    flags = [f"--config.{flag}" for flag in flags]
    assert main([f"--config={raw}:{text}", f"--workdir={run}", *flags]) == 0
    text.unlink()
    monkeypatch.setenv("SCALING_CACHE", str(tmp_path / "empty"))
    capsys.readouterr()
    wanted = [f"--sample={run}", "--prompt=7: the", "--tokens=5", "--sample_seed=3"]
    assert main(wanted) == 0
    first = capsys.readouterr().out
    assert first.startswith("7: the")
    assert main(wanted) == 0
    assert capsys.readouterr().out == first
    assert main([f"--evaluate={run}"]) == 1
    assert "the data of" in capsys.readouterr().err
    samples = json.loads(next((run / "evaluations" / "sample").glob("*.json")).read_text())
    assert len(samples["texts"]) == 4
    checkpoints = sorted((run / "checkpoints").glob("0*"))
    assert (checkpoints[-1] / "data.json").exists()
