"""Warnings about isoFLOP grids: before they run by a rule, afterwards by what they found."""

import json

import pytest

from scaling import configs
from scaling.sweeps import chinchilla, from_fit
from scaling.sweeps.budgets import best_rates, grid_warnings


def rows(params, losses=None, budget=1e12):
    losses = losses or [None] * len(params)
    return [{"budget": budget, "params": n, "loss": x} for n, x in zip(params, losses, strict=True)]


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ((10_000, 20_000, 30_000), "at the edge"),
        ((80_000, 100_000, 600_000, 900_000), "off the centre"),
        ((25_000, 91_000, 350_000), None),
        ((25_000, 350_000), "fewer than 3 sizes"),
    ],
)
def test_a_grid_is_judged_by_the_rule_before_it_runs(params, words):
    found = grid_warnings(rows(params), chinchilla(), "the rule")
    assert (words in found[0]) if words else not found


@pytest.mark.parametrize(
    ("losses", "words"),
    [((3.0, 2.0, 2.5), None), ((1.0, 2.0, 3.0), "smallest"), ((3.0, 2.0, 1.0), "largest")],
)
def test_a_grid_that_has_run_is_judged_by_its_losses(losses, words):
    found = grid_warnings(rows((1, 2, 3), losses), chinchilla(), "the rule")
    assert (words in found[0]) if words else not found


def test_designs_without_budgets_are_not_judged():
    assert not grid_warnings([{"budget": None, "params": 1, "loss": None}], chinchilla(), "r")


def test_a_fit_gives_the_optimum(tmp_path):
    path = tmp_path / "fit.json"
    p = {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}
    path.write_text(json.dumps({"parameters": p}))
    best = from_fit(path)(1e21)
    losses = [
        p["A"] / n ** p["alpha"] + p["B"] / (1e21 / 6 / n) ** p["beta"]
        for n in (0.97 * best, best, 1.03 * best)
    ]
    assert losses[1] == min(losses)
    path.write_text("{}")
    with pytest.raises(configs.ConfigError, match="not a fit of law chinchilla"):
        from_fit(path)


def test_the_best_rate_of_each_width_and_how_far_it_moves():
    def grid(losses):
        places = [(width, rate) for width in (16, 32) for rate in (0.1, 0.2)]
        return [
            {"model_dim": w, "learning_rate": r, "loss": x}
            for (w, r), x in zip(places, losses, strict=True)
        ]

    assert best_rates(grid([2, 1, 1, 2])).endswith("16: 0.2, 32: 0.1; it moves by a factor of 2")
    assert best_rates(grid([2, 1, 2, 1])).endswith("it does not move")
    assert not best_rates(grid([2, 1, None, None]))
    assert not best_rates([{"model_dim": None, "learning_rate": 0.1, "loss": 1.0}])
