"""Allocation, forecasts, comparison, approaches 1 and 2, conventions."""

import numpy as np
import pytest
from laws.law_data import TRUTH, surface

from scaling.laws import LawError, Loss, bootstrap, compare, fit, forecast, optimum
from scaling.laws.allocation import Cost, iso_loss
from scaling.laws.comparison import leave_largest_out, seed_noise, seed_weights
from scaling.laws.conventions import Shape, convention_effect, flops_per_token, param_counts
from scaling.laws.isoflop import approach1, approach2, group_budgets
from scaling.laws.table import Table


@pytest.fixture(scope="module")
def exact():
    return fit(surface(), "chinchilla", Loss("lsq"))


@pytest.fixture(scope="module")
def noisy():
    return fit(surface(0.005), "chinchilla", Loss("lsq"))


@pytest.fixture(scope="module")
def draws(noisy):
    return bootstrap(noisy, 200)


def test_optimum_is_the_closed_form(exact):
    """N* = G (C/6)^(beta/(alpha+beta)), Hoffmann et al. 2022, equation 4."""
    for found in optimum(exact, [1e19, 1e22]):
        a, b = TRUTH["alpha"], TRUTH["beta"]
        g = (a * TRUTH["A"] / (b * TRUTH["B"])) ** (1 / (a + b))
        n = g * (found.flops / 6) ** (b / (a + b))
        assert found.params == pytest.approx(n, rel=1e-5)
        assert found.params * found.tokens * 6 == pytest.approx(found.flops, rel=1e-12)
    assert optimum(exact, [1e22])[0].warnings


def test_served_tokens_and_exact_flops_move_the_optimum(exact):
    plain = optimum(exact, [1e21])[0]
    served = optimum(exact, [1e21], inference_tokens=1e12)[0]
    assert served.params < 0.8 * plain.params
    total = 6 * served.params * served.tokens + 2 * served.params * 1e12
    assert total == pytest.approx(1e21, rel=1e-9)
    n, d = np.array([1e8, 1e9, 1e10]), np.full(3, 1e10)
    double = Cost.from_table(Table.from_columns({"params": n, "tokens": d, "flops": 12 * n * d}))
    half = optimum(exact, [1e21], cost=double)[0]
    assert half.params == pytest.approx(optimum(exact, [5e20])[0].params, rel=1e-5)


def test_iso_loss_meets_the_loss(exact):
    n = np.array([1e6, 1e9, 1e10])
    d = iso_loss(exact, 2.3, n)
    assert np.isinf(d[0])
    np.testing.assert_allclose(exact.predict(params=n[1:], tokens=d[1:]), 2.3, rtol=1e-9)


def test_intervals_of_the_optimum_hold_the_truth(noisy, draws):
    found = optimum(noisy, [1e20], draws)[0]
    low, high = found.intervals["params"]
    assert low < found.params < high
    assert found.outside == 1.0


def test_forecast_says_how_far_outside_it_is(noisy, draws):
    inside = forecast(noisy, {"params": 1e9, "tokens": 1e10}, draws)
    far = forecast(noisy, {"params": 1e11, "tokens": 1e13}, draws)
    assert not inside.outside
    assert far.outside["compute 6ND"] > 1000
    assert len(far.warnings) >= 3
    for found in (inside, far):
        assert found.run_interval[0] < found.mean_interval[0] < found.value
        assert found.value < found.mean_interval[1] < found.run_interval[1]
    with pytest.raises(LawError, match="needs exactly"):
        forecast(noisy, {"params": 1e9}, draws)


def test_comparison_prefers_the_true_law(noisy):
    table = Table.from_columns(surface(0.005))
    scores = compare(table, ["kaplan_nd", "chinchilla"], Loss("lsq"))
    assert [s.law for s in scores] == ["chinchilla", "kaplan_nd"]
    assert scores[0].held_out == pytest.approx(0.005, rel=0.3)
    assert scores[0].aicc < scores[1].aicc
    assert scores[0].bic < scores[1].bic
    assert np.abs(np.mean(leave_largest_out(noisy))) < 0.01


