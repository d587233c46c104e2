import shutil
import sys

import numpy as np
import pytest
from helpers import shared

from scaling.data.errors import DataError
from scaling.data.images import image_arrays
from scaling.data.sources.tfds import Tfds


@pytest.fixture(scope="module")
def prepared():
    return str(shared("tensorflow_datasets"))


def test_reads_images_and_labels(prepared, tmp_path):
    source = Tfds("mnist", split="train[:1500]", eval_split="test[:100]", data_dir=prepared)
    assert source.kind == "images"
    info = source.describe()
    assert info.image_shape == (28, 28, 1)
    assert info.num_classes == 10
    assert info.class_names == tuple("0123456789")
    entry = image_arrays(source, tmp_path)
    images, labels = (np.load(entry.path / f"{name}.npy") for name in ("images", "labels"))
    assert images.shape == (1500, 28, 28, 1)
    assert images.dtype == np.uint8
    assert images.max() == 255
    assert labels[:5].tolist() == [4, 1, 0, 7, 8]  # the order of the prepared records
    assert np.bincount(labels, minlength=10).min() > 100
    assert image_arrays(source.held_out(), tmp_path).meta == {"examples": 100}


def test_sets_and_splits_have_their_own_cache_entries(prepared, tmp_path):
    sources = [
        Tfds("mnist", split="train[:300]", data_dir=prepared),
        Tfds("mnist", split="train[300:600]", data_dir=prepared),
        Tfds("fashion_mnist", split="train[:300]", data_dir=prepared),
    ]
    arrays = [np.load(image_arrays(one, tmp_path).path / "images.npy") for one in sources]
    assert len({a.tobytes() for a in arrays}) == 3
    whole = [one.fingerprint(tmp_path) for one in sources]
    assert len(set(whole)) == 3
    named = Tfds("mnist:3.0.1", split="train[:300]", data_dir=prepared)
    assert named.fingerprint(tmp_path) == whole[0]


@pytest.mark.parametrize(
    ("dataset", "count", "first"),
    [
        ("tiny_shakespeare", 1, "First Citizen"),
        ("trec", 5452, None),
        ("clinc_oos", 15_000, None),
    ],
)
def test_reads_text(prepared, dataset, count, first):
    source = Tfds(dataset, data_dir=prepared)
    assert source.kind == "text"
    texts = list(source.documents())
    assert len(texts) == count
    assert all(isinstance(text, str) for text in texts)
    assert first is None or texts[0].startswith(first)


def test_another_feature(prepared):
    source = Tfds("clinc_oos", split="test[:10]", data_dir=prepared, feature="domain_name")
    assert "banking" in set(Tfds("clinc_oos", data_dir=prepared, feature="domain_name").documents())
    assert len(list(source.documents())) == 10


def test_finds_the_folder_by_the_environment_or_at_home(prepared, monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", prepared)
    assert Tfds("trec").kind == "text"
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "tensorflow_datasets").symlink_to(prepared)
    assert Tfds("trec").kind == "text"


def test_takes_the_newest_version(prepared, tmp_path):
    for version in ("0.9.0", "0.10.0"):
        shutil.copytree(f"{prepared}/trec/1.0.0", tmp_path / "trec" / version)
    assert Tfds("trec", data_dir=str(tmp_path))._folder.name == "0.10.0"
    assert Tfds("trec:0.9.0", data_dir=str(tmp_path))._folder.name == "0.9.0"


def test_what_is_missing_is_named_with_what_there_is(prepared, tmp_path):
    with pytest.raises(DataError, match=r"cifar10 is not prepared in .*mnist.*trec.*data_dir"):
        Tfds("cifar10", data_dir=prepared).describe()
    with pytest.raises(DataError, match=r"does not exist.*download=True"):
        list(Tfds("trec", data_dir=str(tmp_path / "none")).documents())
    with pytest.raises(DataError, match="prepared there: nothing"):
        list(Tfds("trec", data_dir=str(tmp_path)).documents())
    with pytest.raises(DataError, match=r"mnist:9\.9\.9 is not prepared"):
        Tfds("mnist:9.9.9", data_dir=prepared).describe()
    with pytest.raises(DataError, match=r"no split 'dev'.*It has: test, train"):
        Tfds("mnist", split="dev", data_dir=prepared).fingerprint(tmp_path)
    with pytest.raises(DataError, match="has no split 'dev'"):
        list(Tfds("trec", split="dev", data_dir=prepared).documents())
    for split, reason in (
        ("trian[:10%]", "Unknown split 'trian'"),
        ("train[10%]", "only support slice syntax"),
        ("train[:20000]", "incompatible with 5452 examples"),
    ):
        with pytest.raises(DataError, match=reason):
            list(Tfds("trec", split=split, data_dir=prepared).documents())
    for split in ("train[50%:40%]", "train[30:29]", "train[30:29]+test", "test+train[50%:40%]"):
        with pytest.raises(DataError, match="ends before it begins"):
            list(Tfds("trec", split=split, data_dir=prepared).documents())
    with pytest.raises(DataError, match="no feature 'pixels'"):
        _ = Tfds("mnist", data_dir=prepared, feature="pixels").kind
    with pytest.raises(DataError, match="no class label 'digit'"):
        Tfds("mnist", data_dir=prepared, label="digit").describe()
    with pytest.raises(DataError, match="is empty"):
        list(Tfds("tiny_shakespeare", split="train[:10%]", data_dir=prepared).documents())


@pytest.mark.parametrize(
    ("split", "eval_split"),
    [("train", "train"), ("train", "train[:1%]"), ("train[:51%]", "train[50%:]+test")],
)
def test_refuses_splits_that_share_records(prepared, split, eval_split):
    source = Tfds("mnist", split=split, eval_split=eval_split, data_dir=prepared)
    with pytest.raises(DataError, match="share records"):
        source.held_out()


def test_splits_side_by_side_are_fine(prepared):
    for split, eval_split in [("train", "test"), ("train[:50%]", "train[50%:]")]:
        assert Tfds("mnist", split=split, eval_split=eval_split, data_dir=prepared).held_out()


def test_a_damaged_record_file_is_an_error(prepared, tmp_path):
    shutil.copytree(f"{prepared}/trec", tmp_path / "trec")
    (file,) = (tmp_path / "trec" / "1.0.0").glob("trec-train*")
    file.chmod(0o644)
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4096] = bytes(4096)
    file.write_bytes(content)
    with pytest.raises(DataError, match="cannot read"):
        list(Tfds("trec", data_dir=str(tmp_path)).documents())


def test_does_not_import_tensorflow(prepared):
    list(Tfds("trec", data_dir=prepared).documents())
    assert "tensorflow" not in sys.modules
