"""Images out of noise: flow matching, and denoising diffusion that predicts the noise.

    flow  x_t = (1 - t) noise + t image, t uniform in [0, 1]; the target is image - noise, the
          velocity of that line (Lipman et al. 2023, 2210.02747; Liu et al. 2023, 2209.03003)
    ddpm  x_t = sqrt(a_t) image + sqrt(1 - a_t) noise, t uniform in 1 ... 1000; the target is the
          noise (Ho et al. 2020, 2006.11239), a_t by the cosine schedule (Nichol and Dhariwal
          2021, 2102.09672)

Legend: B batch, H height, W width, C channels.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from scaling.configs import ConfigError
from scaling.configs.types import PositiveInt
from scaling.ops import constrain
from scaling.tasks.base import (
    Batch,
    Context,
    Hparams,
    Loss,
    Task,
    TaskContext,
    Variables,
    call,
    scoring,
)
from scaling.tasks.losses import mean_loss, summed
from scaling.tasks.pictures import as_pixels, as_signed, image_shape

Kind = Literal["flow", "ddpm"]
Sampler = Literal["heun", "euler", "ddim"]
# The samplers of each kind, the one that None takes first.
SAMPLERS: dict[Kind, tuple[Sampler, ...]] = {"flow": ("heun", "euler"), "ddpm": ("ddim",)}

STEPS = 1000  # of the forward process of `ddpm` (Ho et al. 2020)
OFFSET, LARGEST_BETA = 0.008, 0.999  # of the cosine schedule

# (x_BHWC, time_B in [0, 1]) -> [B, H, W, C]: a velocity or a noise.
Field = Callable[[jax.Array, jax.Array], jax.Array]


def diffusion(
    context: TaskContext,
    *,
    kind: Kind = "flow",
    sampler: Sampler | None = None,
    sample_steps: PositiveInt = 50,
) -> Task:
    """Images like those of the data, by a model that is called as model(x_BHWC, time_B, train=...).

    The loss is the squared error per pixel, with every time alike; losses of the two kinds are not of
    one scale. The times of a batch are evenly spaced with a common random offset, which takes most of
    their noise out of it (Kingma et al. 2021, 2107.00630, appendix I.1).

    Args:
      context: config, data, platform; the data give the shape of the images.
      kind: see the module.
      sampler: `heun` (the model twice a step) or `euler` for flow; `ddim` (Song et al. 2021,
        2010.02502, without noise) for ddpm. None takes the first of them.
      sample_steps: of the sampler.

    Raises:
      ConfigError: the model is called otherwise, or the sampler is not one for this kind, or has more
        steps than ddpm has.
    """
    shape, model = image_shape(context), _model(context)
    chosen = _sampler(kind, sampler, sample_steps)
    levels = noise_levels()

    def loss(variables: Variables, batch: Batch, context: Context, hparams: Hparams) -> Loss:
        del hparams
        image_BHWC = as_signed(batch["images"])
        for_noise, for_time, for_model = jax.random.split(context.rng, 3)
        noise_BHWC = _noise(for_noise, image_BHWC.shape)
        corrupt = on_the_line if kind == "flow" else partial(_at_a_level, levels)
        x_BHWC, time_B, target_BHWC = corrupt(
            image_BHWC, noise_BHWC, spaced(for_time, len(image_BHWC))
        )
        guess_BHWC, sown = call(
            model, variables, x_BHWC, time_B, context=context._replace(rng=for_model)
        )
        error_B = jnp.mean(jnp.square(guess_BHWC - target_BHWC), axis=(1, 2, 3))
        return summed({"loss": error_B}, batch["weights"], context, sown)

    def sample(variables: Variables, rng: jax.Array, count: int) -> jax.Array:
        context = Context(rng, jnp.int32(0), False)

        def field(x_BHWC: jax.Array, time_B: jax.Array) -> jax.Array:
            return call(model, variables, x_BHWC, time_B, context=context)[0]

        noise_BHWC = _noise(rng, (count, *shape))
        if chosen == "ddim":
            return as_pixels(ddim(field, noise_BHWC, levels, sample_steps))
        return as_pixels(integrate(field, noise_BHWC, sample_steps, heun=chosen == "heun"))

    return Task(
        init=lambda rng: model.init(rng, jnp.zeros((1, *shape)), jnp.zeros((1,)), train=False),
        loss=loss,
        evaluations={"score": scoring(loss, lambda totals, _: mean_loss(totals, "examples"))},
        functions={"sample": sample},
    )


def _model(context: TaskContext) -> nn.Module:
    model = context.model()
    try:
        inspect.signature(type(model).__call__).bind(model, "x_BHWC", "time_B", train=False)
    except TypeError as error:
        raise ConfigError(
            "model.name",
            f"{context.config.model.name} is not called as model(x_BHWC, time_B, train=...)",
            "choose unet, or another task",
        ) from error
    return model


def _sampler(kind: Kind, sampler: Sampler | None, steps: int) -> Sampler:
    fitting = SAMPLERS[kind]
    if sampler is not None and sampler not in fitting:
        raise ConfigError(
            "task.sampler", f"{sampler} is not one for task.kind={kind}", f"give one of {fitting}"
        )
    if kind == "ddpm" and steps > STEPS:
        raise ConfigError(
            "task.sample_steps", f"{steps} is more than the {STEPS} of ddpm", "give fewer"
        )
    return sampler or fitting[0]


# --- what a batch is asked -----------------------------------------------------------------------


def _noise(rng: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return constrain(jax.random.normal(rng, shape), ("batch", None, None, None))


def spaced(rng: jax.Array, rows: int) -> jax.Array:
    """Evenly spaced numbers with a common random offset, each uniform in [0, 1); float32[rows]."""
    return (jax.random.uniform(rng) + jnp.arange(rows) / rows) % 1.0


def on_the_line(
    image_BHWC: jax.Array, noise_BHWC: jax.Array, uniform_B: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(x at a time, the time, the velocity) of the line from noise (time 0) to image (time 1)."""
    t_B111 = uniform_B[:, None, None, None]
    x_BHWC = (1.0 - t_B111) * noise_BHWC + t_B111 * image_BHWC
    return x_BHWC, uniform_B, image_BHWC - noise_BHWC


