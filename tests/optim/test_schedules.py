"""Schedules against closed forms in plain Python."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.optim import schedules

T, PEAK = 100, 0.3


def curve(name: str, total: int = T, **keys: object) -> np.ndarray:
    schedule = getattr(schedules, name)
    return np.asarray(jax.vmap(lambda s: schedule(s, PEAK, total, **keys))(jnp.arange(total + 20)))


def warm(step: int, warmup: int) -> float:
    return min(1.0, (step + 1) / max(1, warmup))


CLOSED = {
    "constant": ({"warmup_steps": 10}, lambda s: warm(s, 10)),
    "cosine": (
        {"warmup_steps": 10, "final_fraction": 0.1},
        lambda s: (
            warm(s, 10) * (0.1 + 0.9 * (1 + math.cos(math.pi * min(1, max(0, s - 10) / 90))) / 2)
        ),
    ),
    "linear": (
        {"warmup_fraction": 0.05, "final_fraction": 0.2},
        lambda s: warm(s, 5) * (1 - 0.8 * min(1, max(0, s - 5) / 95)),
    ),
    "wsd": (
        {"warmup_steps": 10, "decay_fraction": 0.25},
        lambda s: warm(s, 10) * (1 - math.sqrt(min(1, max(0, s - 75) / 25))),
    ),
    "inverse_sqrt": (
        {"warmup_steps": 16, "final_fraction": 0.45},
        lambda s: warm(s, 16) * max(0.45, math.sqrt(16 / max(16, s + 1))),
    ),
}


@pytest.mark.parametrize("name", CLOSED)
def test_closed_form(name: str) -> None:
    keys, form = CLOSED[name]
    expected = [PEAK * form(s) for s in range(T + 20)]
    np.testing.assert_allclose(curve(name, **keys), expected, rtol=2e-6, atol=1e-7)


def test_linear_wsd_decay() -> None:
    values = curve("wsd", warmup_steps=0, decay_steps=20, decay="linear", final_fraction=0.5)
    expected = [PEAK * (1 - 0.5 * min(1, max(0, s - 80) / 20)) for s in range(T + 20)]
    np.testing.assert_allclose(values, expected, rtol=2e-6)


@pytest.mark.parametrize("name", CLOSED)
def test_first_step_moves_and_last_step_is_not_wasted(name: str) -> None:
    values = curve(name)
    assert values[0] > 0
    assert values[T - 1] > 0
    assert values.max() == pytest.approx(PEAK, rel=1e-6)


def test_branches_share_the_trunk() -> None:
    short = curve("wsd", 60, warmup_steps=10, decay_steps=20)
    long = curve("wsd", 200, warmup_steps=10, decay_steps=50)
    np.testing.assert_array_equal(short[:40], long[:40])
    assert short[50] < long[50]
