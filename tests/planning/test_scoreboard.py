"""The scoreboard over fabricated runs: coverage, bias, and having none."""

import json
import math

import numpy as np
import pytest
from forecast_helpers import fake_forecast, fake_run

from scaling.plan import main
from scaling.planning import scoreboard
from scaling.track import grade


def graded_runs(folder, losses):
    """One graded run a loss (forecast 2.0, +- 5 % and +- 20 %), a minute apart."""
    for i, loss in enumerate(losses):
        forecast = fake_forecast(created=f"2026-01-01T00:{i:02d}:00+00:00")
        fake_run(folder / f"run{i:02d}", forecast, loss=loss)
        grade.regrade(folder / f"run{i:02d}")


def test_coverage_and_bias(tmp_path, capsys):
    losses = [2.0, 2.05, 1.95, 2.2, 1.8, 2.2, 2.6, 2.0]
    graded_runs(tmp_path, losses)
    assert main([f"--scoreboard={tmp_path}"]) == 0
    record = json.loads((tmp_path / "scoreboard.json").read_text())
    loss = record["quantities"]["loss"]
    assert (loss["coverage50"]["inside"], loss["coverage95"]["inside"]) == (4, 7)
    # Clopper-Pearson for 7 of 8 (R: binom.test(7, 8)).
    assert loss["coverage95"]["interval95"] == pytest.approx([0.4734903, 0.9968403], abs=1e-6)
    errors = (2.0 - np.array(losses)) / np.array(losses)
    assert loss["bias"] == pytest.approx(errors.mean())
    assert loss["mean_absolute_error"] == pytest.approx(np.abs(errors).mean())
    assert record["runs"] == {"graded": 8}
    told = capsys.readouterr().out
    assert "7/8 (47 to 100 %)" in told
    assert "one fit" in told or "1 fit" in told


def test_diverged_runs_count_as_misses_and_others_not_at_all(tmp_path):
    graded_runs(tmp_path, [2.0])
    for name, status in (("lost", "diverged"), ("waiting", "preempted")):
        fake_run(tmp_path / name, fake_forecast(), status=status, eval={})
        grade.regrade(tmp_path / name)
    fake_run(tmp_path / "early", fake_forecast(), step=7)
    grade.regrade(tmp_path / "early")
    record = scoreboard.score(tmp_path)
    assert record["runs"] == {"graded": 2, "diverged": 1, "not yet": 1}
    coverage = record["quantities"]["loss"]["coverage95"]
    assert (coverage["inside"], coverage["of"]) == (1, 2)
    assert record["quantities"]["loss"]["measured"] == 1


def test_having_none_says_what_there_was(tmp_path, capsys):
    assert main([f"--scoreboard={tmp_path}"]) == 2
    assert "0 runs that ended" in capsys.readouterr().err
    fake_run(tmp_path / "plain", None)
    changed = fake_run(tmp_path / "changed", fake_forecast())
    (tmp_path / "changed" / "forecast.json").write_text("{}")
    summary = tmp_path / "changed" / "summary.json"
    summary.write_text(json.dumps(grade.with_grade(tmp_path / "changed", changed)))
    assert main([f"--scoreboard={tmp_path}"]) == 2
    told = capsys.readouterr().err
    assert "2 runs that ended, 1 that could not be graded" in told
    assert "--forecast" in told
    assert main([f"--scoreboard={tmp_path / 'nowhere'}"]) == 2
    assert "not a directory" in capsys.readouterr().err


def test_graded_losses_outside_their_data_speak_for_the_form():
    """At a factor of 2 the form's share is set back to its own scale; inside the data none is."""
    form = {"decades": 1.0, "scale": 0.02, "freedom": 4.0, "graded": 2.0}
    ends = [math.exp(-1.96 * 0.05), math.exp(1.96 * 0.05)]
    row = {"quantity": "loss", "table": "t", "form": form, "interval95": ends}
    row |= {"predicted": 1.0, "happened": math.exp(0.1)}
    inside = {**row, "form": {**form, "decades": 0.0}}
    others = [inside, {**row, "quantity": "cost"}, {**row, "form": None}, {**row, "happened": None}]
    ((name, error, expected),) = scoreboard.form_errors([row, *others])
    assert (name, error) == ("t", pytest.approx(-0.1))
    # Of 0.05^2 the form had 2 x 0.02^2; a quarter of that stays.
    assert expected == pytest.approx(math.sqrt(0.05**2 - 0.0008 + 0.0002))
