"""Compiles are counted, cached ones apart; a warm program that compiles again says why."""

import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from helpers import ROOT

from scaling.track import compile_cache, paths
from scaling.track.recompile import CompileLog


def test_counts_by_name_and_stops_when_closed() -> None:
    def a_rare_name(x: jax.Array) -> jax.Array:
        return x * 2 + 1

    with CompileLog() as log:
        step = jax.jit(a_rare_name)
        step(jnp.ones(3))
        step(jnp.ones(3))
        assert log.count("a_rare_name") == 1
        assert log.seconds("a_rare_name") > 0
        step(jnp.ones(4))
        assert log.count("a_rare_name") == 2
    log.close()
    step(jnp.ones(5))
    assert log.count("a_rare_name") == 2


def test_a_warm_step_that_compiles_again_says_what_changed() -> None:
    def warm_step(state: jax.Array, batch: dict[str, jax.Array]) -> jax.Array:
        return state + batch["x"].sum()

    step = jax.jit(warm_step, donate_argnums=0)
    batches = [jnp.ones((4, 2)), jnp.ones((3, 2)), jnp.ones((3, 2), jnp.bfloat16)]
    states = [jnp.zeros(2) for _ in range(5)]
    with CompileLog() as log:
        step(states[0], {"x": batches[0]})
        assert log.late() == []
        log.warm()
        step(states[1], {"x": batches[0]})
        assert log.late() == []
        step(states[2], {"x": batches[1]})
        (told,) = log.late()
        assert "warm_step" in told
        assert "was compiled after warm-up" in told
        assert "batch['x'], now f32[3,2] and before f32[4,2]" in told
        assert log.late() == []
        step(states[3], {"x": batches[1]})
        assert log.late() == []
        step(states[4], {"x": batches[2]})
        (told,) = log.late()
        assert "now bf16[3,2] and before f32[3,2]" in told
    assert not jax.config.jax_explain_cache_misses


def test_a_second_launch_compiles_nothing(tmp_path: pathlib.Path) -> None:
    script = (
        "import jax, jax.numpy as jnp\n"
        "from scaling.track import compile_cache\nfrom scaling.track.recompile import CompileLog\n"
        "assert compile_cache.enable() is None\n"
        "log = CompileLog()\njax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((5, 5)))\n"
        "print(log.count(cached=False), log.count(cached=True))\n"
    )
    environment = {"PATH": "/usr/bin", "JAX_PLATFORMS": "cpu", "SCALING_CACHE": str(tmp_path)}
    counts = []
    for launch in range(4):
        if launch == 2:
            # A kill in the middle of a write; JAX itself would never replace such an entry.
            entry = max((tmp_path / "jax").glob("*-cache"), key=lambda p: p.stat().st_size)
            entry.write_bytes(entry.read_bytes()[:-50])
        command = [sys.executable, "-c", script]
        done = subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True
        )
        counts.append([int(word) for word in done.stdout.split()])
    assert list((tmp_path / "jax").iterdir())
    assert counts[0][0] > 0
    requests = sum(counts[0])
    assert counts[1:] == [[0, requests], [1, requests - 1], [0, requests]]


def test_a_cache_that_cannot_be_written_is_told(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("SCALING_CACHE", str(tmp_path / "file"))
    assert paths.compile_cache() == tmp_path / "file" / "jax"
    told = compile_cache.enable()
    assert told is not None
    assert "cannot be made" in told
