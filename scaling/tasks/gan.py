"""Generative adversarial training: two players, one loss.

Legend: B batch, Z latent, H height, W width, C channels, P pixels of an image times channels.
"""

import functools
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from scaling.configs import ConfigError
from scaling.configs.types import RuntimeFloat
from scaling.ops import constrain
from scaling.tasks.base import Batch, Context, Hparams, Loss, Task, TaskContext, Total, Variables
from scaling.tasks.losses import weighted
from scaling.tasks.pictures import as_pixels, as_signed, image_shape

Kind = Literal["non_saturating", "hinge"]
# What the discriminator changes beside its parameters: a function of them alone.
STATE = "spectral"


def gan(context: TaskContext, *, kind: Kind = "non_saturating", r1: RuntimeFloat = 0.0) -> Task:
    """Images like those of the data, from a generator that a discriminator cannot tell from them.

    Both are trained in one step, by the gradient of one sum: the discriminator's loss sees generated
    images as constants, the generator's loss sees the discriminator's parameters as constants. Give
    them rates of their own with `optim.groups`, by the paths "generator/.*", "discriminator/.*".

    The model has an attribute `latent` and the methods generate(z_BZ, shape) -> images in [-1, 1] and
    discriminate(images_BHWC) -> scores [B]; it may keep a state collection "spectral".

    Neither loss says how good the images are: they only compare the players. What stands for a run is
    `energy_distance` between generated and held-out images; see there.

    Args:
      context: config, data, platform; the data give the shape of the images.
      kind: loss of both players: `non_saturating` (Goodfellow et al. 2014, 1406.2661) or `hinge`
        (Lim and Ye 2017, 1705.02894).
      r1: weight of half the squared gradient of the score at real images (Mescheder et al. 2018,
        1801.04406, R1), without which the non-saturating game need not converge.

    Raises:
      ConfigError: the model lacks one of these, or (in evaluation) a batch holds a single image.
    """
    shape, model = image_shape(context), context.model("latent", "generate", "discriminate")
    numbers = {"r1": r1} if r1 else {}

    def generate(variables: Variables, rng: jax.Array, count: int) -> jax.Array:
        z_BZ = constrain(jax.random.normal(rng, (count, model.latent)), ("batch", None))
        return model.apply(variables, z_BZ, shape, method="generate")

    def loss(variables: Variables, batch: Batch, context: Context, hparams: Hparams) -> Loss:
        real_BHWC = as_signed(batch["images"])
        fake_BHWC = generate(variables, context.rng, len(real_BHWC))
        h = {**numbers, **hparams}
        slope = context.train and "r1" in h
        real_B, slope_B, variables = _judge_real(model, variables, real_BHWC, context.train, slope)
        judge = functools.partial(model.apply, method="discriminate")
        fake_B = judge(variables, jax.lax.stop_gradient(fake_BHWC))
        d_B = discriminator_loss(kind, real_B, fake_B)
        g_B = generator_loss(kind, judge(jax.lax.stop_gradient(variables), fake_BHWC))
        weights_B = batch["weights"]
        rows = {"loss": d_B + g_B, "d_loss": d_B, "g_loss": g_B}
        objective_B = d_B + g_B
        if slope:
            rows["squared_slope"] = slope_B
            objective_B = objective_B + 0.5 * h["r1"] * slope_B
        metrics = weighted(rows, weights_B)
        if not context.train:
            metrics["energy_distance"] = _distance(real_BHWC, fake_BHWC, weights_B)
        kept = {name: x for name, x in variables.items() if name not in ("params", "frozen")}
        return Loss(jnp.sum(weights_B * objective_B), metrics["loss"][1], metrics, kept)

    return Task(
        init=lambda rng: model.init(rng, jnp.zeros((1, model.latent)), shape),
        loss=loss,
        merge={STATE: "last"},
        functions={"sample": lambda *arguments: as_pixels(generate(*arguments))},
        hparams=numbers,
        objective="energy_distance",
    )


