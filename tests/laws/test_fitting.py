"""The fit: published optima, noise-free recovery, options, warnings."""

import jax.numpy as jnp
import numpy as np
import pytest
from laws.law_data import TRUTH, besiroglu, surface
from scipy import optimize, special

from scaling.laws import Law, LawError, Loss, coefficient, exponent, fit, offset, power
from scaling.laws.law import PARAMS
from scaling.laws.problem import bucket


@pytest.fixture(scope="module")
def refit():
    return fit(besiroglu(), "chinchilla")


def test_besiroglu_huber_optimum(refit):
    """Besiroglu et al. 2024: Huber 1e-3 on log loss, summed, 240 of 245 points."""
    assert refit.points == 240
    assert refit.objective <= 0.00101827402
    published = {"A": 477.826, "B": 2143.41, "E": 1.817218, "alpha": 0.3473106, "beta": 0.3671724}
    for name, value in published.items():
        assert refit.parameters[name] == pytest.approx(value, rel=1e-4)
    assert refit.gradient_norm < 1e-9
    assert refit.converged
    assert len(refit.excluded) == 5


def test_random_starts_reach_the_optimum(refit):
    assert refit.reached >= 0.95
    assert len(refit.minima) == 1


@pytest.mark.slow
def test_besiroglu_l1_optimum():
    result = fit(besiroglu(), "chinchilla", Loss("l1"))
    assert result.objective <= 1.1294947
    assert result.reached >= 0.95


def test_objective_is_the_authors(refit):
    """The reported objective equals scipy's Huber of the log-sum-exp form, from scratch."""
    p, v = refit.parameters, refit.problem.variables
    terms = [
        np.log(p["A"]) - p["alpha"] * np.log(v["params"]),
        np.log(p["B"]) - p["beta"] * np.log(v["tokens"]),
        np.full(240, np.log(p["E"])),
    ]
    r = special.logsumexp(terms, axis=0) - np.log(refit.problem.target)
    assert np.sum(special.huber(1e-3, r)) == pytest.approx(refit.objective, rel=1e-12)


def test_sum_and_mean_stop_at_the_same_point(refit):
    mean = fit(besiroglu(), "chinchilla", Loss(reduction="mean"))
    assert mean.objective == pytest.approx(refit.objective / 240, rel=1e-12)
    assert mean.parameters == refit.parameters


@pytest.mark.parametrize("off_centre", [1.0, 3.0])
@pytest.mark.parametrize("loss", [Loss(), Loss("lsq")], ids=["huber", "lsq"])
def test_noise_free_exponents(off_centre, loss):
    result = fit(surface(off_centre=off_centre), "chinchilla", loss)
    for name in ("alpha", "beta"):
        assert result.parameters[name] == pytest.approx(TRUTH[name], abs=1e-8)
    assert result.parameters["E"] == pytest.approx(TRUTH["E"], rel=1e-8)


def test_fixed_tied_and_bounded():
    data = surface(0.005)
    fixed = fit(data, "chinchilla", fix={"E": 1.8}, tie={"beta": "alpha"})
    assert fixed.parameters["E"] == 1.8
    assert fixed.parameters["alpha"] == fixed.parameters["beta"]
    bounded = fit(data, "chinchilla", bounds={"alpha": (0.0, 0.3)})
    assert bounded.parameters["alpha"] == pytest.approx(0.3)
    assert bounded.at_bound == ("alpha",)
    assert any("alpha" in w and "bound" in w for w in bounded.warnings)


def test_asymmetric_loss_lowers_the_curve():
    data = surface(0.01)
    even, harsh = (fit(data, "chinchilla", Loss("lsq", over=o)) for o in (1.0, 10.0))
    assert harsh.residuals.mean() < even.residuals.mean() - 0.002


def test_weights_equal_repeated_rows():
    data = surface(0.01, budgets=4, sizes=6)
    weights = np.ones(24)
    weights[:5] = 2
    weighted = fit(data, "chinchilla", Loss("lsq"), weights=weights)
    doubled = fit(
        {k: np.concatenate([v, v[:5]]) for k, v in data.items()}, "chinchilla", Loss("lsq")
    )
    for name, value in weighted.parameters.items():
        assert doubled.parameters[name] == pytest.approx(value, rel=1e-6)


def test_user_law_in_a_few_lines_matches_scipy():
    law = Law(
        name="mine",
        equation="L = E + A / N^alpha",
        variables=(PARAMS,),
        parameters=(offset("E"), coefficient("A"), exponent("alpha")),
        formula=lambda p, v: p.E + p.A * power(v.params, -p.alpha),
        linear=("E", "A"),
        space="raw",
    )
    n = np.geomspace(1e6, 1e10, 30)
    rng = np.random.default_rng(0)
    y = 1.7 + 300 * n**-0.3 + 0.01 * rng.standard_normal(30)
    result = fit({"params": n, "loss": y}, law, Loss("lsq", space="raw"))
    theirs, _ = optimize.curve_fit(lambda x, e, a, al: e + a * x**-al, n, y, p0=(1.7, 300, 0.3))
    ours = [result.parameters[k] for k in ("E", "A", "alpha")]
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_float32_outside_is_untouched(refit):
    assert jnp.ones(3).dtype == jnp.float32
    assert refit.vector.dtype == np.float64


def test_too_few_points_and_no_evidence_are_told():
    data = {k: v[:4] for k, v in surface().items()}
    with pytest.raises(LawError, match="4 usable points cannot determine 5 free parameters"):
        fit(data, "chinchilla")
    data = {k: v[:6] for k, v in surface(0.01, sizes=3).items()}
    assert any("only 6 points" in w for w in fit(data, "chinchilla").warnings)


def test_one_budget_and_constant_columns_are_told():
    one = {k: v[:8] for k, v in surface(0.001).items()}
    assert any("one compute budget" in w for w in fit(one, "chinchilla").warnings)
    data = surface(0.01)
    data["tokens"] = np.full_like(data["tokens"], 1e9)
    warnings = fit(data, "chinchilla").warnings
    assert any("single value" in w for w in warnings)
    assert any("cannot be told apart" in w or "trade off" in w for w in warnings)


def test_a_loss_that_rises_with_size_is_fitted_and_told():
    """An accuracy in place of a loss: no term survives, so no exponent of the optimum exists."""
    data = surface()
    data["loss"] = 1 / data["loss"]
    result = fit(data, "chinchilla")
    text = " ".join(result.warnings)
    assert "less than half" in text
    assert not np.isfinite(result.derived["a"]) or "plays no part" in text or "bound" in text


def test_tables_share_few_padded_sizes():
    """Programs are compiled once a size: many tables in one process do not fill its memory."""
    sizes = {bucket(n) for n in range(1, 2049)}
    assert sizes == {64, 128, 256, 512, 1024, 2048}
    assert all(bucket(n) >= n for n in range(1, 5000))
