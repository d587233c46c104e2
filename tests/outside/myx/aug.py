"""Augmentation on the device, as a wrapper of a task, and on the host, as a dataset."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from myx.arrays import Arrays
from scaling.data import DataInfo, Opened
from scaling.data.images import image_spec
from scaling.tasks.base import Task


class Noisy(Arrays):
    """Each visit of an image sees other noise, a function of its place in the run."""

    def gather(self, indices, positions):
        batch = super().gather(indices, positions)
        noise = [
            np.random.default_rng(p).integers(0, 9, batch["images"].shape[1:]) for p in positions
        ]
        return batch | {"images": batch["images"] + np.array(noise, "uint8")}


@dataclasses.dataclass(frozen=True)
class Bars:
    """8 x 8 images of a horizontal or a vertical bar."""

    def describe(self, context):
        shape = (8, 8, 1)
        return DataInfo("images", "examples", image_spec(shape), num_classes=2, image_shape=shape)

    def open(self, context):
        def bars(kind, n, seed):
            rng = np.random.default_rng(seed)
            images = rng.integers(0, 60, (n, 8, 8, 1)).astype("uint8")
            labels = rng.integers(0, 2, n).astype("int32")
            for image, label in zip(images, labels, strict=True):
                k = rng.integers(1, 7)
                image[(k,) if label else (slice(None), k)] = 240
            return kind(images=images, labels=labels, weights=np.ones(n, "float32"))

        train, held_out = bars(Noisy, 512, 0), bars(Arrays, 100, 1)
        return Opened(self.describe(context), {"train": train}, {"eval": held_out})


def shifted(context, base: Task, *, shift: int = 1) -> Task:
    """Wraps an image task: training images are moved by up to `shift` pixels and mirrored."""

    def move(key, image):
        where, mirror = jax.random.split(key)
        start = jax.random.randint(where, (2,), 0, 2 * shift + 1)
        padded = jnp.pad(image, ((shift,) * 2, (shift,) * 2, (0, 0)))
        moved = jax.lax.dynamic_slice(padded, (start[0], start[1], 0), image.shape)
        return jnp.where(jax.random.bernoulli(mirror), moved[:, ::-1], moved)

    def loss(variables, batch, context, hparams):
        if context.train:
            keys = jax.random.split(jax.random.fold_in(context.rng, 1), len(batch["images"]))
            batch = {**batch, "images": jax.vmap(move)(keys, batch["images"])}
        return base.loss(variables, batch, context, hparams)

    return dataclasses.replace(base, loss=loss)
