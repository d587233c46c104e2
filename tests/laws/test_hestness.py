"""experiments/papers/hestness: what its sweeps declare, and that its page says what its tables hold."""

import importlib.util
import itertools
import sys

import numpy as np
import pytest
from helpers import ROOT

from scaling.sweeps import design

FOLDER = ROOT / "experiments" / "papers" / "hestness"
KEPT = sorted(path.stem for path in FOLDER.glob("*.csv") if path.stem != "models")


def module(name):
    spec = importlib.util.spec_from_file_location(f"hestness_{name}", FOLDER / f"{name}.py")
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made
    spec.loader.exec_module(made)
    return made


@pytest.fixture(scope="module")
def report():
    return module("report")


def test_every_family_declares_halved_sets_and_is_described(report):
    sweeps = module("sweeps")
    assert sweeps.FAMILIES.keys() == report.FAMILIES.keys()
    for name, family in sweeps.FAMILIES.items():
        argument = name if name == "images" else f"{name},nowhere"
        cells, notes = design.cells(design.load_sweep(f"{FOLDER / 'sweeps.py'}:{argument}"))
        limits = [cell.config.data.limit for cell in cells]
        assert not notes
        assert len(cells) == family.sets >= 6
        assert limits == [cell.axes["examples"] for cell in cells]
        assert all(b == a // 2 for a, b in itertools.pairwise(limits))
        for cell in cells:
            config = cell.config
            assert config.train.steps == sweeps.EVALUATIONS * config.eval.every
            assert config.optim.schedule.name == "constant"
            assert config.train.ema_decay
            text = config.data.text.seq_len if config.task.name.endswith("language_model") else 1
            assert config.train.batch_size * text == family.step


def test_the_best_of_three_models_learns_every_set(report):
    sweeps = module("sweeps")
    assert len(report.models()) >= 5
    for name, sizes in report.models().items():
        argument = f"{name}/models" if name == "images" else f"{name}/models,nowhere"
        cells, _ = design.cells(design.load_sweep(f"{FOLDER / 'sweeps.py'}:{argument}"))
        assert [cell.axes["model"] for cell in cells] == [0, 1, 2]
        assert {cell.config.data.limit for cell in cells} == {sweeps.FAMILIES[name].largest}
        parameters, losses = zip(*sizes, strict=True)
        chosen = sweeps.FAMILIES[name].chosen
        assert chosen == np.argmin(losses)
        table = report.best(FOLDER / f"{name}.csv")
        assert set(table.columns["params"]) == {parameters[chosen]}


def made(folder, exponent, floor):
    """A table as a sweep writes it: the best evaluation of each set is the third of five."""
    lines = ["params,tokens,loss,seed,run_id,step,point,seconds,examples"]
    for halvings in range(6):
        size = 50_000 >> halvings
        for step in range(1, 6):
            loss = (floor + 20 * size**-exponent) * (1 + 0.1 * (step - 3) ** 2)
            end = ("final", 60) if step == 5 else ("curve", "")
            lines.append(f"9,{step},{loss},0,run{halvings},{step},{end[0]},{end[1]},{size}")
    path = folder / "made.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_planted_law_comes_back_from_the_best_evaluations(report, tmp_path):
    result = report.graded(made(tmp_path, 0.4, 0.3), resamples=40)
    assert result.exponents["m2"][0] == pytest.approx(0.4, rel=1e-3)
    assert result.floor[0] == pytest.approx(0.3, rel=1e-2)
    assert result.expected.value == pytest.approx(result.came, rel=1e-3)
    assert result.held
    assert (result.smaller[0].points, result.seconds) == (5, 360)
    np.testing.assert_allclose(result.losses, 0.3 + 20 * result.examples**-0.4)


@pytest.mark.parametrize("name", KEPT)
def test_the_page_says_what_a_kept_table_holds(report, name):
    """Values, not intervals: these need no resampling."""
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    result = report.graded(FOLDER / f"{name}.csv", resamples=20)
    rows = [
        row for row in page.splitlines() if row.startswith(f"| {report.FAMILIES[name].title} |")
    ]
    assert f"| {result.exponents['m1'][0]:.3g} [" in rows[0]
    assert f"| {result.expected.value:.4g} [" in rows[-1]
    assert f"| {result.came:.4g} |" in rows[-1]
    if name in report.models():
        size, loss = min(report.models()[name], key=lambda each: each[1])
        assert f"**{size:,.0f}: {loss:.4g}**" in rows[1]
