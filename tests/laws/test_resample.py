"""Bootstrap: published standard errors, clusters, coverage."""

import numpy as np
import pytest
from laws.law_data import TRUTH, besiroglu, surface

from scaling.laws import LawError, Loss, bootstrap, fit, resample
from scaling.laws.record import _interval_note
from scaling.laws.resample import expanded_percentiles, resample_counts
from scaling.laws.solver import Solution, solve


def published_counts(resamples):
    """The resamples of the paper's notebook: legacy generator, seed 42, one choice a resample."""
    generator = np.random.RandomState(42)
    picks = (generator.choice(np.arange(240), size=240, replace=True) for _ in range(resamples))
    return np.stack([np.bincount(p, minlength=240) for p in picks]).astype(float)


@pytest.mark.parametrize("resamples", [300, pytest.param(4000, marks=pytest.mark.slow)])
def test_besiroglu_standard_errors(resamples):
    draws = bootstrap(fit(besiroglu(), "chinchilla"), counts=published_counts(resamples))
    first = {k: v[0] for k, v in draws.parameters.items()}
    printed = {"A": 349.556, "B": 2356.248, "E": 1.793330, "alpha": 0.328633, "beta": 0.371855}
    for name, value in printed.items():
        assert first[name] == pytest.approx(value, rel=3e-5)
    assert draws.converged > 0.995
    tolerance = 0.005 if resamples == 4000 else 0.15
    published = {"A": 124.5, "B": 1293.0, "E": 0.02566, "alpha": 0.0154, "beta": 0.0206}
    errors = draws.standard_errors()
    for name, value in published.items():
        assert errors[name] == pytest.approx(value, rel=tolerance)


def test_clusters_are_drawn_whole():
    clusters = np.repeat([3, 7, 9], 4)
    counts = resample_counts(clusters, 50, 0)
    assert counts.shape == (50, 12)
    assert np.all(counts.reshape(50, 3, 4) == counts.reshape(50, 3, 4)[:, :, :1])
    assert np.all(counts.sum(axis=1) == 12)


def test_checkpoints_of_one_run_widen_the_interval():
    data = surface(0.0, budgets=5, sizes=6)
    rng = np.random.default_rng(1)
    shared = {k: np.repeat(v, 5) for k, v in data.items()}
    shared["tokens"] = shared["tokens"] * np.tile(np.linspace(0.6, 1, 5), 30)
    shared["loss"] = (
        TRUTH["E"] + TRUTH["A"] * shared["params"] ** -0.35 + TRUTH["B"] * shared["tokens"] ** -0.37
    ) * np.exp(np.repeat(0.01 * rng.standard_normal(30), 5))
    table = {**shared, "run_id": [f"run{i}" for i in np.repeat(np.arange(30), 5)]}
    result = fit(table, "chinchilla", Loss("lsq"))
    runs = bootstrap(result, 200)
    points = bootstrap(result, 200, "points")
    assert runs.kind == "runs"
    assert runs.units == 30
    assert runs.standard_errors()["beta"] > 1.3 * points.standard_errors()["beta"]


def test_parametric_agrees_with_points_on_clean_noise():
    result = fit(surface(0.005, budgets=9, sizes=12), "chinchilla", Loss("lsq"))
    a = bootstrap(result, 300, "parametric").standard_errors()["alpha"]
    b = bootstrap(result, 300, "points").standard_errors()["alpha"]
    assert a == pytest.approx(b, rel=0.3)


def test_wrong_kind_is_refused():
    result = fit(surface(0.01), "chinchilla")
    with pytest.raises(LawError, match="'rows' is not one of"):
        bootstrap(result, 10, "rows")


@pytest.mark.parametrize(
    ("loss", "kind", "widened"),
    [
        (Loss("lsq"), None, True),
        (Loss("huber", delta=1.0), None, True),  # every residual is squared
        (Loss("huber"), None, False),  # noise of five times delta
        (Loss("huber"), "parametric", True),
    ],
)
def test_percentiles_are_widened_where_errors_are_squared(loss, kind, widened):
    """And the report says which."""
    result = fit(surface(0.005, budgets=5, sizes=5), "chinchilla", loss)
    draws = bootstrap(result, 40, kind)
    values = np.linspace(0, 1, 10_001)
    tails = expanded_percentiles(0.95, 25, 5) if widened else (0.025, 0.975)
    assert draws.interval(values) == pytest.approx(tails, abs=1e-4)
    assert draws.interval(values)[0] < (0.01 if widened else 0.026)
    assert ("plain percentiles" in _interval_note(draws)) != widened


