"""Compute-optimal allocation, closed forms and intervals."""

import numpy as np
import pytest
from laws.law_data import TRUTH, surface

from scaling.laws import LawError, optimum
from scaling.laws.allocation import FlopsPerToken
from scaling.laws.table import Table


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
    double = FlopsPerToken.from_table(
        Table.from_columns({"params": n, "tokens": d, "flops": 12 * n * d})
    )
    half = optimum(exact, [1e21], cost=double)[0]
    assert half.params == pytest.approx(optimum(exact, [5e20])[0].params, rel=1e-5)


def test_a_budget_and_the_data_are_in_the_same_flops(exact):
    """The table's own largest budget is inside, whatever its FLOPs are; another unit is noticed."""
    data = surface()
    flops = 3 * 6 * data["params"] * data["tokens"]
    thrice = FlopsPerToken.from_table(Table.from_columns({**data, "flops": flops}))
    assert optimum(exact, [flops.max()], cost=thrice)[0].outside == 1
    assert not thrice.warnings
    giga = FlopsPerToken.from_table(Table.from_columns({**data, "flops": flops / 1e9}))
    assert "3e-09 times 6 params tokens: is it in FLOP" in giga.warnings[0]
    with pytest.raises(LawError, match="no row has params, tokens and flops above 0"):
        FlopsPerToken.from_table(Table.from_columns({**data, "flops": 0 * flops}))


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
