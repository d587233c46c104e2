"""The most frequent mistakes, and which cell of the picture has which colour."""

import numpy as np

from scaling.tasks import confusions
from scaling.tasks.confusions import HIGH, SHOWN, WIDE, mistakes, picture


def corner(image, row, column, classes):
    """The colour of a cell of the matrix, at its corner, where no letter stands."""
    left = image.shape[1] - WIDE * classes
    return image[HIGH * (row + 1), left + WIDE * column].tolist()


def test_the_most_frequent_mistakes_first():
    confusion = np.array([[5.0, 0, 2], [3, 9, 0], [0, 1, 4]])
    assert mistakes(confusion, "abc") == [
        {"label": "b", "guess": "a", "examples": 3},
        {"label": "a", "guess": "c", "examples": 2},
        {"label": "c", "guess": "b", "examples": 1},
    ]
    assert mistakes(np.diag([3.0, 2.0]), "ab") == []


def test_rows_are_the_truth():
    confusion = np.array([[4.0, 0, 0], [8, 0, 0], [0, 0, 0]])
    image = picture(confusion, ("a", "b", "c"))
    assert image.dtype == np.uint8
    assert image.shape[0] == HIGH * 4
    assert corner(image, 0, 0, 3) == confusions.RIGHT.tolist()
    assert corner(image, 1, 0, 3) == confusions.WRONG.tolist()
    for row, column in ((0, 1), (1, 1), (2, 2)):
        assert corner(image, row, column, 3) == [255, 255, 255]


def test_of_many_classes_those_with_the_most_mistakes_are_shown():
    classes = SHOWN + 20
    confusion = np.diag(np.full(classes, 10.0))
    confusion[classes - 1, 3] = 5
    image = picture(confusion, [f"class {k}" for k in range(classes)])
    assert image.shape[0] == HIGH * (SHOWN + 1)
    red, green, blue = corner(image, SHOWN - 1, 3, SHOWN)
    assert red > max(green, blue)
