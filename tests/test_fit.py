"""The command: files, exit codes, refusals before any work, no bare traceback."""

import json
import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers import ROOT
from laws.law_data import FIXTURES, surface

from scaling.fit import main
from scaling.laws.arguments import parse
from scaling.laws.command import read

REFIT = [
    f"--runs={FIXTURES / 'chinchilla_epoch.csv'}",
    "--columns=params=Model Size,flops=Training FLOP",
    "--law=chinchilla",
]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fit")
    code = main(
        [*REFIT, f"--out={folder}", "--exclude=loss>=3.44", "--bootstrap=60",
         "--budgets=1e21,5.76e23", "--predict=params=7e10,tokens=1.4e12"]
    )  # fmt: skip
    assert code == 0
    return folder


def test_fit_json_holds_the_contract(out):
    record = json.loads((out / "fit.json").read_text())
    wanted = {"law", "parameters", "intervals", "objective", "gradient_norm", "points"}
    wanted |= {"excluded", "warnings", "loss"}
    assert wanted <= set(record)
    delta = record["loss"].pop("delta")
    assert record["loss"] == {"kind": "huber", "space": "log", "reduction": "sum", "over": 1.0}
    assert 2e-3 < delta < 2e-2, "1.345 deviations of noise of about 5e-3"
    assert (
        record["conventions"]["delta"] == f"{delta:.3g}, from the residuals of a least-squares fit"
    )
    assert record["points"] == 240
    assert [e["reason"] for e in record["excluded"]] == ["--exclude=loss>=3.44"] * 5
    for name, value in record["parameters"].items():
        low, high = record["intervals"][name]
        assert low < value < high
    assert record["optimum"][1]["outside"] > 40
    assert any("44.5 times above the largest" in w for w in record["warnings"])
    assert record["reached"] >= 0.95
    assert any(w.startswith("prediction at params 7e+10, tokens") for w in record["warnings"])
    assert record["comparison"][0]["held_out"] < 0.01
    assert record["comparison"][0]["extrapolation"] < 0.05


