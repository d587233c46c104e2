"""The whole loop on real runs: a sweep is fitted, a run of ten times its compute forecast and graded."""

import json

import pytest
from forecast_helpers import config_file, tiny_zipf

from scaling.fit import main as fit
from scaling.main import main as train
from scaling.plan import main as plan


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Two sizes, three lengths; lengths of a size share one program."""
    folder = tmp_path_factory.mktemp("loop")
    for width in (8, 16):
        for steps in (10, 20, 40):
            run = folder / "sweep" / f"{width}_{steps}"
            run.mkdir(parents=True)
            config = tiny_zipf(**{"model.model_dim": width, "train.steps": steps})
            assert train([f"--config={config_file(run, config)}", f"--workdir={run}"]) == 0
    return folder


def test_forecast_run_grade_scoreboard(sweep, capsys):
    config = tiny_zipf(**{"model.model_dim": 16, "train.steps": 400})
    flags = [f"--config={config_file(sweep, config)}", f"--workdir={sweep / 'big'}"]
    fitting = [f"--runs={sweep / 'sweep'}", "--law=henighan_c", f"--out={sweep / 'fit'}"]
    assert fit([*fitting, "--bootstrap=300", "--profiles=no"]) == 0
    assert plan([*flags, f"--forecast={sweep / 'fit'}", "--price=2"]) == 0
    content = json.loads((sweep / "big" / "forecast.json").read_text())
    assert content["outside"]["flops"] > 9
    assert content["differs"] == []
    told = capsys.readouterr().out
    assert "beyond the data" in told
    assert "memory_peak        absent" in told

    assert train(flags) == 0
    summary = json.loads((sweep / "big" / "summary.json").read_text())
    record = json.loads((sweep / "big" / "provenance.json").read_text())
    assert record["forecast"] == content["sha256"]
    grade = summary["grade"]
    assert grade["status"] == "graded"
    loss = grade["quantities"]["loss"]
    assert loss["happened"] == summary["eval"]["loss"]
    assert loss["inside95"] is True
    assert abs(loss["relative_error"]) < 0.5
    for name in ("step_time", "tokens_per_second", "chip_hours", "cost"):
        assert grade["quantities"][name]["happened"] > 0, name

    assert plan([f"--scoreboard={sweep}"]) == 0
    told = capsys.readouterr().out
    assert "1 graded" in told
    assert "1/1" in told
    board = json.loads((sweep / "scoreboard.json").read_text())
    assert [row["run"] for row in board["rows"]][:1] == ["big"]


def test_what_the_sweep_held_fixed_and_the_target_does_not_is_told(sweep, capsys):
    config = tiny_zipf(**{"optim.learning_rate": 0.5, "train.steps": 70})
    flags = [f"--config={config_file(sweep, config)}", f"--workdir={sweep / 'other'}"]
    assert plan([*flags, f"--forecast={sweep / 'sweep'}", "--law=henighan_c"]) == 0
    told = capsys.readouterr().out
    assert "optim.learning_rate is 0.5, in all smaller runs 0.02" in told
