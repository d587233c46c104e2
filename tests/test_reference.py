"""The first losses of the small configs against tests/reference; see tests/reference/make.py.

The tolerance is for rounding, and for how the steps make it grow. Between JAX 0.10.2 on Python 3.11
with two threads and JAX 0.12.0 on Python 3.13 with one the losses differed by at most 8e-7 of
themselves, where the tolerance is 1e-4; those of the CNN by 1e-4, where it is 2e-3: of its equal
maxima and zeros another may win, and from there on the runs part. A change of a default, of the
initialisation, of the order of the data or of a formula is outside: the last test makes small ones.
"""

import json
import pathlib

import numpy as np
import pytest
from helpers import quick
from reference import make

from scaling import configs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("reference")


def kept(name: str) -> dict:
    return json.loads(make.path_of(name).read_text())


def deviation(found: dict, record: dict) -> float:
    """The largest relative difference of a loss."""
    pairs = zip([*found["train"], found["eval"]], [*record["train"], record["eval"]], strict=True)
    return max(abs(one / other - 1) for one, other in pairs)


@pytest.mark.parametrize(
    "name", quick(sorted(make.REFERENCES), "mnist-cnn", "mnist-mlp", "quickstart")
)
def test_first_losses_are_those_kept(name: str, folder: pathlib.Path) -> None:
    reference, record = make.REFERENCES[name], kept(name)
    assert {k: record[k] for k in ("spec", "data", "steps", "rtol")} == vars(reference)
    assert len(record["train"]) == reference.steps
    found = make.measure(make.config_of(name, folder), reference.steps)
    meant = f"meant? then python tests/reference/make.py {name}"
    assert deviation(found, record) < reference.rtol, (meant, found["train"], found["eval"])


def test_a_curve_falls() -> None:
    """What is kept is a run that learns, not a number that happened to come out."""
    for name in make.REFERENCES:
        train = kept(name)["train"]
        assert np.mean(train[-5:]) < 0.85 * train[0], name
        assert kept(name)["eval"] < 0.9 * train[0], name


@pytest.mark.parametrize(
    ("key", "value"),
    [("optim.b2", 0.96), ("optim.learning_rate", 2.1e-3), ("model.init_scale", 1.02)],
)
def test_a_small_change_of_numerics_shows(key: str, value: float, folder: pathlib.Path) -> None:
    reference = make.REFERENCES["mnist-mlp"]
    config = make.config_of("mnist-mlp", folder)
    assert configs.get(config, key) != value
    config = configs.replace(config, {key: value})
    found = make.measure(config, reference.steps)
    assert deviation(found, kept("mnist-mlp")) > 2 * reference.rtol