def test_report_is_one_file_with_warnings_first(out):
    page = (out / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert page.index("warnings") < page.index("<h2>Parameters") < page.index("<h2>Figures")
    assert "5 rows excluded" in page
    names = {p.stem for p in (out / "figures").glob("*.svg")}
    assert {"loss_against_compute", "isoflop", "allocation", "residuals", "profiles"} <= names
    assert {"bootstrap", "observed_predicted", "contours"} <= names
    assert page.count("<figure") == len(names)
    assert "<td>the fitted law (approach 3)</td>" in page
    assert "<td>isoFLOP minima (approach 2)</td>" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--run=x", "--law=chinchilla", "--out=o"],
            "--run: there is no such flag\n  did you mean --runs?",
        ),
        (["--runs=x", "--law=chincilla", "--out=o"], "did you mean 'chinchilla'?"),
        (["runs=x"], "runs: two dashes are missing\n  write --runs=x"),
        (["--runs=x", "--law=chinchilla"], "--out: is required"),
        ([*REFIT, "--out=o", "--delta=0"], "--delta: 0 is out of range"),
        ([*REFIT, "--out=o", "--delta=inf"], "--delta: inf is out of range"),
        ([*REFIT, "--out=o", "--lean=inf"], "--lean: inf is out of range"),
        ([*REFIT, "--out=taken/o"], "taken is not a folder you can write to"),
        ([*REFIT, "--out=o", "--loss=hubber"], "'hubber' is not one of 'huber', 'lsq', 'l1'"),
        ([*REFIT, "--out=o", "--budgets=1e21,x"], "'x' is not a finite number"),
        ([*REFIT, "--out=o", "--inference-tokens=-1"], "-1 is out of range"),
        ([*REFIT, "--out=o", "--inference_tokens=-1"], "--inference_tokens: -1 is out of range"),
        ([*REFIT, "--out=o", "--bounds=alpha=0:x"], "'x' is not a finite number"),
        ([*REFIT, "--out=o", "--predict=params=1e9"], "needs exactly ['params', 'tokens']"),
        ([*REFIT, "--out=o", "--bootstrap=0", "--predict=params=1,tokens=1"], "needs draws"),
        ([*REFIT, "--out=o", "--compare=task_error"], "task_error predicts error, chinchilla loss"),
        ([REFIT[0], "--law=zhai", "--out=o", "--budgets=1e21"], "has no params and tokens"),
        ([*REFIT, "--out=o", "--columns=params=Size"], "give --columns=params=COLUMN"),
        ([*REFIT, "--out=o", "--fix=alpha"], "'alpha' is not NAME=VALUE"),
        (["--runs=absent.csv", "--law=chinchilla", "--out=o"], "absent.csv does not exist"),
        (
            [REFIT[0], REFIT[2], "--out=o"],
            "write\n  '--columns=params=Model Size,flops=Training FLOP'\n",
        ),
        ([*REFIT, "--out=o", "--fix=gamma=1"], "no parameter 'gamma'"),
        ([*REFIT, "--out=o", "--exclude=los>3"], "did you mean 'loss'"),
        ([*REFIT, "--out=o", "--exclude=loss!3"], "is not COLUMN>VALUE"),
        ([*REFIT, "--out=o", "--exclude=loss>low"], "'low' is not a number"),
        ([*REFIT, "--out=o", "--exclude=loss==low"], "no row holds 'low'; loss holds ['2.07"),
    ],
)
def test_usage_errors_exit_with_2_before_any_fit(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").touch()
    monkeypatch.setattr("scaling.laws.command.make_record", None)  # what comes after the fit
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert "Traceback" not in error
    assert not (tmp_path / "o").exists()


def test_figures_that_cannot_be_drawn_are_told_before_any_fit(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("scaling.laws.command.fitted", None)
    assert main([*REFIT, f"--out={tmp_path / 'o'}"]) == 2
    assert "pip install 'scaling[fit]'" in capsys.readouterr().err


def test_intervals_say_what_they_assume_of_runs(tmp_path):
    """Checkpoints of few runs, resampled as independent points or as too few runs."""
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(1e9, 1e11, 5)))
    loss = 1.8 + 480 * n**-0.35 + 2100 * d**-0.37
    path = tmp_path / "runs.csv"
    lines = [f"{a},{b},{y},{a:.2g}" for a, b, y in zip(n, d, loss, strict=True)]
    path.write_text("params,tokens,loss,run_id\n" + "\n".join(lines))
    arguments = [f"--runs={path}", "--law=chinchilla", f"--out={tmp_path / 'o'}", "--profiles=no"]

    def warnings(*more):
        assert main([*arguments, *more]) == 0
        return " ".join(json.loads((tmp_path / "o" / "fit.json").read_text())["warnings"])

    alone = warnings("--bootstrap=20", "--resample=points")
    assert "30 points of 6 runs were resampled as if independent" in alone
    assert "only 6 runs for 5 free parameters" in warnings("--bootstrap=20")
    assert "neither a bootstrap nor profiles were run" in warnings("--bootstrap=0")


