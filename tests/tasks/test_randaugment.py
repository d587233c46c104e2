"""RandAugment's operations against Pillow's, one by one, and the draws."""

import jax
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from scaling.tasks.randaugment import OPERATIONS, changed, randaugmented

STRENGTH = 0.6
SMALL = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
IMAGE = Image.fromarray(SMALL).resize((20, 24), Image.Resampling.BILINEAR)  # 24 rows
KEY = jax.random.key(0)
one = jax.jit(lambda image, which, sign: changed(image, which, sign, STRENGTH))


def affine(image, *six):
    grey = tuple([128] * len(image.getbands()))
    nearest = Image.Resampling.NEAREST
    return image.transform(image.size, Image.Transform.AFFINE, six, nearest, fillcolor=grey)


def by_pillow(image, name, sign):
    amount = sign * STRENGTH
    width, height = image.size
    grey = tuple([128] * len(image.getbands()))
    enhance = {
        "brightness": ImageEnhance.Brightness,
        "color": ImageEnhance.Color,
        "contrast": ImageEnhance.Contrast,
        "sharpness": ImageEnhance.Sharpness,
    }
    if name in enhance:
        return enhance[name](image).enhance(1 + 0.9 * amount)
    return {
        "identity": lambda: image,
        "shear_x": lambda: affine(image, 1, 0.3 * amount, 0, 0, 1, 0),
        "shear_y": lambda: affine(image, 1, 0, 0, 0.3 * amount, 1, 0),
        "translate_x": lambda: affine(image, 1, 0, 0.45 * amount * width, 0, 1, 0),
        "translate_y": lambda: affine(image, 1, 0, 0, 0, 1, 0.45 * amount * height),
        "rotate": lambda: image.rotate(30 * amount, Image.Resampling.NEAREST, fillcolor=grey),
        "posterize": lambda: ImageOps.posterize(image, 8 - round(4 * STRENGTH)),
        "solarize": lambda: ImageOps.solarize(image, 255 * (1 - STRENGTH)),
        "autocontrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
    }[name]()


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_pillows(name, sign):
    """But for float32 where a value falls on an integer: then it may be one less."""
    ours = np.asarray(one(np.asarray(IMAGE), OPERATIONS.index(name), sign)).astype(int)
    apart = np.abs(ours - np.asarray(by_pillow(IMAGE, name, sign)))
    assert apart.max() <= 1
    assert (apart > 0).mean() < 0.02
    if name != "identity":
        assert (ours != np.asarray(IMAGE)).mean() > 0.1, "it does something"


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name != "color"])
def test_grey_images_likewise(name):
    image = IMAGE.convert("L")
    ours = np.asarray(one(np.asarray(image)[..., None], OPERATIONS.index(name), 1.0))[..., 0]
    apart = np.abs(ours.astype(int) - np.asarray(by_pillow(image, name, 1.0)))
    assert apart.max() <= 1
    assert (apart > 0).mean() < 0.02


def test_an_image_of_one_value_stays_where_there_is_nothing_to_stretch():
    flat = np.full((24, 20, 3), 7, np.uint8)
    for name in ("autocontrast", "equalize"):
        np.testing.assert_array_equal(one(flat, OPERATIONS.index(name), 1.0), flat)


def test_each_image_of_a_batch_has_its_own_operations():
    images = np.repeat(np.asarray(IMAGE)[None], 200, axis=0)
    run = jax.jit(randaugmented, static_argnums=(2, 3))
    ours = np.asarray(run(images, KEY, 1, 30 * STRENGTH))
    known = {
        np.asarray(one(images[0], which, sign)).tobytes()
        for which in range(len(OPERATIONS))
        for sign in (1.0, -1.0)
    }
    seen = {image.tobytes() for image in ours}
    assert seen == known, "all operations in both directions, and nothing else"
    np.testing.assert_array_equal(ours, run(images, KEY, 1, 30 * STRENGTH))
    twice = np.asarray(run(images, KEY, 2, 30 * STRENGTH))
    assert len({image.tobytes() for image in twice}) > 100
