"""Allocation, forecasts, comparison, approaches 1 and 2, conventions."""

import numpy as np
import pytest
from laws.law_data import TRUTH, surface

from scaling.laws import LawError, Loss, bootstrap, compare, fit, forecast, optimum
from scaling.laws.allocation import SIX_ND, Cost
from scaling.laws.comparison import leave_largest_out, score, seed_noise, seed_weights
from scaling.laws.isoflop import approach1, approach2, approaches, group_budgets
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


def test_a_budget_and_the_data_are_in_the_same_flops(exact):
    """The table's own largest budget is inside, whatever its FLOPs are; another unit is noticed."""
    data = surface()
    flops = 3 * 6 * data["params"] * data["tokens"]
    thrice = Cost.from_table(Table.from_columns({**data, "flops": flops}))
    assert optimum(exact, [flops.max()], cost=thrice)[0].outside == 1
    assert not thrice.warnings
    giga = Cost.from_table(Table.from_columns({**data, "flops": flops / 1e9}))
    assert "3e-09 times 6 params tokens: is it in FLOP" in giga.warnings[0]
    with pytest.raises(LawError, match="no row has params, tokens and flops above 0"):
        Cost.from_table(Table.from_columns({**data, "flops": 0 * flops}))


def test_what_cannot_be_allocated_is_refused(exact):
    with pytest.raises(LawError, match=r"1e\+21 FLOP leaves nothing to train with once 1e\+22 tok"):
        optimum(exact, [1e21], inference_tokens=1e22)
    with pytest.raises(LawError, match=r"--at gives \['foo'\]"):
        optimum(exact, [1e21], at={"foo": 3.0})


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


def test_a_fit_is_compared_as_it_stands():
    """With E fixed as asked, not fitted once more without."""
    table = Table.from_columns(surface(0.005))
    fixed = fit(table, "chinchilla", Loss("lsq"), fix={"E": 0.3})
    ranked = {s.law: s for s in compare(table, [fixed, "over_training"], Loss("lsq"))}
    assert ranked["chinchilla"].held_out == score(fixed).held_out
    free = compare(table, ["chinchilla"], Loss("lsq"))[0].held_out
    assert ranked["chinchilla"].held_out > 1.05 * free


@pytest.mark.parametrize("size", [0.0, -1e9])
def test_a_forecast_needs_a_run_that_can_be(noisy, draws, size):
    with pytest.raises(LawError, match="needs params above 0"):
        forecast(noisy, {"params": size, "tokens": 1e10}, draws)


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


@pytest.mark.filterwarnings("error")  # such as of a parabola through two sizes
def test_the_other_approaches_stand_beside_the_law():
    """Steps of a run are a curve for approach 1, budgets give approach 2; both doubt out loud."""
    result = fit(surface(), "chinchilla", Loss("lsq"))
    found, told = approaches(result, SIX_ND)
    assert [f["approach"] for f in found] == ["isoFLOP minima (approach 2)"]
    truth = TRUTH["beta"] / (TRUTH["alpha"] + TRUTH["beta"])
    assert found[0]["exponent"] == pytest.approx(truth, abs=0.02)
    assert len(found[0]["minima"]) == 9
    assert not any("largest model" in w for w in told)

    shifted = fit(surface(off_centre=0.1), "chinchilla", Loss("lsq"))
    _, told = approaches(shifted, SIX_ND)
    assert "9 of 9 budgets are doubtful" in told[0]
    assert "the lowest loss is at the largest model: extend the grid (9)" in told[0]

    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 3e9, 12), np.geomspace(1e8, 1e12, 40)))
    loss = TRUTH["E"] + TRUTH["A"] * n ** -TRUTH["alpha"] + TRUTH["B"] * d ** -TRUTH["beta"]
    steps = {"params": n, "tokens": d, "loss": loss, "run_id": [f"{v:.3g}" for v in n]}
    found, _ = approaches(fit(steps, "chinchilla", Loss("lsq")), SIX_ND)
    envelope = [f for f in found if f["approach"].startswith("envelope")]
    assert envelope[0]["exponent"] == pytest.approx(truth, abs=0.05)
    assert approaches(fit(steps, "henighan_n", Loss("lsq")), SIX_ND) == ([], [])
