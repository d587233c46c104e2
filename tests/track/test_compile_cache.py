"""The compile cache on disk."""

import pathlib
import subprocess
import sys

import pytest
from helpers import ROOT

from scaling.track import compile_cache, paths


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
