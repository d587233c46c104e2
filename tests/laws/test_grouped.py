"""--by: a fit a group, and one table of all."""

import contextlib
import csv
import io
import json

import numpy as np
import pytest
from laws.law_data import TRUTH
from laws.test_strangers import grid, planted, write

from scaling.fit import main
from scaling.planning.law_fit import load

QUICK = ["--law=chinchilla", "--bootstrap=20", "--profiles=no"]


def stacked(path):
    """Two experiments of other irreducible losses, three runs of a third, one of none."""
    n, d, loss = grid()
    cells = {"params": n, "tokens": d, "loss": loss, "data": ["web text"] * 48}
    more = {"params": n, "tokens": d, "loss": planted(n, d, 0.5), "data": ["code"] * 48}
    few = {k: [*v[:3]] for k, v in cells.items()} | {"data": ["few", "few", ""]}
    return write(path, **{k: [*cells[k], *more[k], *few[k]] for k in cells})


@pytest.fixture(scope="module")
def fits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("by")
    path = stacked(folder / "t.csv")
    text = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(text):
        patch.setattr("scaling.laws.figures.draw_all", lambda *_: [])  # most of the time
        assert main([f"--runs={path}", *QUICK, "--by=data", "--out", str(folder / "o")]) == 0
    (folder / "terminal.txt").write_text(text.getvalue(), encoding="utf-8")
    return folder / "o"


def test_each_group_is_fitted_by_itself(fits):
    for name, shift in (("web-text", 0.0), ("code", 0.5)):
        record = json.loads((fits / name / "fit.json").read_text())
        assert record["points"] == 48
        assert record["excluded"] == []
        assert record["parameters"]["E"] == pytest.approx(TRUTH["E"] + shift, rel=1e-3)
        assert (fits / name / "report.html").exists()


def test_one_table_holds_all_parameters_with_intervals(fits):
    rows = list(csv.DictReader((fits / "groups.csv").open(encoding="utf-8")))
    assert [r["group"] for r in rows if r["name"] == "E"] == ["web text", "code"]
    for row in rows:
        if row["name"] in TRUTH:
            assert float(row["low"]) <= float(row["value"]) * (1 + 1e-9)
            assert float(row["value"]) <= float(row["high"]) * (1 + 1e-9)
    record = json.loads((fits / "groups.json").read_text())
    assert record["by"] == "data"
    assert "cannot determine 5 free parameters" in record["failed"]["few"]
    assert record["rows_in_no_group"] == 1
    assert len(record["rows"]) == len(rows)


def test_the_fit_of_a_group_can_be_repeated_and_forecast_from(fits):
    again = load(str(fits / "code"), None)
    assert again.result.points == 48
    assert again.result.parameters["E"] == pytest.approx(TRUTH["E"] + 0.5, rel=1e-3)


def test_the_terminal_shows_groups_below_each_other(fits):
    text = (fits.parent / "terminal.txt").read_text(encoding="utf-8")
    assert "E\n  web text 1.8" in text
    assert "\n  code     2.3" in text
    assert "error: few was not fitted: 2 usable points cannot" in text
    assert "warning: 1 rows have no data and are in no group" in text


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--by=loss", "values in 99 rows; name a column that many rows share"),
        ("--by=dat", "no column 'dat'; did you mean 'data'"),
    ],
)
def test_what_groups_nothing_is_refused(tmp_path, capsys, flag, message):
    path = stacked(tmp_path / "t.csv")
    assert main([f"--runs={path}", *QUICK, flag, f"--out={tmp_path / 'o'}"]) == 2
    assert message in capsys.readouterr().err


def test_experiments_stacked_in_one_table_are_said(tmp_path, monkeypatch):
    monkeypatch.setattr("scaling.laws.figures.draw_all", lambda *_: [])
    path = stacked(tmp_path / "t.csv")
    words = [f"--runs={path}", "--law=chinchilla", "--bootstrap=0", "--profiles=no"]
    words += ["--exclude=data==few", f"--out={tmp_path / 'o'}"]
    assert main(words) == 0
    warnings = json.loads((tmp_path / "o" / "fit.json").read_text())["warnings"]
    assert any("residuals differ by data" in w and "--by=data fits each" in w for w in warnings)
    n, d, loss = grid()
    loss = loss * np.exp(0.005 * np.random.default_rng(0).standard_normal(48))
    write(path, params=n, tokens=d, loss=loss, data=["a", "b"] * 24)
    assert main([w for w in words if "few" not in w]) == 0
    warnings = json.loads((tmp_path / "o" / "fit.json").read_text())["warnings"]
    assert not any("residuals differ" in w for w in warnings)
