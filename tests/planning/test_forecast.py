"""Forecasts: intervals for new runs, honesty about the range of the data, what is refused."""

import functools
import json

import numpy as np
import pytest
from forecast_helpers import config_file, fake_run, tiny_zipf, true_loss, write_table

from scaling.laws import Loss, bootstrap, fit, progress
from scaling.laws.forecasting import simulate
from scaling.plan import main
from scaling.planning import forecast, law_fit, target
from scaling.track import sealed


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_table(tmp_path_factory.mktemp("table") / "runs.csv")


@pytest.fixture(scope="module")
def law(table):
    return law_fit.load(str(table), "chinchilla")


@pytest.fixture(scope="module")
def big():
    return target.describe(tiny_zipf())


def test_the_target_counts_as_the_run_will(big):
    assert big.variables["tokens"] == 1000 * 16 * 63
    assert big.variables["params"] == big.params.total
    assert target.describe(tiny_zipf(), "non_embedding").variables["params"] < big.params.total
    assert big.step_flops == pytest.approx(6 * big.params.total * 16 * 63, rel=0.3)


def test_a_forecast_of_the_loss_is_near_and_says_how_far_out_it_is(law, big, tmp_path):
    content = forecast.build(big, law)
    loss = content["quantities"]["loss"]
    truth = true_loss(big.params.total, 1000 * 16 * 63)
    assert loss["value"] == pytest.approx(truth, rel=0.03)
    assert loss["unit"] == "nats per token"
    (low50, high50), (low95, high95) = loss["interval50"], loss["interval95"]
    assert low95 < low50 < loss["value"] < high50 < high95
    assert low95 < truth < high95
    assert high95 - low95 < 0.5
    outside = content["outside"]
    assert outside["tokens"] == pytest.approx(1000 * 16 * 63 / 1.6e5)
    assert outside["FLOPs"] == pytest.approx(outside["params"] * outside["tokens"])
    assert "beyond the data" in forecast.describe(content)
    assert content["fingerprint"] == big.fingerprint
    path = forecast.write(tmp_path / "run", content)
    assert sealed.read(path)["law"]["table_sha256"] == law.table_sha256


def test_a_table_alone_is_forecast_by_the_combination_and_its_rivals_are_told(table, big):
    content = forecast.build(big, law_fit.load(str(table), None), graded=2.0)
    assert content["law"]["name"] == "combined"
    form = content["form"]
    assert form["rivals"].keys() == {"chinchilla", "kaplan_nd", "over_training"}
    told = forecast.describe(content)
    top = told.splitlines()[1:5]
    assert "at 95 %" in top[0]
    assert "the form's error" in top[1]
    assert "scaled by 2 for your graded forecasts" in top[1]
    assert "on public tables" in top[2]
    assert f"kaplan_nd {form['rivals']['kaplan_nd']:.5g}" in top[3]


def test_what_nothing_speaks_for_is_absent(law, big):
    content = forecast.build(big, law, price=3.0)
    assert content["quantities"].keys() == {"loss"}
    assert content["absent"].keys() == {
        *("step_time", "memory_peak", "tokens_per_second", "chip_hours", "cost")
    }


def test_intervals_are_for_a_new_run_and_not_for_the_curve():
    """With 30 points the curve is known far better than a run scatters: repeats must cover."""
    rng = np.random.default_rng(1)
    params = np.geomspace(1e3, 1e6, 30)
    inside = {0.5: 0, 0.95: 0}
    trials = 40
    for _ in range(trials):
        noise = 0.02 * rng.standard_normal(31)
        table = {"params": params, "loss": (1e9 / params) ** 0.1 * np.exp(noise[:30])}
        result = fit(table, "kaplan_n", Loss("lsq"))
        draws = bootstrap(result, 100)
        found = simulate(result, {"params": 2e6}, draws)
        run = (1e9 / 2e6) ** 0.1 * np.exp(noise[30])
        for level in inside:
            low, high = draws.interval(found.runs, level)
            inside[level] += low <= run <= high
        curve, new = (np.std(values) for values in (found.curves, found.runs))
        assert new > 1.5 * curve
    # 40 draws of a binomial: three standard deviations.
    assert inside[0.95] >= 34
    assert 11 <= inside[0.5] <= 29


