"""Errors on runs left out, and the noise between seeds."""

import dataclasses

import numpy as np
import pytest
from laws.law_data import surface

from scaling.laws import LawError, Loss, compare, comparison, fit
from scaling.laws.comparison import (
    leave_largest_out,
    rolling_origin,
    score,
    seed_noise,
    seed_weights,
)
from scaling.laws.table import Table


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


def test_laws_are_ranked_by_extrapolation_and_not_by_random_folds(monkeypatch):
    x = np.geomspace(1e3, 1e6, 40)
    noise = 0.002 * np.random.default_rng(1).standard_normal(40)
    loss = (1.5 + 40 * x**-0.4) * np.exp(noise)
    table = Table.from_columns({"examples": x, "loss": loss})
    scores = compare(table, ["m1", "m2"], Loss("lsq"))
    assert [s.law for s in scores] == ["m2", "m1"]
    swapped = {s.law: 1.0 - s.held_out for s in scores}

    def upside_down(result, *_):
        return dataclasses.replace(score(result), held_out=swapped[result.law.name])

    monkeypatch.setattr(comparison, "score", upside_down)
    assert [s.law for s in compare(table, ["m1", "m2"], Loss("lsq"))] == ["m2", "m1"]


def test_rolling_origin_by_hand():
    x = np.geomspace(1, 32, 11)  # half-octaves: 1/2, 1/4, 1/8 and 1/16 leave 9, 7, 5 and 3 below
    loss = 2 * x**-0.3 * np.exp(0.01 * np.random.default_rng(0).standard_normal(11))
    errors = []
    for last in (9, 7, 5):
        below = fit({"examples": x[:last], "loss": loss[:last]}, "m1", Loss("lsq"))
        beyond = np.log(below.predict(examples=x[last:]) / loss[last:])
        errors.append(np.mean(beyond**2))
    three = fit({"examples": x, "loss": loss}, "m1", Loss("lsq"))
    assert rolling_origin(three) == pytest.approx(np.sqrt(np.mean(errors)), rel=1e-5)


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