def test_three_points_exit_with_2(capsys, tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("params,tokens,loss\n1e8,1e9,3\n2e8,1e9,2.9\n4e8,1e9,2.8\n")
    assert main([f"--runs={path}", "--law=chinchilla", f"--out={tmp_path / 'o'}"]) == 2
    assert "3 usable points cannot determine 5 free parameters" in capsys.readouterr().err


def test_bad_rows_are_in_the_result(tmp_path):
    data = surface(0.005, budgets=4, sizes=6)
    rows = [f"{n},{d},{y}" for n, d, y in zip(*data.values(), strict=True)]
    rows[3], rows[7] = "1e8,1e9,nan", "1e8,1e9,-2"
    path = tmp_path / "runs.csv"
    path.write_text("params,tokens,loss\n" + "\n".join(rows) + "\n")
    arguments = [f"--runs={path}", "--law=chinchilla", f"--out={tmp_path / 'o'}", "--fix=E=1.8"]
    assert main([*arguments, "--bootstrap=0", "--profiles=no"]) == 0
    record = json.loads((tmp_path / "o" / "fit.json").read_text())
    assert record["fixed"] == ["E"]
    assert "E" not in record["intervals"]
    assert record["points"] == 22
    assert [e["row"] for e in record["excluded"]] == [4, 8]
    assert any("2 of 24 rows excluded" in w for w in record["warnings"])


def test_rows_are_left_out_by_text(tmp_path):
    routed = f"--runs={FIXTURES / 'clark_routed.csv'}"
    options = parse([routed, "--law=routed", "--out=o", "--exclude=router==S-Base"])
    assert len(read(options)) == 163 - 53
    options = parse([routed, "--law=routed", "--out=o", "--exclude=router != Hash"])
    table = read(options)
    assert set(table.text["router"]) == {"Hash"}
    assert table.excluded[0] == (1, "--exclude=router != Hash")


def test_one_variable_law_with_other_columns(tmp_path):
    x = np.geomspace(1e2, 1e6, 20)
    path = tmp_path / "curve.csv"
    lines = [f"{a},{0.1 + 3 * a**-0.4}" for a in x]
    path.write_text("n,err\n" + "\n".join(lines))
    arguments = [f"--runs={path}", "--law=m2", f"--out={tmp_path / 'o'}", "--bootstrap=20"]
    assert main([*arguments, "--columns=examples=n,loss=err"]) == 0
    record = json.loads((tmp_path / "o" / "fit.json").read_text())
    assert record["parameters"]["c"] == pytest.approx(0.4, abs=1e-6)
    assert (tmp_path / "o" / "figures" / "curve.svg").exists()


def test_flags_may_be_repeated_and_spelt_with_dashes():
    words = [
        "--fix=E=1.8",
        "--fix",
        "alpha=0.3",
        "--exclude=a>1",
        "--exclude=b==x=y",
        "--max-rows=1e3",
    ]
    options = parse(
        [*REFIT, "--out=o", "--predict=params=1,tokens=2", "--predict=params=3", *words]
    )
    assert options.fix == {"E": 1.8, "alpha": 0.3}
    assert options.exclude == ["a>1", "b==x=y"]
    assert options.predict == [{"params": 1.0, "tokens": 2.0}, {"params": 3.0}]
    assert options.max_rows == 1000
    assert options.columns == {"params": "Model Size", "flops": "Training FLOP"}


def test_an_empty_cache_variable_counts_as_none(tmp_path):
    """Not as the folder that the command was called in."""
    state = {"HOME": str(tmp_path / "home"), "SCALING_CACHE": "", "JAX_PLATFORMS": "cpu"}
    state |= {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    words = ["-m", "scaling.fit", "--runs=absent.csv", "--law=chinchilla", "--out=o"]
    run = subprocess.run([sys.executable, *words], cwd=tmp_path, env=state, check=False)
    assert run.returncode == 2
    assert not (tmp_path / "jax").exists()
    assert (tmp_path / "home" / ".cache" / "scaling" / "jax").is_dir()


def test_help_is_quick_and_starts_nothing():
    began = time.process_time()
    code = "import sys, scaling.fit; sys.exit('jax' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    run = subprocess.run(
        [sys.executable, "-m", "scaling.fit", "--help"], capture_output=True, text=True, check=True
    )
    assert "--runs" in run.stdout
    lines = run.stdout.splitlines()
    assert len(lines) < 48
    assert max(map(len, lines)) <= 100
    assert time.process_time() - began < 1.0


def test_list_names_every_law(capsys):
    from scaling.laws import LAWS

    assert main(["--list"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in LAWS)
