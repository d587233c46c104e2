"""A GAN on eight points of a ring: one loss, two optimizers and schedules as parameter groups."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from myx.arrays import Arrays, spec
from scaling.data import DataInfo, Opened
from scaling.models.layers import Dense
from scaling.tasks.base import Loss, Task


@dataclasses.dataclass(frozen=True)
class Ring:
    modes: int = 8

    def describe(self, context):
        return DataInfo(kind="points", unit="points", spec=spec(points=((2,), "float32")))

    def open(self, context):
        def points(n, seed):
            rng = np.random.default_rng(seed)
            angle = 2 * np.pi * rng.integers(0, self.modes, n) / self.modes
            noise = 0.05 * rng.normal(size=(n, 2))
            return Arrays(
                points=(np.stack([np.cos(angle), np.sin(angle)], 1) + noise).astype("float32")
            )

        return Opened(self.describe(context), {"train": points(512, 0)}, {"eval": points(100, 1)})


class Net(nn.Module):
    width: int
    out: int

    @nn.compact
    def __call__(self, x):
        x = nn.leaky_relu(Dense(self.width, ("embed", "mlp"), use_bias=True)(x))
        return Dense(self.out, ("mlp", None), use_bias=True)(x)


class GAN(nn.Module):
    latent: int = 8
    width: int = 32

    def setup(self):
        self.generator, self.discriminator = Net(self.width, 2), Net(self.width, 1)

    def generate(self, z):
        return self.generator(z)

    def discriminate(self, x):
        return self.discriminator(x)[:, 0]

    def __call__(self, z):
        return self.discriminate(self.generate(z))


def gan(context) -> Task:
    model, stop = context.model(), jax.lax.stop_gradient

    def init(rng):
        return model.init(rng, jnp.zeros((1, model.latent)))

    def loss(variables, batch, context, hparams):
        real, w = batch["points"], batch["weights"]
        weight = jnp.sum(w)
        z = jax.random.normal(context.rng, (real.shape[0], model.latent))
        fake = model.apply(variables, z, method="generate")

        def judge(variables, x):
            return model.apply(variables, x, method="discriminate")

        d = jax.nn.softplus(-judge(variables, real)) + jax.nn.softplus(judge(variables, stop(fake)))
        g = jax.nn.softplus(-judge(stop(variables), fake))
        radius = jnp.abs(jnp.linalg.norm(fake, axis=-1) - 1)
        metrics = {"loss": d + g, "d_loss": d, "g_loss": g, "radius_error": radius}
        totals = {k: (jnp.sum(w * v), weight) for k, v in metrics.items()}
        return Loss(jnp.sum(w * (d + g)), weight, totals, {})

    return Task(init, loss, unit="points", objective="radius_error")
