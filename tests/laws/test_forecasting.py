"""Predictions for runs that were not made."""

import pytest

from scaling.laws import LawError, forecast


def test_forecast_says_how_far_outside_it_is(noisy, draws):
    inside = forecast(noisy, {"params": 1e9, "tokens": 1e10}, draws)
    far = forecast(noisy, {"params": 1e11, "tokens": 1e13}, draws)
    assert not inside.outside
    assert far.outside["compute 6ND"] > 1000
    assert len(far.warnings) >= 3
    for found in (inside, far):
        assert found.run_interval[0] <= found.mean_interval[0] < found.value
        assert found.value < found.mean_interval[1] <= found.run_interval[1]
    assert inside.run_interval[0] < inside.mean_interval[0]
    assert inside.mean_interval[1] < inside.run_interval[1]
    with pytest.raises(LawError, match="needs exactly"):
        forecast(noisy, {"params": 1e9}, draws)


@pytest.mark.parametrize("size", [0.0, -1e9])
def test_a_forecast_needs_a_run_that_can_be(noisy, draws, size):
    with pytest.raises(LawError, match="needs params above 0"):
        forecast(noisy, {"params": size, "tokens": 1e10}, draws)
