"""Weights that lean on the large runs: nearer where the form fails, and never at the data's cost."""

import json

import numpy as np
import pytest
from laws.law_data import TRUTH, surface

from scaling.fit import main
from scaling.laws import Law, LawError, Loss, bootstrap, coefficient, fit, forecasting
from scaling.laws.law import Variable
from scaling.laws.leaning import PER_PARAMETER, effective, emphasis, power_for, residual_shares

FAR = {"params": 3e10, "tokens": 3e11}


def test_the_power_leaves_points_enough_for_every_parameter():
    compute = np.logspace(18, 22, 41)
    power = power_for(compute, 3)
    assert 0 < power < 1
    assert effective(emphasis(compute, power), 41) == pytest.approx(PER_PARAMETER * 3, rel=1e-3)
    assert power_for(compute, 8) < power
    assert power_for(compute, 9) == 0  # 45 points are not there
    assert power_for(np.logspace(18, 22, 4000), 5) == 1
    assert power_for(None, 5) == 0
    # Two equal weights and one that vanishes count as two points.
    assert effective(np.array([1.0, 1.0, 0.0]), 3) == pytest.approx(2)
    assert emphasis(np.array([1.0, 3.0]), 1.0) == pytest.approx([0.5, 1.5])


def test_a_form_that_fails_at_the_small_end_forecasts_the_large_one():
    table = surface(0.002, budgets=12, sizes=12)
    compute = 6 * table["params"] * table["tokens"]
    # Runs of a decade above the smallest and less do worse than the law says, up to 15 %.
    table["loss"] = table["loss"] * np.exp(0.15 / (1 + compute / compute.min() / 10))
    errors = {}
    sizes = (
        TRUTH["A"] / FAR["params"] ** TRUTH["alpha"],
        TRUTH["B"] / FAR["tokens"] ** TRUTH["beta"],
    )
    truth = TRUTH["E"] + sum(sizes)
    for lean in (0.0, None):
        result = fit(table, "combined", starts=4, lean=lean)
        errors[lean] = abs(np.log(float(result.predict(**FAR)) / truth))
    assert result.problem.lean == 1
    assert "compute^1" in result.conventions["lean"]
    assert errors[None] < errors[0.0] / 3
    assert errors[None] < 0.02


def test_one_law_leans_only_if_asked_to():
    table = surface(0.002)
    plain, asked = (fit(table, "chinchilla", starts=4, **more) for more in ({}, {"lean": 0.5}))
    assert "lean" not in plain.conventions
    np.testing.assert_array_equal(plain.problem.weights, 1.0)
    compute = 6 * table["params"] * table["tokens"]
    np.testing.assert_allclose(
        asked.problem.weights, np.sqrt(compute) / np.sqrt(compute).mean(), rtol=1e-12
    )
    assert bootstrap(asked, 20).effective_share == pytest.approx(
        asked.problem.effective / asked.points
    )
    # A user's own weights stay beside those that lean, and come back when they go.
    weights = np.linspace(1.0, 2.0, asked.points)
    both = fit(table, "chinchilla", starts=4, weights=weights, lean=0.5).problem
    np.testing.assert_allclose(both.weights, weights * asked.problem.weights)
    np.testing.assert_allclose(both.leaning(0.0).weights, weights)


def test_noise_is_that_of_runs_of_like_compute():
    table = surface(0.0, budgets=12, sizes=12)
    compute = 6 * table["params"] * table["tokens"]
    spread = np.where(compute < np.median(compute), 0.04, 0.002)
    table["loss"] = table["loss"] * np.exp(spread * np.random.default_rng(0).normal(size=144))
    result = fit(table, "combined", starts=4)
    draws = bootstrap(result, 200)
    widths = []
    for row in (np.argmin(compute), np.argmax(compute)):
        at = {name: float(table[name][row]) for name in ("params", "tokens")}
        low, high = forecasting.forecast(result, at, draws).run_interval
        widths.append(np.log(high / low) / 2)
    assert 0.04 < widths[0] < 0.16  # two deviations are 0.08
    assert 0.003 < widths[1] < 0.02  # and 0.004
    shares = residual_shares(np.array([1.0, 10.0, 100.0]), 10.0, 1.0)
    np.testing.assert_allclose(shares, np.array([0.1, 1.0, 0.1]) / 1.2)
    assert residual_shares(np.array([1.0, 10.0]), 10.0, 0.0) is None


def test_the_command_leans_as_told_and_says_so(tmp_path, capsys):
    table = surface(0.002)
    rows = ["params,tokens,loss"]
    rows += [",".join(map(repr, row)) for row in np.stack(list(table.values()), 1).tolist()]
    (tmp_path / "runs.csv").write_text("\n".join(rows), encoding="utf-8")
    flags = [f"--runs={tmp_path / 'runs.csv'}", "--law=chinchilla", f"--out={tmp_path}"]
    flags += ["--bootstrap=0", "--starts=4", "--profiles=no"]
    assert main([*flags, "--lean=0.5"]) == 0
    record = json.loads((tmp_path / "fit.json").read_text(encoding="utf-8"))
    assert "compute^0.5" in record["conventions"]["lean"]
    assert main([*flags, "--lean=-1"]) == 2
    assert "--lean" in capsys.readouterr().err


def test_a_law_without_a_scale_cannot_lean():
    law = Law(
        name="width_law",
        equation="L = A w",
        variables=(Variable("width", "w", "channels"),),
        parameters=(coefficient("A", (0.1, 10.0)),),
        formula=lambda p, v: p.A * v.width,
        source="test",
    )
    table = {"width": np.arange(1.0, 9.0), "loss": np.arange(2.0, 18.0, 2.0)}
    with pytest.raises(LawError, match="leave --lean out"):
        fit(table, law, Loss("lsq"), lean=1.0)
