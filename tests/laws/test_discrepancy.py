"""The form's part of an interval: nothing inside the data, more with distance, right on average."""

import dataclasses

import numpy as np
import pytest
from laws.law_data import surface

from scaling.laws import Loss, bootstrap, discrepancy, fit, forecast, forecasting
from scaling.laws.discrepancy import Constants, decades, graded_factor


def width(found):
    low, high = found.run_interval
    return np.log(high / low)


@pytest.fixture(scope="module")
def combination():
    result = fit(surface(0.005), "combined", Loss("lsq"), starts=4)
    return result, bootstrap(result, 200)


def test_the_form_adds_nothing_inside_and_grows_outside(noisy, draws, combination, monkeypatch):
    inside, far = {"params": 1e9, "tokens": 1e10}, {"params": 1e10, "tokens": 1e12}
    further = {"params": 1e11, "tokens": 1e13}
    for result, resamples in ((noisy, draws), combination):
        with_form = [forecast(result, at, resamples) for at in (inside, far, further)]
        monkeypatch.setattr(forecasting, "form_at", lambda *_: None)
        without = [forecast(result, at, resamples) for at in (inside, far, further)]
        monkeypatch.undo()
        assert with_form[0].run_interval == without[0].run_interval
        assert with_form[0].mean_interval == without[0].mean_interval
        more = [width(w) ** 2 - width(o) ** 2 for w, o in zip(with_form, without, strict=True)]
        assert 0 < more[1] < more[2]
        assert with_form[1].form.decades < with_form[2].form.decades
        assert with_form[1].public["points"] > 0
        assert with_form[0].public is None


def test_the_scale_by_hand():
    of = Constants(per_decade=0.03, misfit=2.0, disagreement=0.5, freedom=5.0)
    # 0.04 = misfit x residual, 0.05 = their root of squares, over two decades; 0.24 from rivals.
    assert of.scale(np.array(2.0), np.array(0.02), np.array(0.48)) == pytest.approx(0.26)
    assert of.scale(np.array(0.0), np.array(0.02), np.array(0.48)) == 0
    half = np.log10(3) / 2
    alone = dataclasses.replace(of, per_decade=0.0, misfit=0.0)
    assert alone.scale(np.array(half), np.array(0.02), np.array(0.48)) == pytest.approx(0.12)
    assert decades({"params": 10.0, "tokens per parameter": 1e6}) == 1
    assert decades({}) == 0


def test_a_raw_space_gets_the_same_relative_error(noisy):
    errors = np.array([-0.1, 0.0, 0.2])
    values = np.array([2.0, 3.0, 4.0])
    for space in ("log", "raw", "log1p"):
        linked = forecasting.link(space, values)
        found = forecasting.unlink(space, forecasting.moved(space, linked, values, errors))
        np.testing.assert_allclose(found, values * np.exp(errors))


def test_laws_of_other_targets_say_that_nothing_is_known_of_their_form():
    size = np.geomspace(1e15, 1e18, 20)
    rate = 0.3 * size**-0.1 * np.exp(0.01 * np.random.default_rng(0).standard_normal(20))
    result = fit({"flops": size, "learning_rate": rate}, "lr_compute", Loss("lsq"), starts=4)
    found = forecast(result, {"flops": 1e20}, bootstrap(result, 50))
    assert found.form is None
    assert any("trusts the form" in text for text in found.warnings)


def test_graded_forecasts_move_the_scale_towards_what_they_show():
    prior = discrepancy.published()["families"]
    assert graded_factor([]) == (1.0, 0)
    wrong = [(f"fit{i}", 0.06, 0.02) for i in range(8)]
    factor, fits = graded_factor(wrong)
    assert fits == 8
    assert factor == pytest.approx(np.sqrt((prior + 8 * 9) / (prior + 8)))
    # Ten forecasts of one fit share its form: they say as much as one.
    assert graded_factor([("one", 0.06, 0.02)] * 10) == graded_factor(wrong[:1])
    assert graded_factor([("one", 0.0, 0.02)])[0] < 1
