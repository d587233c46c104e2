"""Chip-hours and money."""

import dataclasses

import pytest

from scaling.configs import ConfigError
from scaling.planning import cost, roofline, topology


def test_prices_have_a_source_and_a_date():
    for price in cost.PRICES.values():
        assert price.dollars > 0
        assert price.source
        assert price.date
    assert cost.price_of(topology.parse("v6e-8")).dollars == 2.70
    assert cost.price_of(topology.parse("v7x-8")) is None
    assert cost.price_of(topology.parse("v5e-8"), 1.5).dollars == 1.5


def test_a_run_costs_its_steps():
    @dataclasses.dataclass
    class Plan:
        estimate = roofline.Estimate(1.0, 2.0, {}, "matrix")
        steps, tokens = 3600, 1000.0
        target = topology.parse("v6e-8")

    spent = cost.cost(Plan())
    assert spent.hours == (1.0, 2.0)
    assert spent.chip_hours == (8.0, 16.0)
    assert spent.dollars == pytest.approx((8 * 2.70, 16 * 2.70))
    assert spent.tokens_per_second == (500.0, 1000.0)


def test_budgets_in_hours_and_money():
    assert cost.chip_hours("1000h", None) == 1000
    assert cost.chip_hours("4,200usd", cost.Price(4.2, "", "")) == pytest.approx(1000)
    assert cost.chip_hours("5e4h", None) == 50_000
    for text, price in [
        ("1.2.3h", None),
        ("12", None),
        ("h", None),
        ("-3h", None),
        ("100usd", None),
    ]:
        with pytest.raises(ConfigError, match="--budget"):
            cost.chip_hours(text, price)
