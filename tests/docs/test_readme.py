"""Every command of the README and of the config docstrings works as it stands there.

Training commands are run as written but for their size: `SMALL` is added, and run directories move
to a temporary folder.
"""

import ast
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest
from helpers import ROOT
from run_helpers import environment

from scaling import cli, configs

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines()]
MAIN = [line for line in COMMANDS if line.startswith("python -m scaling.main")]
TABLE = ROOT / "experiments" / "sweeps" / "isoflop_tiny.csv"  # what the README's sweep leaves
FIT = [line for line in COMMANDS if line.startswith("python -m scaling.fit")]
SWEEP = [line for line in COMMANDS if line.startswith("python -m scaling.sweep ")]
PLAN = [line for line in COMMANDS if line.startswith("python -m scaling.plan")]
TPU = [line for line in PLAN if "--topology=v" in line]
LOOP = [line for line in COMMANDS if "runs/zipf" in line or "--scoreboard" in line]
SMALL = (
    "--config.train.steps=4",
    "--config.optim.schedule.warmup_steps=1",
    "--config.model.num_layers=1",
    "--config.model.model_dim=32",
    "--config.eval.batch_size=64",
)


def small(line: str, folder: pathlib.Path) -> list[str]:
    words = shlex.split(line.replace("=runs/", f"={folder}/"))
    words[0] = sys.executable
    if "--config=" not in line or "--dry_run" in line:
        return words
    keys = {one.partition("=")[0] for one in SMALL}
    return [word for word in words if word.partition("=")[0] not in keys] + list(SMALL)


def run(words: list[str], **env: str) -> str:
    done = subprocess.run(
        words, capture_output=True, text=True, env=environment(1, **env), cwd=ROOT, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_readme_has_commands_and_all_are_known():
    assert COMMANDS[:2] == ["./scripts/run", "./scripts/test"]
    rest = set(COMMANDS[2:]) - set(MAIN) - set(FIT) - set(SWEEP) - set(PLAN)
    assert rest == {"python -m scaling.doctor"}, "teach this test how to run them"


def made_by_the_scripts() -> bool:
    return (pathlib.Path(sys.prefix) / ".installed").exists()


@pytest.mark.skipif(not made_by_the_scripts(), reason="this environment is not of scripts/setup.sh")
def test_the_two_scripts(tmp_path):
    env = {"VENV": sys.prefix}
    words = ["./scripts/run", f"--workdir={tmp_path}/quickstart", *SMALL]
    assert "completed at step 4" in run(words, **env)
    again = run(words, **env)
    assert "already completed" in again
    assert "Installing" not in again
    listed = run(["./scripts/test", "tests/docs/test_readme.py", "--collect-only"], **env)
    assert "tests/docs/test_readme.py" in listed


def test_main_commands_one_after_the_other(tmp_path):
    """In the order of the text: some look at what an earlier one has made."""
    for line in MAIN:
        if "--process_id" not in line and line not in LOOP:
            assert run(small(line, tmp_path)), line


def test_the_command_for_several_processes(tmp_path):
    (line,) = [m for m in MAIN if "--process_id" in m]
    words = small(line, tmp_path)
    other = [word.replace("--process_id=0", "--process_id=1") for word in words]
    batch = "--config.train.batch_size=16"
    with subprocess.Popen(
        [*other, batch], env=environment(), cwd=ROOT, stdout=subprocess.DEVNULL
    ) as second:
        assert "completed" in run([*words, batch])
        assert second.wait(timeout=60) == 0


def test_fit_commands(tmp_path):
    """A sweep that the text has run before stands as the table that it left."""
    for line in FIT:
        line = line.replace("--runs=runs/isoflop", f"--runs={TABLE}")
        words = shlex.split(line.replace("=runs/", f"={tmp_path}/"))
        few = ["--bootstrap=20", "--profiles=no"] if "--runs" in line else []
        assert "chinchilla" in run([sys.executable, *words[1:], *few])
    assert (tmp_path / "fit" / "report.html").exists()


def test_sweep_commands_show_their_cells(tmp_path):
    """Running the sweep itself is a test of tests/sweeps."""
    for line in SWEEP:
        words = shlex.split(line.replace("=runs/", f"={tmp_path}/").replace(" --dry_run", ""))
        shown = run([sys.executable, *words[1:], "--dry_run"])
        assert "isoflop_tiny" in shown
        assert "FLOP" in shown


def test_plan_commands(tmp_path):
    """One layer instead of all; the full sizes are in scripts/bench/plan_table.py."""
    pytest.importorskip("libtpu", reason="needs the TPU compiler: pip install 'scaling[tpu]'")
    for line in TPU:
        words = shlex.split(line.replace("=runs/", f"={tmp_path}/"))
        assert "FITS" in run([sys.executable, *words[1:], "--config.model.num_layers=1"])


def test_the_loop_of_forecast_and_grade(tmp_path):
    """A sweep's table for the sweep itself, and a run of four steps."""
    assert sorted(PLAN) == sorted({*TPU, *LOOP} - set(MAIN))
    fit = ["--law=chinchilla", "--flops=exact", "--bootstrap=50", "--profiles=no"]
    fit += [f"--runs={TABLE}", f"--out={tmp_path / 'isoflop' / 'fit'}"]
    run([sys.executable, "-m", "scaling.fit", *fit])
    told = []
    for line in LOOP:
        words = shlex.split(line.replace("=runs", f"={tmp_path}"))
        few = ["--config.train.steps=4"] if "--config=" in line else []
        told.append(run([sys.executable, *words[1:], *few]))
    assert "FITS" in told[0]
    assert "compiled for cpu-1" in told[1]
    assert "forecast against what happened" in told[2]
    assert "1 graded" in told[3]


def test_doctor_command():
    done = subprocess.run(
        [sys.executable, "-m", "scaling.doctor"], capture_output=True, text=True, cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"}, timeout=120,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr  # 1 is advice about this machine
    assert "jax" in done.stdout


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").glob("*.py")), ids=lambda p: p.name)
def test_config_docstrings_give_commands_that_parse(path):
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    lines = re.findall(r"^\s+python -m scaling\.main ((?:[^\n\\]|\\\n)*)$", text, re.MULTILINE)
    assert lines, f"{path.name} does not say how to run it"
    for line in lines:
        arguments = cli.parse(shlex.split(line.replace("\\\n", " ")))
        configs.load_resolved(arguments.config, arguments.overrides)
