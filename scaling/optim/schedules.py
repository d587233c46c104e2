"""Learning-rate schedules: pure functions of (step, peak), with every length static.

Conventions, for a run of T steps numbered 0 .. T-1:

* warm-up over W steps gives step s the fraction (s + 1) / W of the peak, so that the first step
  moves and step W - 1 has the peak;
* a decay over D steps that begins at step b has progress (s - b) / D: none at its first step, and
  never quite all of it within the run, so that a decay to 0 wastes no step.

Lengths are steps, or fractions of the run when the steps are None. Branches that share a trunk need
lengths in steps: a fraction moves with the length of the run.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from scaling.configs.component import Component, component, parameters
from scaling.configs.errors import ConfigError
from scaling.configs.types import Fraction, NonNegativeInt, PositiveInt, Probability
from scaling.experiment import Experiment

Scalar = jax.Array | float


def constant(
    step: jax.Array,
    peak: Scalar,
    total_steps: int,
    *,
    warmup_steps: NonNegativeInt | None = None,
    warmup_fraction: Fraction = 0.0,
) -> jax.Array:
    """Warm-up, then the peak.

    Args:
      step: number of the step, int32[].
      peak: the largest value, float32[].
      total_steps: length of the run.
      warmup_steps: length of the warm-up; None means `warmup_fraction` of the run.
      warmup_fraction: the same as a fraction.

    Returns:
      float32[].
    """
    return peak * _warmup(step, _length(total_steps, warmup_steps, warmup_fraction))


def cosine(
    step: jax.Array,
    peak: Scalar,
    total_steps: int,
    *,
    warmup_steps: NonNegativeInt | None = None,
    warmup_fraction: Fraction = 0.02,
    final_fraction: Probability = 0.1,
) -> jax.Array:
    """Warm-up, then half a cosine down to `final_fraction` of the peak (Loshchilov & Hutter 2017).

    Args: as of `constant`, and
      final_fraction: fraction of the peak at the end of the run.
    """
    warmup = _length(total_steps, warmup_steps, warmup_fraction)
    falling = 0.5 * (1 + jnp.cos(jnp.pi * _progress(step, warmup, total_steps - warmup)))
    return peak * _warmup(step, warmup) * _between(falling, final_fraction)


def linear(
    step: jax.Array,
    peak: Scalar,
    total_steps: int,
    *,
    warmup_steps: NonNegativeInt | None = None,
    warmup_fraction: Fraction = 0.02,
    final_fraction: Probability = 0.0,
) -> jax.Array:
    """Warm-up, then a straight line down to `final_fraction` of the peak.

    Args: as of `cosine`.
    """
    warmup = _length(total_steps, warmup_steps, warmup_fraction)
    falling = 1 - _progress(step, warmup, total_steps - warmup)
    return peak * _warmup(step, warmup) * _between(falling, final_fraction)


def wsd(
    step: jax.Array,
    peak: Scalar,
    total_steps: int,
    *,
    warmup_steps: NonNegativeInt | None = None,
    warmup_fraction: Fraction = 0.02,
    decay_steps: PositiveInt | None = None,
    decay_fraction: Probability = 0.2,
    decay: Literal["linear", "1-sqrt"] = "1-sqrt",
    final_fraction: Probability = 0.0,
) -> jax.Array:
    """Warm-up, stable, decay (Hu et al. 2024, arXiv:2404.06395).

    With the lengths in steps, the stable part does not depend on `total_steps`: runs of several
    lengths share it and differ only in when they decay.

    Args: as of `constant`, and
      decay_steps: length of the decay at the end; None means `decay_fraction` of the run.
      decay_fraction: the same as a fraction.
      decay: the shape, in the progress p of the decay: 1 - p, or 1 - sqrt(p) (Haegele et al. 2024,
        arXiv:2405.18392).
      final_fraction: fraction of the peak at the end of the run.
    """
    warmup = _length(total_steps, warmup_steps, warmup_fraction)
    length = _length(total_steps, decay_steps, decay_fraction)
    progress = _progress(step, total_steps - length, length)
    falling = 1 - (jnp.sqrt(progress) if decay == "1-sqrt" else progress)
    return peak * _warmup(step, warmup) * _between(falling, final_fraction)


def inverse_sqrt(
    step: jax.Array,
    peak: Scalar,
    total_steps: int,
    *,
    warmup_steps: NonNegativeInt | None = None,
    warmup_fraction: Fraction = 0.02,
    final_fraction: Probability = 0.0,
) -> jax.Array:
    """Warm-up over W steps, then peak * sqrt(W / (step + 1)) (Vaswani et al. 2017, eq. 3).

    Args: as of `constant`, and
      final_fraction: the value never falls below this fraction of the peak.
    """
    warmup = max(1, _length(total_steps, warmup_steps, warmup_fraction))
    count = jnp.asarray(step, jnp.float32) + 1
    falling = jnp.sqrt(warmup / jnp.maximum(count, warmup))
    return peak * _warmup(step, warmup) * jnp.maximum(falling, final_fraction)


def _length(total_steps: int, steps: int | None, fraction: float) -> int:
    return round(fraction * total_steps) if steps is None else steps


def lengths_fit(config: Experiment) -> None:
    """Holds the schedules of a config to the length of the run, before anything is built.

    Raises:
      ConfigError: warm-up and decay do not fit into the run, or a length is stated twice.
    """
    groups = config.optim.groups or {}
    schedules = {f"optim.groups.{name}": group.schedule for name, group in groups.items()}
    for path, schedule in {"optim": config.optim.schedule, **schedules}.items():
        if schedule is not None:
            _lengths_fit(f"{path}.schedule", schedule, config.train.steps)


def _lengths_fit(path: str, schedule: Component, total_steps: int) -> None:
    params = parameters(component(schedule, "scaling.optim:SCHEDULES"))
    lengths: dict[str, int] = {}
    for part in ("warmup", "decay"):
        steps = schedule.get(f"{part}_steps")
        fraction = schedule.get(f"{part}_fraction")
        lengths[part] = _length(total_steps, steps, fraction or 0.0)
        # Steps win over a fraction, so a fraction that someone set would be ignored.
        if None not in (steps, fraction) and fraction != params[f"{part}_fraction"].default:
            raise ConfigError(
                f"{path}.{part}_fraction",
                f"is {fraction}, and {part}_steps={steps} says otherwise",
                f"drop one of them: --config.{path}.{part}_steps=None",
            )
    if sum(lengths.values()) > total_steps:
        shown = " + ".join(f"{part} {count}" for part, count in lengths.items() if count)
        part = max(lengths, key=lambda name: lengths[name])
        key = f"{part}_steps" if schedule.get(f"{part}_steps") is not None else f"{part}_fraction"
        raise ConfigError(
            f"{path}.{key}",
            f"{shown} steps are more than train.steps={total_steps}",
            "shorten them, or lengthen the run",
        )


def _warmup(step: jax.Array, length: int) -> jax.Array:
    count = jnp.asarray(step, jnp.float32) + 1
    return jnp.minimum(1.0, count / max(1, length))


def _progress(step: jax.Array, start: int, length: int) -> jax.Array:
    done = (jnp.asarray(step, jnp.float32) - start) / max(1, length)
    return jnp.clip(done, 0.0, 1.0)


def _between(falling: jax.Array, final_fraction: float) -> jax.Array:
    """Stretches a curve from 1 to 0 so that it ends at `final_fraction`."""
    return final_fraction + (1 - final_fraction) * falling
