"""RandAugment: some operations on each image, drawn anew, all of one magnitude.

After Cubuk et al. 2019 (1909.13719), who drop the search for a policy: two numbers are left. An
operation is one of three kinds, so that a batch in which each image has another one is three
passes over it: a map of coordinates, a table of 256 values for each channel, or a blend with an image
that lacks what is changed.

Legend: B batch, H height, W width, C channels.
"""

import functools

import jax
import jax.numpy as jnp

# At magnitude `MOST` an operation goes as far as here; half the images go the other way.
MOST = 30.0
SHEAR = 0.3  # pixels per pixel
TRANSLATE = 0.45  # of the side
ROTATE = 30.0  # degrees
ENHANCE = 0.9  # a blend of 1 - this to 1 + this
POSTERIZE = 4  # bits that go
GREY = 128  # what comes in from outside
OPERATIONS = (
    *("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate"),
    *("posterize", "solarize", "autocontrast", "equalize"),
    *("brightness", "color", "contrast", "sharpness"),
)
LUMA = (0.299, 0.587, 0.114)


def randaugmented(
    images_BHWC: jax.Array, rng: jax.Array, operations: int, magnitude: float
) -> jax.Array:
    """Each image, uint8, after so many operations drawn from `OPERATIONS`, of a magnitude of 0 to 30."""
    count = len(images_BHWC)
    for key in jax.random.split(rng, operations):
        which, sign = jax.random.split(key)
        which_B = jax.random.randint(which, (count,), 0, len(OPERATIONS))
        sign_B = jax.random.rademacher(sign, (count,), jnp.float32)
        change = functools.partial(changed, strength=magnitude / MOST)
        images_BHWC = jax.vmap(change)(images_BHWC, which_B, sign_B)
    return images_BHWC


def changed(image_HWC: jax.Array, which: jax.Array, sign: jax.Array, strength: float) -> jax.Array:
    """One image, uint8, after the operation `which`.

    Args:
      image_HWC: values 0 to 255, of 1 or 3 channels.
      which: place in `OPERATIONS`.
      sign: 1 or -1: which way operations go that have two.
      strength: 0 to 1.
    """
    image_HWC = image_HWC.astype(jnp.int32)
    first = OPERATIONS.index("posterize")
    height, width, channels = image_HWC.shape
    matrices_6x23 = _matrices(height, width, sign * strength)
    image_HWC = _moved(image_HWC, matrices_6x23[jnp.where(which < first, which, 0)])
    tables_5xC256 = _tables(image_HWC, strength)
    place = which - first
    table_C256 = tables_5xC256[jnp.where((place >= 0) & (place < 4), place, 4)]
    image_HWC = table_C256[jnp.arange(channels)[None, None], image_HWC]
    lacking_5xHWC = _lacking(image_HWC)
    lacking_HWC = lacking_5xHWC[jnp.maximum(place - 4, -1)]  # the last is the image itself
    factor = 1.0 + sign * ENHANCE * strength
    blend_HWC = lacking_HWC + factor * (image_HWC - lacking_HWC)
    return jnp.clip(blend_HWC, 0, 255).astype(jnp.uint8)


def _matrices(height: int, width: int, amount: jax.Array) -> jax.Array:
    """From a place (x, y, 1) of the result to (x, y) of the image, for the six maps: [6, 2, 3]."""
    shear = SHEAR * amount
    x, y = (TRANSLATE * amount * side for side in (width, height))
    angle = jnp.deg2rad(ROTATE * amount)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    middle_x, middle_y = width / 2, height / 2
    rows = [
        [1, 0, 0, 0, 1, 0],
        [1, shear, 0, 0, 1, 0],
        [1, 0, 0, shear, 1, 0],
        [1, 0, x, 0, 1, 0],
        [1, 0, 0, 0, 1, y],
        [
            *(cos, -sin, middle_x - cos * middle_x + sin * middle_y),
            *(sin, cos, middle_y - sin * middle_x - cos * middle_y),
        ],
    ]
    return jnp.array(rows, jnp.float32).reshape(6, 2, 3)


