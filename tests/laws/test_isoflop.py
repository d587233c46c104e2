"""Approaches 1 and 2."""

import numpy as np
import pytest
from laws.law_data import TRUTH, surface

from scaling.laws import LawError, Loss, fit
from scaling.laws.allocation import SIX_ND
from scaling.laws.isoflop import approach1, approach2, approaches, disagreement, group_budgets


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
    data = surface(sizes=6, off_centre=12.0)
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
    found, told = approaches(shifted, SIX_ND)
    assert found == []
    assert "isoFLOP minima (approach 2): 0 budgets have a minimum" in told[0]
    assert "the lowest loss is at the largest model: extend the grid" in told[0]

    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 3e9, 12), np.geomspace(1e8, 1e12, 40)))
    loss = TRUTH["E"] + TRUTH["A"] * n ** -TRUTH["alpha"] + TRUTH["B"] * d ** -TRUTH["beta"]
    steps = {"params": n, "tokens": d, "loss": loss, "run_id": [f"{v:.3g}" for v in n]}
    found, _ = approaches(fit(steps, "chinchilla", Loss("lsq")), SIX_ND)
    envelope = [f for f in found if f["approach"].startswith("envelope")]
    assert envelope[0]["exponent"] == pytest.approx(truth, abs=0.05)
    assert approaches(fit(steps, "henighan_n", Loss("lsq")), SIX_ND) == ([], [])


def test_close_budgets_are_split_at_gaps():
    """26 budgets 24 % apart were merged into 14 by the width of a window."""
    budgets = 1e18 * 1.24 ** np.arange(26)
    rng = np.random.default_rng(0)
    flops = np.repeat(budgets, 6) * np.exp(rng.uniform(-0.01, 0.01, 156))
    shuffled = rng.permutation(156)
    expected = np.repeat(np.arange(26), 6)[shuffled]
    assert np.array_equal(group_budgets(flops[shuffled]), expected)


def test_estimate_and_resamples_share_the_rule_for_far_minima():
    """A vertex beyond the sampled sizes is an extrapolation of a parabola, and bends the line."""
    sizes = np.geomspace(1e8, 1e10, 7)
    params, flops, loss = [], [], []
    for k, budget in enumerate(np.geomspace(1e19, 1e22, 6)):
        best = 0.2 * budget**0.5 if k < 5 else 5e10
        params.append(sizes)
        flops.append(np.full(7, budget))
        loss.append(2.0 * np.exp(0.01 * np.log(sizes / best) ** 2))
    found = approach2(*(np.concatenate(v) for v in (params, loss, flops)), resamples=60)
    assert found.exponent == pytest.approx(0.5, abs=1e-6)
    assert found.interval[0] - 1e-6 <= found.exponent <= found.interval[1] + 1e-6
    assert any("1 budgets have no minimum near the sampled sizes" in w for w in found.warnings)


def test_approaches_that_disagree_say_so():
    way = {"approach": "envelope", "exponent": 0.65, "interval": (0.6, 0.7)}
    assert disagreement([way], 0.62, (0.55, 0.66)) == []
    assert disagreement([way], None, None) == []
    (told,) = disagreement([way], 0.5, (0.45, 0.55))
    assert "envelope 0.650 [0.600, 0.700]" in told
    assert "approach 3) 0.500 [0.450, 0.550]" in told