def test_seed_noise_and_weights():
    base = surface(budgets=4, sizes=6)
    repeated = {k: np.tile(v, 4) for k, v in base.items()}
    rng = np.random.default_rng(0)
    noise = np.where(repeated["params"] > np.median(repeated["params"]), 0.002, 0.02)
    repeated["loss"] = repeated["loss"] * np.exp(noise * rng.standard_normal(96))
    result = fit(repeated, "chinchilla", Loss("lsq"))
    deviation, freedom = seed_noise(result)
    assert freedom == 72
    spread = np.log(repeated["loss"]).reshape(4, 24).var(axis=0, ddof=1)
    assert deviation == pytest.approx(np.sqrt(spread.mean()), rel=1e-9)
    weights = seed_weights(result)
    assert weights[noise < 0.01].mean() > 2 * weights[noise > 0.01].mean()
    with pytest.raises(LawError, match="none do"):
        seed_weights(fit(surface(0.01), "chinchilla"))


def test_budgets_are_grouped_despite_scatter():
    rng = np.random.default_rng(0)
    flops = np.repeat([1e19, 3e19, 1e20], 20) * np.exp(rng.uniform(-0.1, 0.1, 60))
    assert np.array_equal(group_budgets(flops), np.repeat([0, 1, 2], 20))


def test_approach2_on_a_symmetric_surface():
    """With alpha = beta and centred sampling the parabola is unbiased: exponent 1/2."""
    truth = {"E": 1.8, "A": 500.0, "B": 500.0, "alpha": 0.35, "beta": 0.35}
    data = surface(truth=truth, sizes=9, off_centre=10.0)
    flops = 6 * data["params"] * data["tokens"]
    found = approach2(data["params"], data["loss"], flops, resamples=50)
    assert found.exponent == pytest.approx(0.5, abs=1e-6)
    akima = approach2(data["params"], data["loss"], flops, method="akima", resamples=50)
    assert akima.exponent == pytest.approx(0.5, abs=0.02)


def test_approach2_diagnoses_bad_sampling():
    data = surface(sizes=6, off_centre=40.0)
    flops = 6 * data["params"] * data["tokens"]
    found = approach2(data["params"], data["loss"], flops, resamples=20)
    text = " ".join(found.warnings)
    assert "off-centre" in text or "outside the sampled sizes" in text
    assert "extend the grid" in text
    with pytest.raises(LawError, match="at least 2"):
        approach2(data["params"][:6], data["loss"][:6], flops[:6])


def test_approach1_envelope():
    sizes = np.geomspace(3e7, 3e9, 16)
    share = np.linspace(0.02, 1, 60)
    n = np.repeat(sizes, 60)
    d = np.tile(share, 16) * 100 * n
    loss = TRUTH["E"] + TRUTH["A"] * n**-0.36 + TRUTH["B"] * d**-0.36
    found = approach1(n, 6 * n * d, loss, np.repeat(np.arange(16), 60), resamples=30)
    assert found.exponent == pytest.approx(0.5, abs=0.05)
    with pytest.raises(LawError, match="training curves"):
        approach1(sizes, sizes, sizes, np.arange(16))


def test_counts_of_conventions():
    shape = Shape(layers=12, width=768, vocab=50_000, context=1024)
    counts = param_counts(shape)
    assert counts["non_embedding"] == 12 * 12 * 768**2
    assert counts["total"] - counts["with_head"] == 50_000 * 768
    assert flops_per_token(shape, "kaplan") == 72 * 12 * 768**2
    extra = flops_per_token(shape, "with_head_attention") - flops_per_token(shape, "with_head")
    assert extra == 6 * 12 * 1024 * 768
    assert flops_per_token(shape, "deepseek") == 72 * 12 * 768**2 + 12 * 12 * 1024 * 768
    with pytest.raises(LawError, match="not one of"):
        flops_per_token(shape, "six")


def test_changing_the_count_changes_the_exponent():
    data = surface(0.0)
    data["params_ne"] = data["params"]
    data["params_all"] = data["params"] + 5e4 * np.cbrt(data["params"])
    effects = convention_effect(
        Table.from_columns(data),
        {"non-embedding": {"params": "params_ne"}, "total": {"params": "params_all"}},
    )
    assert effects[0].a == pytest.approx(0.37 / 0.72, abs=1e-6)
    assert effects[1].alpha > effects[0].alpha + 0.01