def _moved(image_HWC: jax.Array, matrix_23: jax.Array) -> jax.Array:
    """The pixel nearest to where the matrix points, grey outside; pixels are at their centres."""
    height, width, _ = image_HWC.shape
    y_HW, x_HW = jnp.meshgrid(jnp.arange(height) + 0.5, jnp.arange(width) + 0.5, indexing="ij")
    place_3HW = jnp.stack([x_HW, y_HW, jnp.ones_like(x_HW)])
    x_HW, y_HW = jnp.floor(jnp.einsum("ij,jhw->ihw", matrix_23, place_3HW)).astype(jnp.int32)
    inside_HW = (x_HW >= 0) & (x_HW < width) & (y_HW >= 0) & (y_HW < height)
    pixels_HWC = image_HWC[jnp.clip(y_HW, 0, height - 1), jnp.clip(x_HW, 0, width - 1)]
    return jnp.where(inside_HW[..., None], pixels_HWC, GREY)


def _tables(image_HWC: jax.Array, strength: float) -> jax.Array:
    """What each value becomes under posterize, solarize, autocontrast, equalize, none: [5, C, 256]."""
    value_256 = jnp.arange(256)
    channels = image_HWC.shape[-1]
    bits = round(POSTERIZE * strength)
    posterize_256 = (value_256 >> bits) << bits
    solarize_256 = jnp.where(value_256 >= 255 * (1 - strength), 255 - value_256, value_256)
    flat_CN = image_HWC.reshape(-1, channels).T
    stretched = [jax.vmap(table)(flat_CN) for table in (_autocontrast, _equalize)]
    alike = [jnp.tile(t, (channels, 1)) for t in (posterize_256, solarize_256, value_256)]
    return jnp.stack([*alike[:2], *stretched, alike[2]])


def _autocontrast(value_N: jax.Array) -> jax.Array:
    """The darkest value to 0, the lightest to 255."""
    low, high = jnp.min(value_N), jnp.max(value_N)
    table_256 = (jnp.arange(256) - low) * (255.0 / jnp.maximum(high - low, 1))
    flat = high <= low
    return jnp.where(flat, jnp.arange(256), jnp.clip(table_256, 0, 255).astype(jnp.int32))


def _equalize(value_N: jax.Array) -> jax.Array:
    """Values so that each range of them has as many pixels, in the steps of Pillow's `equalize`."""
    count_256 = jnp.zeros(256, jnp.int32).at[value_N].add(1)
    last = count_256[jnp.max(value_N)]
    step = (len(value_N) - last) // 255
    before_256 = jnp.cumsum(count_256) - count_256
    table_256 = jnp.minimum((step // 2 + before_256) // jnp.maximum(step, 1), 255)
    return jnp.where(step == 0, jnp.arange(256), table_256)


def _lacking(image_HWC: jax.Array) -> jax.Array:
    """Images without brightness, color, contrast, sharpness, and the image itself: [5, H, W, C]."""
    image_HWC = image_HWC.astype(jnp.float32)
    grey_HW1 = image_HWC[..., :1]
    if image_HWC.shape[-1] == 3:
        luma_113 = jnp.array(LUMA)[None, None]
        grey_HW1 = jnp.floor(jnp.sum(image_HWC * luma_113, axis=-1, keepdims=True) + 0.5)
    mean = jnp.floor(jnp.mean(grey_HW1) + 0.5)
    height, width, _ = image_HWC.shape
    around_HWC = 4.0 * image_HWC[1:-1, 1:-1]
    for i in range(3):
        for j in range(3):
            around_HWC += image_HWC[i : height - 2 + i, j : width - 2 + j]
    # The border has no neighbours on one side and stays as it is.
    smooth_HWC = image_HWC.at[1:-1, 1:-1].set(jnp.floor(around_HWC / 13.0 + 0.5))
    wide_HWC = jnp.broadcast_to(grey_HW1, image_HWC.shape)
    black_HWC, mean_HWC = jnp.zeros_like(image_HWC), jnp.full_like(image_HWC, mean)
    return jnp.stack([black_HWC, wide_HWC, mean_HWC, smooth_HWC, image_HWC])
