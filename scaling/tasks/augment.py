"""Augmentation of training images on the device, as a wrapper of a task.

    task = {"name": "augment", "crop": 4, "flip": True, "over": {"name": "classification"}}

Draws are a function of (seed, step, microbatch): two runs of one config see the same images, on any
mesh and after any resume. Accumulation changes the draws, as it changes those of dropout, but not
their distribution; mixup and cutmix then also pair rows within a microbatch. Evaluation sees images
as they are.

Legend: B batch, H height, W width, C channels, K classes.
"""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp

from scaling.configs import ConfigError
from scaling.configs.types import (
    AddedLater,
    NonNegativeFloat,
    NonNegativeInt,
    Probability,
    Range,
)
from scaling.tasks.base import Batch, Context, Hparams, Loss, Task, TaskContext, Variables
from scaling.tasks.randaugment import MOST, randaugmented

# Random erasing (Zhong et al. 2017, 1708.04896): share of the image, and ratio of the sides.
ERASED_AREA = (0.02, 1 / 3)
ERASED_RATIO = (0.3, 1 / 0.3)


def augment(
    context: TaskContext,
    base: Task,
    *,
    crop: NonNegativeInt = 0,
    flip: bool = False,
    operations: Annotated[NonNegativeInt, AddedLater()] = 0,
    magnitude: Annotated[float, Range(0.0, MOST), AddedLater()] = 9.0,
    erase: Probability = 0.0,
    mixup: NonNegativeFloat = 0.0,
    cutmix: NonNegativeFloat = 0.0,
) -> Task:
    """Wraps a task on images: its loss sees changed images in training.

    Where images are mixed the batch has `soft_labels`, float32[B, K], beside `labels`, and the task
    inside must learn from them, as `classification` does.

    Args:
      context: data; they give image shape and classes.
      base: the task inside, on `images` [B, H, W, C] of 0 to 255 and `labels` [B].
      crop: pixels of black on each side, before a crop of the old size at a random place.
      flip: mirror left and right with probability 1/2.
      operations: of RandAugment on each image, see `scaling.tasks.randaugment`.
      magnitude: of each of them, 0 to 30.
      erase: probability of a random rectangle of noise.
      mixup: a, for images lambda x + (1 - lambda) x' with lambda of Beta(a, a) for each row and x'
        the row before it (Zhang et al. 2017, 1710.09412); 0 for none.
      cutmix: likewise, for a rectangle of x' in x whose area is 1 - lambda (Yun et al. 2019,
        1905.04899; here all of it lies inside the image). With both, half of the rows have either.
    """
    context.need("images")
    if not (crop or flip or operations or erase or mixup or cutmix):
        remedy = "give crop, flip, operations, erase, mixup or cutmix"
        raise ConfigError("task.name", "augment changes nothing", remedy)
    num_classes = context.outputs("num_classes", context.info.num_classes)

    def changed(batch: Batch, rng: jax.Array) -> Batch:
        images_BHWC = batch["images"]
        keys = jax.random.split(rng, 4)
        if crop:
            images_BHWC = cropped(images_BHWC, keys[0], crop)
        if flip:
            images_BHWC = flipped(images_BHWC, keys[1])
        if operations:
            key = jax.random.fold_in(rng, len(keys))
            images_BHWC = randaugmented(images_BHWC, key, operations, magnitude)
        if erase:
            images_BHWC = erased(images_BHWC, keys[2], erase)
        if not (mixup or cutmix):
            return {**batch, "images": images_BHWC}
        hard_BK = jax.nn.one_hot(batch["labels"], num_classes)
        images_BHWC, soft_BK = mixed(images_BHWC, hard_BK, keys[3], mixup, cutmix)
        return {**batch, "images": images_BHWC, "soft_labels": soft_BK}

    def loss(variables: Variables, batch: Batch, context: Context, hparams: Hparams) -> Loss:
        if context.train:
            # A key of its own: the task inside draws its dropout from context.rng.
            batch = changed(batch, jax.random.fold_in(context.rng, 1))
        return base.loss(variables, batch, context, hparams)

    return dataclasses.replace(base, loss=loss)