def test_a_fit_json_is_repeated_on_its_table(table, law, big, tmp_path, capsys):
    copy = tmp_path / "runs.csv"
    copy.write_text(table.read_text())
    command = f"python -m scaling.fit --runs={copy} --law=chinchilla --out=. --bootstrap=300"
    record = {"law": "chinchilla", "command": command, "points": 20}
    record["objective"] = law.result.objective
    (tmp_path / "fit.json").write_text(json.dumps(record))
    again = law_fit.load(str(tmp_path), None)
    assert again.table_sha256 == law.table_sha256
    content = forecast.build(big, again)
    assert content["law"]["bootstrap"]["resamples"] == 300
    assert content["quantities"]["loss"]["value"] == pytest.approx(
        forecast.build(big, law)["quantities"]["loss"]["value"]
    )
    copy.write_text(copy.read_text().replace(copy.read_text().split()[-1], "1000.0,20000.0,9.9"))
    flags = [f"--config={config_file(tmp_path, tiny_zipf())}", f"--workdir={tmp_path / 'run'}"]
    assert main([*flags, f"--forecast={tmp_path}"]) == 2
    assert "not what" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_that_has_started_is_not_forecast(table, tmp_path, capsys, monkeypatch):
    fake_run(tmp_path / "run", None)
    often = functools.partial(progress.shown, seconds=0.01)
    monkeypatch.setattr(progress, "shown", often)
    command = [f"--config={config_file(tmp_path, tiny_zipf())}", f"--workdir={tmp_path / 'run'}"]
    assert main([*command, f"--forecast={table}", "--law=chinchilla"]) == 2
    told = capsys.readouterr().err
    assert "has started" in told
    # What takes seconds on a larger table shows a sign of life.
    assert "bootstrap of 1,000 resamples: " in told


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--forecast=nowhere.csv"], ["--forecast", "nowhere.csv", "does not exist"]),
        (["--forecast=TABLE", "--law=chincilla"], ["chinchilla"]),
        (["--forecast=TABLE", "--law=data_constrained"], ["unique_tokens"]),
        (["--forecast=TABLE", "--law=chinchilla", "--at=x"], ["--at", "NAME=VALUE"]),
        (["--forecast=TABLE", "--law=chinchilla", "--at=x=2"], ["--at", "x", "params, tokens"]),
        (["--forecast=TABLE", "--law=chinchilla", "--price=lots"], ["--price", "lots"]),
        (["--forecast=TABLE", "--law=chinchilla", "--count=most"], ["--count", "non_embedding"]),
        (["--forecast=TABLE", "--law=chinchilla", "--flops=all"], ["--flops", "exact"]),
        (["--forecast=TABLE", "--law=chinchilla", "--plan=TABLE"], ["--plan", "--topology"]),
        (["--forecast=TABLE", "--law=chinchilla", "--scoreboard=."], ["does not go with"]),
        (["--forecast=TABLE", "--law=critical_batch"], ["critical_batch", "loss"]),
    ],
    ids=str,
)
def test_wrong_input_is_named_with_a_remedy(flags, words, table, tmp_path, capsys):
    given = [flag.replace("TABLE", str(table)) for flag in flags]
    command = [f"--config={config_file(tmp_path, tiny_zipf())}", f"--workdir={tmp_path / 'run'}"]
    assert main([*command, *given]) == 2
    told = capsys.readouterr().err
    assert "Traceback" not in told
    for word in words:
        assert word in told
    assert not (tmp_path / "run").exists()


def test_a_plan_gives_memory_and_a_range_of_time(law, big, table, tmp_path, capsys):
    plan = {
        "target": {"name": "v5e-8", "chips": 8},
        "run_id": big.fingerprint,
        "device_kind": "TPU v5 lite",
        "devices": 8,
        "memory": {"peak": 1e9},
        "estimate": {"low": 0.1, "high": 0.4},
        "cost": {"price": {"dollars": 1.5}},
    }
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan))
    flags = [f"--forecast={table}", "--law=chinchilla", f"--plan={path}"]
    command = [f"--config={config_file(tmp_path, tiny_zipf())}", f"--workdir={tmp_path / 'run'}"]
    assert main([*command, *flags]) == 0
    content = sealed.read(tmp_path / "run" / "forecast.json")
    found = content["quantities"]
    assert (found["memory_peak"]["value"], found["memory_peak"]["interval95"]) == (1e9, None)
    assert found["step_time"]["value"] == pytest.approx(0.2)
    assert found["tokens_per_second"]["range"] == pytest.approx([1008 / 0.4, 1008 / 0.1])
    assert found["chip_hours"]["value"] == pytest.approx(1000 * 0.2 * 8 / 3600)
    assert found["cost"]["range"][1] == pytest.approx(1.5 * 1000 * 0.4 * 8 / 3600)
    assert content["machine"]["device"] == {"kind": "TPU v5 lite", "count": 8, "cores": None}
    other = [f"--config={config_file(tmp_path, tiny_zipf(seed=1))}", f"--workdir={tmp_path / 'b'}"]
    assert main([*other, *flags]) == 2
    assert "another config" in capsys.readouterr().err
