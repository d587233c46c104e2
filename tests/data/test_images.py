import numpy as np
import pytest

from scaling.data.documents import split_rows
from scaling.data.errors import DataError
from scaling.data.images import image_arrays, image_spec, images_of
from scaling.data.info import DataInfo


class Squares:
    """Image i is filled with i; its label is i mod 3."""

    kind = "images"

    def __init__(self, count):
        self.count = count

    def describe(self):
        shape = (2, 2, 1)
        return DataInfo("images", "examples", image_spec(shape), image_shape=shape, num_classes=3)

    def blocks(self):
        for start in range(0, self.count, 10):
            numbers = np.arange(start, min(start + 10, self.count))
            yield np.tile(numbers.astype(np.uint8)[:, None, None, None], (1, 2, 2, 1)), numbers % 3

    def fingerprint(self, cache):
        return f"squares {self.count}"


def test_gathers_bytes_and_labels(tmp_path):
    entry = image_arrays(Squares(25), tmp_path)
    images = images_of(entry)
    assert len(images) == 25
    batch = images.gather(np.array([24, 3, 3]))
    assert batch["images"][:, 1, 1, 0].tolist() == [24, 3, 3]
    assert batch["labels"].tolist() == [0, 0, 0]
    for key, (shape, dtype) in images.spec.items():
        assert batch[key].shape == (3, *shape)
        assert batch[key].dtype == dtype
    assert images_of(entry, np.array([7, 9])).gather(np.array([1]))["images"].max() == 9


def test_a_share_is_held_out_that_does_not_overlap():
    train, held = split_rows(1000, 0.1)
    assert len(held) == 100
    np.testing.assert_array_equal(np.sort([*train, *held]), np.arange(1000))
    np.testing.assert_array_equal(split_rows(1000, 0.1)[1], held)
    assert abs(held.mean() - 500) < 100  # not one end of the data
    assert len(split_rows(10, 0.0)[0]) == 10
    with pytest.raises(DataError, match=r"eval_fraction=0\.01 of 10 examples holds out 0"):
        split_rows(10, 0.01)


def test_no_image_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no image"):
        image_arrays(Squares(0), tmp_path)
