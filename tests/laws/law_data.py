"""Tables for tests of laws: the refit data of Besiroglu et al., and surfaces of known truth."""

import pathlib

import numpy as np

from scaling.laws.readers import read_table
from scaling.laws.table import Table

FIXTURES = pathlib.Path(__file__).resolve().parent.parent / "fixtures" / "scaling_data"
TRUTH = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}


def besiroglu() -> Table:
    """The 240 of 245 points that the paper fits: the five largest losses are left out."""
    table = read_table(FIXTURES / "chinchilla_epoch.csv").mapped(
        {"params": "Model Size", "flops": "Training FLOP"}
    )
    loss = table.columns["loss"]
    return table.without(loss < np.sort(loss)[-5], "one of the five largest losses")


def surface(noise=0.0, seed=0, truth=TRUTH, budgets=9, sizes=8, off_centre=1.0, draws=None):
    """IsoFLOP design on a known surface; `draws` adds a leading axis of independent noise."""
    flops = np.repeat(np.geomspace(1e18, 1e21, budgets), sizes)
    centre = 0.1 * (flops / 6) ** 0.5 * off_centre
    params = centre * np.tile(np.geomspace(0.2, 5, sizes), budgets)
    tokens = flops / (6 * params)
    loss = (
        truth["E"] + truth["A"] * params ** -truth["alpha"] + truth["B"] * tokens ** -truth["beta"]
    )
    shape = loss.shape if draws is None else (draws, *loss.shape)
    noisy = loss * np.exp(noise * np.random.default_rng(seed).standard_normal(shape))
    return {"params": params, "tokens": tokens, "loss": noisy}
