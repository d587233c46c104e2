"""Fits that several tests look at."""

import pytest
from laws.law_data import surface

from scaling.laws import Loss, bootstrap, fit


@pytest.fixture(scope="session")
def exact():
    return fit(surface(), "chinchilla", Loss("lsq"))


@pytest.fixture(scope="session")
def noisy():
    return fit(surface(0.005), "chinchilla", Loss("lsq"))


@pytest.fixture(scope="session")
def draws(noisy):
    return bootstrap(noisy, 200)
