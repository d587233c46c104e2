"""Grades: what counts as a forecast, what is compared, what is refused."""

import json

import pytest
from forecast_helpers import fake_forecast, fake_run

from scaling.plan import main
from scaling.track import grade, sealed


def test_every_quantity_is_compared(tmp_path):
    summary = fake_run(tmp_path / "run", fake_forecast())
    found = grade.grade(tmp_path / "run", summary)
    assert found["status"] == "graded"
    loss = found["quantities"]["loss"]
    assert (loss["predicted"], loss["happened"]) == (2.0, 2.05)
    assert loss["inside50"] is True
    assert loss["error"] == pytest.approx(-0.05)
    assert loss["relative_error"] == pytest.approx(-0.05 / 2.05)
    step = found["quantities"]["step_time"]
    assert step["happened"] == pytest.approx(0.11)  # median, without the first
    assert (step["inside50"], step["inside95"]) == (False, True)
    # Training and waiting for data are paid for; evaluation is not in a forecast of stepping.
    assert found["quantities"]["chip_hours"]["happened"] == pytest.approx(1.1 / 3600)
    assert found["quantities"]["cost"]["happened"] == pytest.approx(2.2 / 3600)
    assert found["quantities"]["cost"]["levels"] == {"0.5": False, "0.95": True}
    assert "OUTSIDE 50 %" in grade.describe(found)


@pytest.mark.parametrize(
    ("loss", "inside"), [(2.4, True), (2.41, False), (1.6, True), (1.59, False)]
)
def test_the_ends_of_an_interval_belong_to_it(tmp_path, loss, inside):
    summary = fake_run(tmp_path / "run", fake_forecast(), loss=loss)
    assert grade.grade(tmp_path / "run", summary)["quantities"]["loss"]["inside95"] is inside


def test_a_forecast_that_was_edited_is_not_graded(tmp_path):
    run = tmp_path / "run"
    summary = fake_run(run, fake_forecast())
    path = run / sealed.FORECAST
    content = json.loads(path.read_text())
    content["quantities"]["loss"]["interval95"][1] = 9.0
    path.write_text(json.dumps(content))
    found = grade.grade(run, summary)
    assert found["status"] == "not graded"
    assert "forecast changed" in found["reason"]
    # Sealing it anew does not help: the run recorded the seal when it began.
    sealed.write(path, content)
    assert "forecast changed" in grade.grade(run, summary)["reason"]
    path.unlink()
    assert "gone" in grade.grade(run, summary)["reason"]


def test_a_forecast_after_the_start_is_not_graded(tmp_path):
    summary = fake_run(tmp_path / "run", None)
    assert grade.grade(tmp_path / "run", summary) is None
    assert grade.with_grade(tmp_path / "run", summary) == summary
    sealed.write(tmp_path / "run" / sealed.FORECAST, fake_forecast())
    assert "after the run had started" in grade.grade(tmp_path / "run", summary)["reason"]


def test_other_formatting_of_the_file_is_no_edit(tmp_path):
    summary = fake_run(tmp_path / "run", fake_forecast())
    path = tmp_path / "run" / sealed.FORECAST
    path.write_text(json.dumps(json.loads(path.read_text()), sort_keys=True))
    assert grade.grade(tmp_path / "run", summary)["status"] == "graded"


def test_preempted_waits_and_diverged_misses(tmp_path):
    waiting = fake_run(tmp_path / "a", fake_forecast(), status="preempted", step=5)
    assert grade.grade(tmp_path / "a", waiting)["status"] == "not yet"
    lost = fake_run(tmp_path / "b", fake_forecast(), status="diverged", step=5, eval={})
    found = grade.grade(tmp_path / "b", lost)
    assert found["status"] == "diverged"
    loss = found["quantities"]["loss"]
    assert (loss["happened"], loss["inside50"], loss["inside95"]) == (None, False, False)
    assert found["quantities"]["step_time"]["inside95"] is True


def test_a_run_that_stopped_early_has_no_final_loss(tmp_path):
    summary = fake_run(tmp_path / "run", fake_forecast(), step=7)
    found = grade.grade(tmp_path / "run", summary)["quantities"]
    assert found["loss"]["inside95"] is None
    assert "step 7 of 10" in found["loss"]["reason"]
    assert found["step_time"]["inside95"] is True


def test_times_of_other_devices_are_not_compared(tmp_path):
    forecast = fake_forecast()
    forecast["machine"] |= {"device": {"kind": "TPU v5 lite", "count": 8}, "chips": 8}
    summary = fake_run(tmp_path / "run", forecast)
    found = grade.grade(tmp_path / "run", summary)["quantities"]
    assert found["loss"]["inside95"] is True
    assert found["step_time"]["happened"] is None
    assert "8 x TPU v5 lite" in found["step_time"]["reason"]


@pytest.mark.parametrize(("cores", "compared"), [(None, True), (2, True), (1, False)])
def test_times_of_another_number_of_cores_are_not_compared(tmp_path, cores, compared):
    """A sweep's workers have a core each, a run alone has all; memory does not depend on them."""
    forecast = fake_forecast()
    forecast["machine"]["device"]["cores"] = cores
    forecast["quantities"]["memory_peak"] = forecast["quantities"]["loss"]
    summary = fake_run(tmp_path / "run", forecast, memory_bytes={"program": 2.0})
    found = grade.grade(tmp_path / "run", summary)["quantities"]
    told = [found[name]["happened"] is not None for name in ("step_time", "chip_hours", "cost")]
    assert told == [compared] * 3
    assert found["memory_peak"]["happened"] == 2.0
    if not compared:
        assert "used 1 x cpu with 2 cores, the forecast is for 1 x cpu with 1 core" in str(found)


def test_the_door_grades_again(tmp_path, capsys):
    fake_run(tmp_path / "run", fake_forecast())
    assert main([f"--grade={tmp_path / 'run'}"]) == 0
    assert "inside 95 %" in capsys.readouterr().out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["grade"]["quantities"]["loss"]["inside95"] is True
    assert summary["step"] == 10
    assert main([f"--grade={tmp_path}"]) == 2
    assert "has not ended" in capsys.readouterr().err
    fake_run(tmp_path / "bare", None)
    assert main([f"--grade={tmp_path / 'bare'}"]) == 2
    assert "--forecast" in capsys.readouterr().err