def _judge_real(
    model: nn.Module, variables: Variables, real_BHWC: jax.Array, train: bool, slope: bool
) -> tuple[jax.Array, jax.Array, Variables]:
    """(scores [B] of real images, squared norms [B] of their gradients or zeros, variables after)."""

    def scores(images_BHWC: jax.Array) -> tuple[jax.Array, tuple[jax.Array, Variables]]:
        mutable = [STATE] if train else []
        score_B, state = model.apply(variables, images_BHWC, method="discriminate", mutable=mutable)
        return jnp.sum(score_B), (score_B, state)

    if not slope:
        _, (score_B, state) = scores(real_BHWC)
        return score_B, jnp.zeros_like(score_B), {**variables, **state}
    # Rows do not see each other, so the gradient of the sum holds that of each row.
    gradient_BHWC, (score_B, state) = jax.grad(scores, has_aux=True)(real_BHWC)
    slope_B = jnp.sum(jnp.square(gradient_BHWC), axis=(1, 2, 3))
    return score_B, slope_B, {**variables, **state}


def discriminator_loss(kind: Kind, real_B: jax.Array, fake_B: jax.Array) -> jax.Array:
    """Of each pair of scores, one of a real and one of a generated image, [B]."""
    if kind == "hinge":
        return jax.nn.relu(1.0 - real_B) + jax.nn.relu(1.0 + fake_B)
    return jax.nn.softplus(-real_B) + jax.nn.softplus(fake_B)


def generator_loss(kind: Kind, fake_B: jax.Array) -> jax.Array:
    """Of the scores of its images, [B]."""
    return -fake_B if kind == "hinge" else jax.nn.softplus(-fake_B)


def _distance(real_BHWC: jax.Array, fake_BHWC: jax.Array, weights_B: jax.Array) -> Total:
    """`energy_distance` of a batch as a metric."""
    if len(weights_B) < 2:
        raise ConfigError("eval.batch_size", "1 leaves no two images to compare", "give at least 2")
    # What a last batch of a single image gives is not a distance.
    weight = jnp.where(jnp.sum(weights_B > 0) > 1, jnp.sum(weights_B), 0.0)
    return energy_distance(real_BHWC, fake_BHWC, weights_B) * weight, weight


def energy_distance(x_BHWC: jax.Array, y_BHWC: jax.Array, weights_B: jax.Array) -> jax.Array:
    """2 E|x - y| - E|x - x'| - E|y - y'| without bias, |.| the root mean square over pixels.

    Zero in expectation where, and only where, both are of one distribution (Szekely and Rizzo 2013);
    nothing is learned or tuned for it. It sees pixels: brightness and shape, less than a classifier's
    features do. Both have these weights, 0 for padding, and at least two rows must have one; float32[].
    """
    pairs_BB = weights_B[:, None] * weights_B[None]
    others_BB = pairs_BB * (1.0 - jnp.eye(len(weights_B)))

    def mean(a_BHWC: jax.Array, b_BHWC: jax.Array, weights_BB: jax.Array) -> jax.Array:
        total = jnp.sum(weights_BB * _apart(a_BHWC, b_BHWC))
        return total / jnp.maximum(jnp.sum(weights_BB), 1e-30)

    distance = 2.0 * mean(x_BHWC, y_BHWC, pairs_BB)
    return distance - mean(x_BHWC, x_BHWC, others_BB) - mean(y_BHWC, y_BHWC, others_BB)


def _apart(a_BHWC: jax.Array, b_BHWC: jax.Array) -> jax.Array:
    """Root mean square difference of all pairs, [B, B]."""
    a_BP, b_BP = (x.reshape(len(x), -1) for x in (a_BHWC, b_BHWC))
    product_BB = jnp.matmul(a_BP, b_BP.T, precision=jax.lax.Precision.HIGHEST)
    squares_BB = jnp.sum(a_BP**2, axis=1)[:, None] + jnp.sum(b_BP**2, axis=1)[None]
    return jnp.sqrt(jnp.maximum(squares_BB - 2.0 * product_BB, 0.0) / a_BP.shape[1])