def cropped(images_BHWC: jax.Array, rng: jax.Array, pad: int) -> jax.Array:
    """Each image moved by up to `pad` pixels each way; black comes in from outside."""
    count, height, width, _ = images_BHWC.shape
    start_B2 = jax.random.randint(rng, (count, 2), 0, 2 * pad + 1)
    padded_BHWC = jnp.pad(images_BHWC, ((0, 0), (pad, pad), (pad, pad), (0, 0)))

    def cut(image_HWC: jax.Array, start_2: jax.Array) -> jax.Array:
        size = (height, width, image_HWC.shape[-1])
        return jax.lax.dynamic_slice(image_HWC, (start_2[0], start_2[1], 0), size)

    return jax.vmap(cut)(padded_BHWC, start_B2)


def flipped(images_BHWC: jax.Array, rng: jax.Array) -> jax.Array:
    """Half of the images, mirrored left and right."""
    mirror_B = jax.random.bernoulli(rng, 0.5, (len(images_BHWC),))
    return jnp.where(mirror_B[:, None, None, None], images_BHWC[:, :, ::-1], images_BHWC)


def erased(images_BHWC: jax.Array, rng: jax.Array, probability: float) -> jax.Array:
    """A rectangle of uniform noise in this share of the images."""
    count, height, width, _ = images_BHWC.shape
    chosen, area, ratio, place, noise = jax.random.split(rng, 5)
    area_B = jax.random.uniform(area, (count,), minval=ERASED_AREA[0], maxval=ERASED_AREA[1])
    low, high = jnp.log(jnp.asarray(ERASED_RATIO))
    side_B = jnp.exp(jax.random.uniform(ratio, (count,), minval=low, maxval=high) / 2)
    sides_B2 = jnp.sqrt(area_B)[:, None] * jnp.stack([side_B, 1 / side_B], axis=1)
    box_BHW = _boxes(place, sides_B2, height, width)
    box_BHW &= jax.random.bernoulli(chosen, probability, (count,))[:, None, None]
    noise_BHWC = jax.random.randint(noise, images_BHWC.shape, 0, 256).astype(images_BHWC.dtype)
    return jnp.where(box_BHW[..., None], noise_BHWC, images_BHWC)


def mixed(
    images_BHWC: jax.Array, hard_BK: jax.Array, rng: jax.Array, mixup: float, cutmix: float
) -> tuple[jax.Array, jax.Array]:
    """(float32 images, the classes in their shares [B, K]): each row mixed with the one before it."""
    count, height, width, _ = images_BHWC.shape
    blend, cut, place, which = jax.random.split(rng, 4)
    images_BHWC = images_BHWC.astype(jnp.float32)
    share_BHW = jnp.ones((count, height, width))  # of the row's own image, in each pixel
    if mixup:
        share_B = jax.random.beta(blend, mixup, mixup, (count,))
        share_BHW = share_BHW * share_B[:, None, None]
    if cutmix:
        side_B = jnp.sqrt(1.0 - jax.random.beta(cut, cutmix, cutmix, (count,)))
        outside_BHW = ~_boxes(place, jnp.stack([side_B, side_B], axis=1), height, width)
        by_cutmix_B = jax.random.bernoulli(which, 0.5 if mixup else 1.0, (count,))
        share_BHW = jnp.where(by_cutmix_B[:, None, None], outside_BHW, share_BHW)
    share_BHW1 = share_BHW[..., None]
    other_BHWC = jnp.roll(images_BHWC, 1, axis=0)
    # The label's share is that of the pixels, whole as they are.
    share_B1 = jnp.mean(share_BHW, axis=(1, 2))[:, None]
    soft_BK = share_B1 * hard_BK + (1.0 - share_B1) * jnp.roll(hard_BK, 1, axis=0)
    return share_BHW1 * images_BHWC + (1.0 - share_BHW1) * other_BHWC, soft_BK


def _boxes(rng: jax.Array, sides_B2: jax.Array, height: int, width: int) -> jax.Array:
    """Whether a pixel is in a box at a random place, bool[B, H, W].

    `sides_B2` are height and width of each box as shares of the image's; rounded, at most the whole.
    """

    def along(size: int, share_B: jax.Array, start_B: jax.Array) -> jax.Array:
        length_B = jnp.clip(jnp.round(share_B * size), 0, size)
        first_B = jnp.floor(start_B * (size - length_B + 1))
        pixel_1S = jnp.arange(size)[None]
        return (pixel_1S >= first_B[:, None]) & (pixel_1S < (first_B + length_B)[:, None])

    start_B2 = jax.random.uniform(rng, sides_B2.shape)
    rows_BH = along(height, sides_B2[:, 0], start_B2[:, 0])
    columns_BW = along(width, sides_B2[:, 1], start_B2[:, 1])
    return rows_BH[:, :, None] & columns_BW[:, None, :]
