"""Images in class folders: labels, sizes, what is held out, and which file an error names."""

import os

import numpy as np
import pytest
from helpers import tiny_images
from ml_collections import ConfigDict
from PIL import Image

from scaling import data
from scaling.data.errors import DataError
from scaling.data.images import image_arrays
from scaling.data.sources.image_folder import ImageFolder


@pytest.fixture
def folders(tmp_path):
    """Two classes of grey images whose value says which they are, one of them deeper down."""
    for i in range(6):
        for label, name in enumerate(("cat", "dog")):
            folder = tmp_path / "train" / name / ("deep" if i == 5 else "")
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (6, 4), (10 * i + label,) * 3).save(folder / f"{i}.png")
    (tmp_path / "train" / ".cache").mkdir()
    (tmp_path / "train" / "cat" / ".DS_Store").write_bytes(b"x")
    held_out = tmp_path / "test" / "dog"
    held_out.mkdir(parents=True)
    Image.new("RGB", (6, 4), (201,) * 3).save(held_out / "a.png")
    return tmp_path


def arrays(source, cache):
    entry = image_arrays(source, cache)
    return [np.load(entry.path / f"{name}.npy") for name in ("images", "labels")]


def test_reads_classes_by_name(folders, tmp_path):
    source = ImageFolder(str(folders / "train"))
    info = source.describe()
    assert (info.image_shape, info.class_names, info.num_classes) == ((4, 6, 3), ("cat", "dog"), 2)
    images, labels = arrays(source, tmp_path / "cache")
    assert images.shape == (12, 4, 6, 3)
    np.testing.assert_array_equal(labels, [0] * 6 + [1] * 6)
    np.testing.assert_array_equal(
        images[:, 0, 0, 0], [10 * i + k for k in (0, 1) for i in range(6)]
    )


def test_held_out_images_have_the_labels_of_training(folders, tmp_path):
    source = ImageFolder(str(folders / "train"), str(folders / "test"))
    images, labels = arrays(source.held_out(), tmp_path / "cache")
    assert labels.tolist() == [1]
    assert images[0, 0, 0, 0] == 201
    (folders / "test" / "cow").mkdir()
    with pytest.raises(DataError, match="cow"):
        source.held_out().describe()
    with pytest.raises(DataError, match=r"0\.png is among"):
        ImageFolder(str(folders / "train"), str(folders / "train")).held_out()


def test_size_and_mode_and_contents_make_other_data(folders, tmp_path):
    path = str(folders / "train")
    small = ImageFolder(path, size=(2, 5), mode="L")
    images, _ = arrays(small, tmp_path / "cache")
    assert images.shape == (12, 2, 5, 1)
    assert images[3].max() == images[3].min() == 30
    known = {
        s.fingerprint(tmp_path) for s in (small, ImageFolder(path), ImageFolder(path, mode="L"))
    }
    assert len(known) == 3
    Image.new("RGB", (6, 4), (99,) * 3).save(folders / "train" / "cat" / "0.png")
    assert ImageFolder(path).fingerprint(tmp_path) not in known
    # Other contents of the same size, with the old time put back, as `cp -p` does.
    file = folders / "train" / "dog" / "1.png"
    before, stat = ImageFolder(path).fingerprint(tmp_path), file.stat()
    file.write_bytes(file.read_bytes()[::-1])
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert ImageFolder(path).fingerprint(tmp_path) != before


def broken(path):
    path.write_bytes(path.read_bytes()[:40])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda train: broken(train / "dog" / "3.png"), r"dog/3\.png cannot be read"),
        (
            lambda train: (train / "cat" / "notes.txt").write_text("x"),
            r"notes\.txt is not an image",
        ),
        (lambda train: (train / "ant").mkdir(), "ant holds no images"),
        (
            lambda train: Image.new("RGB", (9, 9)).save(train / "dog" / "2.png"),
            r"dog/2\.png has the shape \[9, 9, 3\].*data\.source\.size",
        ),
    ],
)
def test_a_bad_file_is_named(folders, tmp_path, change, message):
    change(folders / "train")
    with pytest.raises(DataError, match=message):
        arrays(ImageFolder(str(folders / "train")), tmp_path / "cache")


def test_no_folder_or_no_classes_is_said(folders):
    with pytest.raises(DataError, match="is not a folder"):
        ImageFolder(str(folders / "nothing")).describe()
    with pytest.raises(DataError, match="no class folders"):
        ImageFolder(str(folders / "test" / "dog")).describe()


def test_a_config_alone_trains_on_it(folders, tmp_path):
    source = {"name": "image_folder", "path": str(folders / "train")}
    config = tiny_images(
        **{"data": ConfigDict({"source": source, "eval_fraction": 0.25}), "train.batch_size": 3}
    )
    built = data.build(config, tmp_path / "cache")
    assert built.sizes == {"train_examples": 9, "eval_examples": 3}
    batch = built.train.batch(0, 0, 3)
    np.testing.assert_array_equal(batch["images"][:, 0, 0, 0] % 10, batch["labels"])