def test_resamples_that_do_not_converge_are_left_out_and_counted(monkeypatch):
    x = np.geomspace(1e3, 1e6, 30)
    y = 5 * x**-0.3 * np.exp(0.01 * np.random.default_rng(0).standard_normal(30))
    result = fit({"examples": x, "loss": y}, "m1", Loss("lsq"))
    found = resample.refit

    def failing(*arguments):
        vectors, converged = found(*arguments)
        return vectors, converged & (np.arange(len(vectors)) >= 3)

    monkeypatch.setattr(resample, "refit", failing)
    draws = bootstrap(result, 20)
    assert (len(draws), draws.dropped) == (17, 3)
    assert len(draws.parameters["c"]) == 17
    with pytest.raises(LawError, match="3 of 5"):
        bootstrap(result, 5)


def test_a_parameter_without_end_does_not_stop_its_resamples():
    """Where excess parameters lose nothing R_N has no end; the other six are found all the same."""
    n, unique, passes = (
        x.ravel()
        for x in np.meshgrid(
            np.geomspace(1e7, 3e9, 5),
            np.geomspace(1e8, 1e10, 4),
            [1.0, 2.0, 5.0, 20.0, 60.0],
            indexing="ij",
        )
    )
    worth = unique * (1 + 20 * (1 - np.exp(-(passes - 1) / 20)))
    noise = np.exp(0.01 * np.random.default_rng(0).standard_normal(len(n)))
    loss = (1.8 + 400 / n**0.34 + 410 / worth**0.28) * noise
    columns = {"params": n, "tokens": unique * passes, "unique_tokens": unique, "loss": loss}
    result = fit(columns, "data_constrained")
    assert result.parameters["R_N"] > 1e9
    draws = bootstrap(result, 60)
    assert draws.converged > 0.9
    low, high = draws.interval(draws.parameters["R_D"])
    assert 10 < low < 20 < high < 40


def test_delta_follows_the_noise_only_where_asked():
    x = np.geomspace(1e3, 1e6, 40)
    y = 5 * x**-0.3 * np.exp(0.05 * np.random.default_rng(0).standard_normal(40))
    columns = {"examples": x, "loss": y}
    assert fit(columns, "m1").loss.delta == 1e-3
    adapted = fit(columns, "m1", adapt=True)
    assert 0.04 < adapted.loss.delta < 0.1  # 1.345 * 0.05 = 0.067
    assert "residuals" in adapted.conventions["delta"]


def test_starts_that_never_win_are_tried_on_the_first_resamples_only(noisy, monkeypatch):
    lanes = []

    def counted(problem, starts, **options):
        lanes.append(len(starts))
        return solve(problem, starts, **options)

    monkeypatch.setattr(resample, "solve", counted)
    draws = bootstrap(noisy, 600)
    assert lanes == [600, 60]
    everywhere = resample.refit(noisy, resample_counts(np.arange(72), 600, 0), search=False)[0]
    np.testing.assert_allclose(draws.vectors, everywhere, rtol=1e-4)


def test_a_start_that_is_on_its_way_does_not_lose_to_another(noisy, monkeypatch):
    """In a valley each start is a little lower than the one before, until it is at its end."""
    calls = []

    def slow(problem, begin, *, max_steps, **options):
        ended = np.full(len(begin), max_steps > resample.FIRST_STEPS)
        calls.append((len(begin), max_steps))
        values = np.where(ended, 1.0, 1.0 + 1e-4 / len(calls))
        steps = np.full(len(begin), max_steps)
        return Solution(begin, begin, values, np.ones(len(begin)), steps, ended)

    monkeypatch.setattr(resample, "solve", slow)
    starts = [np.tile(noisy.vector, (100, 1))] * 3
    _, good = resample._best(noisy.problem, starts)
    assert good.all()
    assert calls == [(100, 60), (100, 300), (60, 60), (60, 60)]
