"""Augmentation against loops in numpy, as a function of (seed, step), and only in training."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import IMAGE_INFO, context, image_batch, tiny_images
from ml_collections import ConfigDict

from scaling import parallel
from scaling.configs import ConfigError
from scaling.tasks.augment import augment, cropped, erased, flipped, mixed
from scaling.tasks.base import Task, TaskContext, build_task

IMAGES = np.asarray(np.random.default_rng(0).integers(1, 256, (64, 8, 6, 3)), np.uint8)
HARD = np.eye(4, dtype=np.float32)[np.random.default_rng(1).integers(0, 4, 64)]
KEY = jax.random.key(0)


def test_a_crop_is_a_window_of_the_padded_image_and_all_places_occur():
    crops = np.asarray(jax.jit(cropped, static_argnums=2)(IMAGES, KEY, 2))
    assert crops.dtype == np.uint8
    places = set()
    for image, crop in zip(IMAGES, crops, strict=True):
        padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
        windows = {(i, j): padded[i : i + 8, j : j + 6] for i in range(5) for j in range(5)}
        (place,) = [at for at, window in windows.items() if (window == crop).all()]
        places.add(place)
    assert {i for i, _ in places} == {j for _, j in places} == set(range(5))


def test_about_half_are_mirrored():
    mirrored = np.asarray(flipped(IMAGES, KEY))
    turned = [(a == b[:, ::-1]).all() for a, b in zip(mirrored, IMAGES, strict=True)]
    same = [(a == b).all() for a, b in zip(mirrored, IMAGES, strict=True)]
    assert all(np.logical_xor(turned, same))
    assert 16 < sum(turned) < 48


def bounding_box(changed_HW):
    rows, columns = np.flatnonzero(changed_HW.any(1)), np.flatnonzero(changed_HW.any(0))
    return np.ix_(range(rows[0], rows[-1] + 1), range(columns[0], columns[-1] + 1))


def test_erasing_fills_one_rectangle_in_its_share_of_the_images():
    images = jnp.full((400, 16, 16, 3), 300, jnp.int32)  # a value that noise never takes
    changed = (np.asarray(jax.jit(erased, static_argnums=2)(images, KEY, 0.25)) != 300).all(-1)
    some = changed.any((1, 2))
    assert 0.17 < some.mean() < 0.33
    assert all(one[bounding_box(one)].all() for one in changed[some])
    assert 0.005 < changed[some].mean((1, 2)).min() < changed[some].mean((1, 2)).max() < 0.4


def test_mixup_blends_pixels_and_labels_alike():
    mixture, soft = jax.jit(mixed, static_argnums=(3, 4))(IMAGES, HARD, KEY, 1.0, 0.0)
    images = np.asarray(mixture).reshape(64, -1)
    ours, other = IMAGES.reshape(64, -1), np.roll(IMAGES, 1, axis=0).reshape(64, -1)
    difference = ours.astype(float) - other
    share = ((images - other) * difference).sum(1) / (difference**2).sum(1)
    np.testing.assert_allclose(
        images, share[:, None] * ours + (1 - share)[:, None] * other, atol=1e-2
    )
    expected = share[:, None] * HARD + (1 - share)[:, None] * np.roll(HARD, 1, axis=0)
    np.testing.assert_allclose(soft, expected, atol=1e-5)
    assert 0.4 < share.mean() < 0.6  # Beta(1, 1) is uniform
    assert share.min() < 0.2
    assert share.max() > 0.8


def test_cutmix_pastes_one_rectangle_and_counts_its_pixels():
    mixture, soft = jax.jit(mixed, static_argnums=(3, 4))(IMAGES, HARD, KEY, 0.0, 1.0)
    other = np.roll(IMAGES, 1, axis=0)
    kept = (np.asarray(mixture) == IMAGES).all(-1)
    pasted = (np.asarray(mixture) == other).all(-1)
    assert (kept | pasted).all()
    for one in pasted & ~kept:
        assert not one.any() or one[bounding_box(one)].all()
    share = kept.mean((1, 2))[:, None]
    expected = share * HARD + (1 - share) * np.roll(HARD, 1, axis=0)
    np.testing.assert_allclose(soft, expected, atol=1e-6)
    assert len(np.unique(share)) > 8


def test_with_both_a_row_has_one_of_them():
    mixture, soft = jax.jit(mixed, static_argnums=(3, 4))(IMAGES, HARD, KEY, 1.0, 1.0)
    other = np.roll(IMAGES, 1, axis=0)
    images = np.asarray(mixture)
    whole = ((images == IMAGES) | (images == other)).all((1, 2, 3))
    assert 16 < whole.sum() < 48
    np.testing.assert_allclose(soft.sum(1), 1.0, rtol=1e-6)


def wrapped(**keys):
    """(batch, context) -> the batch that the task inside gets to see."""

    def loss(variables, batch, context, hparams):
        return batch

    outer = TaskContext(tiny_images(), IMAGE_INFO, "cpu")
    task = augment(outer, Task(init=lambda rng: {}, loss=loss), **keys)
    return lambda batch, context: task.loss({}, batch, context, {})


def test_draws_are_a_function_of_the_key_and_only_of_training():
    see = wrapped(crop=1, flip=True, erase=0.5, mixup=0.2, cutmix=1.0)
    batch = image_batch(0)
    train = jax.jit(lambda rng: see(batch, context(True)._replace(rng=rng)))
    same, again, other = (train(jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(same["images"], again["images"])
    np.testing.assert_array_equal(same["soft_labels"], again["soft_labels"])
    assert not np.array_equal(same["images"], other["images"])
    assert same["soft_labels"].shape == (32, 10)
    assert see(batch, context(False)) is batch


def test_without_mixing_labels_stay_hard():
    assert "soft_labels" not in wrapped(flip=True)(image_batch(0), context(True))
    with pytest.raises(ConfigError, match="changes nothing"):
        wrapped()


def test_a_config_wraps_classification_and_trains_on_the_mix():
    section = {"name": "augment", "cutmix": 1.0, "over": {"name": "classification"}}
    config = tiny_images(task=ConfigDict(section), model=ConfigDict({"name": "mlp"}))
    task = build_task(config, IMAGE_INFO, "cpu")
    plain = build_task(dataclasses.replace(config, task=config.task.over), IMAGE_INFO, "cpu")
    variables = parallel.unbox(jax.jit(task.init)(KEY))
    batch = image_batch(0)
    for train in (True, False):
        ours, theirs = (
            float(one.loss(variables, batch, context(train), {}).sum) for one in (task, plain)
        )
        assert (ours == theirs) is not train
