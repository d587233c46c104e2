"""The distance against closed forms, and what is reported of samples by hand."""

import numpy as np
import pytest
import scipy.linalg

from scaling.tasks.frechet import frechet_distance, summarize
from scaling.tasks.pictures import GAP, sheet


def standardised(rows, features, seed):
    """Samples of mean exactly 0 and covariance exactly 1."""
    x = np.random.default_rng(seed).normal(size=(rows, features))
    x -= x.mean(axis=0)
    return x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False).reshape(features, -1))).T


def test_one_dimension_and_diagonal_gaussians():
    x = standardised(50, 1, 0)
    assert frechet_distance(2 * x + 1, 5 * x[:40] * 0 + 3) == pytest.approx(4 + 4)
    y = standardised(70, 1, 1)
    assert frechet_distance(2 * x + 1, 5 * y + 3) == pytest.approx((1 - 3) ** 2 + (2 - 5) ** 2)
    a, b = np.array([1.0, 2.0, 0.5, 0.0]), np.array([3.0, 2.0, 0.1, 1.0])
    mean = np.array([0.0, 1.0, -1.0, 2.0])
    x, y = standardised(50, 4, 2), standardised(70, 4, 3)
    expected = np.sum(mean**2) + np.sum((a - b) ** 2)
    assert frechet_distance(x * a, y * b + mean) == pytest.approx(expected)
    assert frechet_distance(y * b + mean, x * a) == pytest.approx(expected)


def test_general_covariances_as_by_the_matrix_root():
    random = np.random.default_rng(0)
    mix = random.normal(size=(2, 6, 6))
    x, y = random.normal(size=(2, 200, 6)) @ mix + random.normal(size=(2, 1, 6))
    cov_x, cov_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(cov_x @ cov_y).real
    expected = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(cov_x + cov_y - 2 * root)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)


def test_with_fewer_samples_than_features_it_is_a_number_and_zero_for_the_same():
    x = np.random.default_rng(0).normal(size=(20, 50)).astype(np.float32)
    assert frechet_distance(x, x) == pytest.approx(0.0, abs=1e-5)
    assert frechet_distance(x, x[:10]) > 1.0


def test_halves_of_the_real_set_are_near_and_noise_is_far():
    random = np.random.default_rng(1)
    centres = random.normal(size=(10, 16)) * 4
    labels = random.integers(0, 10, 4000)
    real = centres[labels] + random.normal(size=(4000, 16))
    noise = random.normal(size=(2000, 16))
    rows = {
        "real": real,
        "generated": noise,
        "class": np.repeat([0, 1, 2, 3], [1000, 980, 20, 0]),
        "images": np.zeros((2000, 4, 4, 1), np.uint8),
    }
    values = summarize(rows, tuple("abcde"))
    assert values["halves"] < 0.5
    assert values["distance"] > 50 * values["halves"]
    assert values["modes"] == 3  # of 1 % exactly, and none of the classes without a sample
    assert values["top_share"] == 0.5
    assert values["samples"] == 2000
    assert values["classes"] == {"a": 0.5, "b": 0.49, "c": 0.01, "d": 0.0, "e": 0.0}


@pytest.mark.parametrize("channels", [1, 3])
def test_a_sheet_shows_each_image_once_in_its_place(channels):
    images = np.random.default_rng(0).integers(0, 255, (7, 4, 6, channels), dtype=np.uint8)
    picture = sheet(images)
    assert picture.shape == (3 * 4 + 2 * GAP, 3 * 6 + 2 * GAP, 3)
    for i, image in enumerate(images):
        top, left = i // 3 * (4 + GAP), i % 3 * (6 + GAP)
        np.testing.assert_array_equal(
            picture[top : top + 4, left : left + 6], np.broadcast_to(image, (4, 6, 3))
        )
    assert (picture[-4:, -6:] == 255).all()
    assert sheet(np.zeros((300, 2, 2, 1), np.uint8)).shape == (10 * 2 + 9 * GAP,) * 2 + (3,)
