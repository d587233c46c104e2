"""The reproductions in experiments/papers: quick ones whole, and the README they generate."""

import importlib
import pathlib
import sys

import pytest

PAPERS = pathlib.Path(__file__).resolve().parent.parent.parent / "experiments" / "papers"


@pytest.fixture
def paper(monkeypatch):
    monkeypatch.syspath_prepend(str(PAPERS))

    def load(name):
        for stale in (name, "tables"):
            sys.modules.pop(stale, None)
        return importlib.import_module(name)

    return load


def test_muennighoff_forward_values(paper):
    for row in paper("muennighoff").rows():
        assert abs(row.difference) < 1e-12


def test_broken_power_law(paper):
    rows = {r.quantity: r for r in paper("bnsl").rows()}
    assert rows["RMSLE of the extrapolation"].here == pytest.approx(0.01092, abs=5e-6)
    assert rows["RMSLE of the fit"].here < 0.0006
    for name in ("a", "b", "c0", "c1", "d1", "f1"):
        assert abs(rows[name].difference) < 1e-3


def test_hoffmann_constants(paper):
    for row in paper("hoffmann").rows():
        assert abs(row.difference) < 1e-6


@pytest.mark.slow
def test_besiroglu_rows(paper):
    for row in paper("besiroglu").rows():
        assert abs(row.difference) < 5e-3
        if "objective" in row.quantity or "sum of" in row.quantity:
            assert row.difference <= 0


def test_readme_lists_every_table(paper):
    text = (PAPERS / "README.md").read_text()
    for name in ("besiroglu", "hoffmann", "muennighoff", "bnsl"):
        assert paper(name).TITLE in text