def _at_a_level(
    levels: np.ndarray, image_BHWC: jax.Array, noise_BHWC: jax.Array, uniform_B: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The same for ddpm: (x after a number of its steps, the share of all steps, the noise)."""
    step_B = jnp.minimum(1 + jnp.floor(uniform_B * STEPS).astype(jnp.int32), STEPS)
    level_B111 = jnp.asarray(levels, jnp.float32)[step_B][:, None, None, None]
    x_BHWC = jnp.sqrt(level_B111) * image_BHWC + jnp.sqrt(1.0 - level_B111) * noise_BHWC
    return x_BHWC, step_B / STEPS, noise_BHWC


def noise_levels(steps: int = STEPS) -> np.ndarray:
    """What is left of the image's variance after 0, 1, ... steps: float64[steps + 1], from 1 down.

    cos^2 of a quarter turn, offset by 0.008 so that the first steps add some noise at all, with no
    step that takes more than 0.999 of what is left (Nichol and Dhariwal 2021, eq. 17).
    """
    time = np.arange(steps + 1) / steps
    level = np.cos((time + OFFSET) / (1 + OFFSET) * np.pi / 2) ** 2
    beta = np.minimum(1 - level[1:] / level[:-1], LARGEST_BETA)
    return np.concatenate([[1.0], np.cumprod(1 - beta)])


# --- samplers ------------------------------------------------------------------------------------


def integrate(velocity: Field, x_BHWC: jax.Array, steps: int, heun: bool) -> jax.Array:
    """Follows a velocity from time 0 to 1 in equal steps, by Heun's rule or Euler's."""

    def at(time: jax.Array, x_BHWC: jax.Array) -> jax.Array:
        return velocity(x_BHWC, jnp.full((len(x_BHWC),), time, jnp.float32))

    def turn(i: jax.Array, x_BHWC: jax.Array) -> jax.Array:
        v_BHWC = at(i / steps, x_BHWC)
        if heun:
            v_BHWC = 0.5 * (v_BHWC + at((i + 1) / steps, x_BHWC + v_BHWC / steps))
        return x_BHWC + v_BHWC / steps

    return jax.lax.fori_loop(0, steps, turn, x_BHWC)


def ddim(noise: Field, x_BHWC: jax.Array, levels: np.ndarray, steps: int) -> jax.Array:
    """Goes back from pure noise to an image without adding noise (DDIM, eta = 0).

    Each step takes the image that the predicted noise leaves, cut to [-1, 1], and puts it, with the
    noise that then fits, at the next lower level.

    Args:
      noise: predicts the noise in x at a share of all steps.
      x_BHWC: standard normal.
      levels: of `noise_levels`.
      steps: how many of the levels are visited, evenly spaced.
    """
    last = len(levels) - 1
    visited = np.round(np.linspace(last, 0, steps + 1)).astype(int)
    time_S = jnp.asarray(visited / last, jnp.float32)
    level_S = jnp.asarray(levels[visited], jnp.float32)

    def turn(i: jax.Array, x_BHWC: jax.Array) -> jax.Array:
        level, after = level_S[i], level_S[i + 1]
        noise_BHWC = noise(x_BHWC, jnp.full((len(x_BHWC),), time_S[i]))
        image_BHWC = (x_BHWC - jnp.sqrt(1.0 - level) * noise_BHWC) / jnp.sqrt(level)
        image_BHWC = jnp.clip(image_BHWC, -1.0, 1.0)
        noise_BHWC = (x_BHWC - jnp.sqrt(level) * image_BHWC) / jnp.sqrt(1.0 - level)
        return jnp.sqrt(after) * image_BHWC + jnp.sqrt(1.0 - after) * noise_BHWC

    return jax.lax.fori_loop(0, steps, turn, x_BHWC)
