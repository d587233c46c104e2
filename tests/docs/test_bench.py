"""Every benchmark and every maintainer's script starts and ends, at tiny sizes."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest
from helpers import ROOT
from run_helpers import environment

BENCH = ROOT / "scripts" / "bench"
ENTRIES = {
    "forecast_calibration.py": ["--out={out}", "--families=1"],
    "laws_speed.py": ["--scipy-starts=2", "--scipy-resamples=2", "--resamples=20"],
    "plan_table.py": ["--out={out}", "--only=7b-v5e-256"],
    "population.py": ["--steps=12", "--seeds=1", "--width=16", "--devices=1"],
    "tokens_per_second.py": ["--sizes=tiny", "--rounds=1", "--seconds=0.05"],
}


def start(name: str, arguments: list[str], **options: object) -> str:
    """Output of a benchmark that has to succeed."""
    done = subprocess.run(
        [sys.executable, str(BENCH / name), *arguments],
        capture_output=True, text=True, timeout=1200, cwd=ROOT,
        env=environment(PYTHONPATH=os.pathsep.join([str(ROOT), *sys.path])), **options,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_benchmark_has_a_tiny_size() -> None:
    scripts = {path.name for path in BENCH.glob("*.py") if "def main(" in path.read_text()}
    assert scripts == set(ENTRIES)


def test_our_side_of_the_step_benchmark_trains() -> None:
    out = start(
        "tokens_per_second.py",
        ["--worker=jax", "--sizes=tiny", "--styles=gpt2", "--seconds=0.05"],
        input="go\n",
    )
    answer = json.loads(out.splitlines()[-1])
    assert 0 < answer["loss"] < 10
    assert answer["step"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ENTRIES))
def test_a_benchmark_runs(name: str, tmp_path: pathlib.Path) -> None:
    if name == "tokens_per_second.py" and importlib.util.find_spec("torch") is None:
        pytest.skip("PyTorch is not installed: pip install torch")
    assert start(name, [argument.format(out=tmp_path / "out") for argument in ENTRIES[name]])
