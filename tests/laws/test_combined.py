"""A combination of laws: the median of its members, with everything that a law has."""

import json

import numpy as np
import pytest
from laws.law_data import surface

from scaling.fit import main
from scaling.laws import LawError, Loss, bootstrap, fit, get_law, optimum
from scaling.laws.resample import resample_counts

NAME = "chinchilla+kaplan_nd+over_training"
LAWS = NAME.split("+")


@pytest.fixture(scope="module")
def table():
    return surface(0.005)


@pytest.fixture(scope="module")
def combination(table):
    return fit(table, NAME, Loss("lsq"), starts=4)


def test_the_prediction_and_every_draw_are_medians_of_the_members(table, combination):
    at = {"params": 1e11, "tokens": 1e13}
    lean = combination.problem.lean  # one law leans only if asked to
    singles = [fit(table, name, Loss("lsq"), starts=4, lean=lean) for name in LAWS]
    expected = sorted(float(one.predict(**at)) for one in singles)[1]
    assert float(combination.predict(**at)) == pytest.approx(expected, rel=1e-6)
    counts = resample_counts(np.arange(combination.points), 40, 0)
    many = bootstrap(combination, counts=counts)
    drawn = combination.law.evaluate_draws(many.parameters, at)
    alone = [
        one.law.evaluate_draws(bootstrap(one, counts=counts).parameters, at) for one in singles
    ]
    np.testing.assert_allclose(drawn, np.median(alone, axis=0), rtol=1e-4)
    assert combination.parameters["chinchilla_E"] == pytest.approx(singles[0].parameters["E"])
    assert combination.derived["chinchilla_a"] == pytest.approx(singles[0].derived["a"])


def test_a_combination_allocates(combination):
    best = optimum(combination, [1e22])[0]
    tokens = 1e22 / 6 / best.params
    near = [combination.predict(params=best.params * f, tokens=tokens / f) for f in (0.8, 1, 1.25)]
    assert near[1] == min(near)
    assert best.loss == pytest.approx(float(near[1]))


def test_the_command_writes_all_of_it(table, tmp_path):
    rows = ["params,tokens,loss"]
    rows += [",".join(map(repr, row)) for row in np.stack(list(table.values()), 1).tolist()]
    (tmp_path / "runs.csv").write_text("\n".join(rows))
    flags = [f"--runs={tmp_path / 'runs.csv'}", "--law=combined", f"--out={tmp_path}"]
    flags += ["--bootstrap=50", "--starts=4", "--budgets=1e22", "--profiles=no"]
    assert main([*flags, "--predict=params=1e11,tokens=1e12"]) == 0
    record = json.loads((tmp_path / "fit.json").read_text())
    # Unlike one law, it leans on the large runs, and its delta is not that of the residuals.
    assert record["conventions"]["lean"].startswith("weights grow as compute^")
    assert record["conventions"]["delta"] == "0.001, the papers'"
    assert record["optimum"][0]["intervals"]["params"]
    low, high = record["forecasts"][0]["run_interval"]
    assert low < record["forecasts"][0]["value"] < high
    assert record["intervals"]["chinchilla_alpha"]


def test_laws_that_are_not_about_the_same_are_not_combined(table):
    with pytest.raises(LawError, match="combine laws of the same"):
        get_law("chinchilla+m2")
    with pytest.raises(LawError, match="each once"):
        get_law("chinchilla+chinchilla")
    with pytest.raises(LawError, match="tie within one law"):
        fit(table, NAME, tie={"kaplan_nd_Nc": "chinchilla_A"})
    fixed = fit(table, NAME, Loss("lsq"), starts=4, fix={"chinchilla_E": 0.3})
    assert fixed.parameters["chinchilla_E"] == pytest.approx(0.3)


def test_routed_runs_have_a_rival_with_an_irreducible_loss():
    """The law of the paper falls to 0 as N grows, and is too low beyond its data."""
    law, alone = get_law("combined_routed"), dict(get_law("routed").constants("s_base"))
    values = {f"{m.name}_{k}": v for m in law.members for k, v in alone.items()}
    at = {"params": 1e30, "experts": 64.0}
    low = float(get_law("routed").evaluate(alone, at))
    combined = float(law.evaluate({**values, "routed_offset_E": 1.5}, at))
    assert low < 0.2
    assert combined == pytest.approx(low + 0.75)  # the median of two is their mean
    assert {v.name for v in get_law("combined_repeated").variables} == {
        *("params", "tokens", "unique_tokens")
    }
