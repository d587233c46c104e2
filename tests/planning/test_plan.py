"""`python -m scaling.plan`: plans, budgets and sweeps; its compiles are small and for the CPU."""

import json
import os
import subprocess
import sys

import pytest
from helpers import ROOT

from scaling import plan

QUICK = [
    f"--config={ROOT / 'experiments' / 'quickstart.py'}",
    "--config.model.num_layers=1",
    "--config.model.model_dim=64",
    "--config.train.batch_size=16",
    "--config.data.seq_len=32",
]


def test_a_plan_prints_writes_and_exits_with_0(tmp_path, capsys):
    out = tmp_path / "plan.json"
    own = "--hardware=flops=1e12,bandwidth=1e11,link=1e10,usable=1e9"
    assert plan.main([*QUICK, "--topology=cpu-8", f"--json={out}", own, "--price=2"]) == 0
    shown = capsys.readouterr().out
    assert "FITS" in shown
    assert "6, 21, 28 and 6 %" in shown
    data = json.loads(out.read_text())
    assert data["estimate"]["low"] < data["estimate"]["high"]
    assert data["cost"]["price"]["dollars"] == 2.0
    assert data["memory"]["head_room"] == 1e9 - data["memory"]["peak"]


def test_a_plan_above_the_limit_exits_with_1(capsys):
    own = "--hardware=flops=1e12,bandwidth=1e11,usable=1e5"
    assert plan.main([*QUICK, "--topology=cpu-8", own]) == 1
    assert "DOES NOT FIT" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (QUICK, ["--topology", "v5e-N"]),
        ([*QUICK, "--topology=v5e-9"], ["v5e-9", "v5e-8"]),
        (["--topology=cpu-8"], ["--config"]),
        ([*QUICK, "--topology=cpu-8", "--price=cheap"], ["--price"]),
        ([*QUICK, "--topology=cpu-8", "--budget=10h"], ["--fit"]),
        ([*QUICK, "--topology=cpu-8", "--compiles=2"], ["--compiles", "does not go with"]),
        ([*QUICK, "--topology=cpu-8", "--effort=great"], ["--effort"]),
        ([*QUICK, "--topology=cpu-8", "--config.train.batch_size=12"], ["train.batch_size"]),
        ([*QUICK, "--topology=cpu-8", "--config.mesh.tensor=5"], ["mesh.tensor"]),
    ],
)
def test_wrong_usage_is_2_and_says_what(argv, words, capsys):
    assert plan.main(argv) == 2
    shown = capsys.readouterr().err
    assert all(word in shown for word in words), shown


def test_a_budget_buys_a_size_and_tokens_with_intervals(tmp_path, capsys):
    """A law with alpha = beta: the best size goes as the root of the budget."""
    from scaling.laws import LAWS  # the table below is drawn from this law

    assert "chinchilla" in LAWS
    rows = ["params,tokens,loss"]
    for n in (1e6, 3e6, 1e7, 3e7, 1e8):
        for d in (1e8, 3e8, 1e9, 3e9):
            wiggle = 1 + 1e-3 * ((int(n) + int(d)) % 7 - 3)
            rows.append(f"{n},{d},{(1.7 + 400 / n**0.34 + 410 / d**0.28) * wiggle}")
    (tmp_path / "runs.csv").write_text("\n".join(rows) + "\n")
    from scaling import fit

    code = fit.main(
        [
            f"--runs={tmp_path / 'runs.csv'}",
            "--law=chinchilla",
            f"--out={tmp_path / 'fit'}",
            "--bootstrap=20",
        ]
    )
    assert code == 0
    own = "--hardware=flops=1e13,bandwidth=1e12,link=1e10"
    argv = [*QUICK, "--topology=cpu-8", own, "--budget=100h", f"--fit={tmp_path / 'fit'}"]
    assert plan.main(argv) == 0
    shown = capsys.readouterr().out
    assert "100 chip-hours of cpu-8 under chinchilla" in shown
    assert "nothing overlapped" in shown
    assert "[" in shown.split("parameters", 1)[1]


@pytest.mark.slow
def test_a_run_finds_the_step_that_a_plan_compiled(tmp_path):
    """And compiles anew when its config is another: the key of the cache is the program."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    environment |= {"SCALING_CACHE": str(tmp_path / "cache"), "JAX_PLATFORMS": "cpu"}

    def call(module, *flags):
        command = [sys.executable, "-m", f"scaling.{module}", *QUICK, *flags]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    steps = ["--config.train.steps=25", "--config.track.progress=lines"]
    call("plan", "--topology=cpu-1", *steps)
    found = call("main", f"--workdir={tmp_path / 'same'}", *steps)
    assert "(from the cache)" in found
    other = call("main", f"--workdir={tmp_path / 'other'}", *steps, "--config.model.mlp_dim=96")
    assert "(from the cache)" not in other


def test_a_sweep_is_planned_cell_by_cell(tmp_path, monkeypatch, capsys):
    """The wide cell passes the limit that `--hardware` sets; its row says what may help."""
    monkeypatch.setenv("SCALING_CACHE", str(tmp_path))
    (tmp_path / "widths.py").write_text(
        "from scaling.sweeps import Sweep, axis\n"
        "BASE = {'task': {'name': 'language_model'}, 'data': {'source': {'name': 'stdlib'},\n"
        "  'seq_len': 32}, 'model': {'name': 'transformer', 'num_layers': 1, 'num_heads': 2},\n"
        "  'optim': {'name': 'adamw', 'schedule': {'name': 'constant'}},\n"
        "  'train': {'steps': 10, 'batch_size': 8}}\n"
        "def get_sweep(arg=''):\n"
        "    return Sweep(BASE, axis('model.model_dim', (32, 256)))\n"
    )
    limit = "--hardware=flops=1e12,bandwidth=1e11,usable=6e6"
    flags = [f"--sweep={tmp_path / 'widths.py'}", "--topology=cpu-2", limit]
    assert plan.main(flags) == 1
    rows = [line for line in capsys.readouterr().out.splitlines() if "model_dim" in line]
    assert [("!" in row) for row in rows[-2:]] == [False, True], rows
    assert (
        plan.main([*flags[:2], limit.replace("6e6", "1e9")]) == 0
    )  # another limit: not the cache's
