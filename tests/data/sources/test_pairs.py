"""Pairs of one class: who meets whom, when, and what cannot be paired."""

import numpy as np
import pytest
from data_helpers import data_config
from PIL import Image

from scaling import data
from scaling.data.errors import DataError

NAMES = ("cat", "dog")


def write(folder, texts=("a cat", "my cat", "the dog"), shades=4):
    folder.mkdir(exist_ok=True)
    rows = [f"{text},{text.split()[-1]}" for text in texts]
    (folder / "texts.csv").write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    (folder / "held_out.csv").write_text("text,label\nold cat,cat\n", encoding="utf-8")
    for part in ("train", "test"):
        for label, name in enumerate(NAMES):
            (folder / part / name).mkdir(parents=True, exist_ok=True)
            for i in range(shades):
                image = Image.new("L", (2, 2), 100 * label + i + 50 * (part == "test"))
                image.save(folder / part / name / f"{i}.png")
    return folder


def opened(folder, seed=0, fraction=0.1, **second):
    texts = {"name": "labelled_text", "paths": (str(folder / "texts.csv"),)}
    texts["eval_paths"] = (str(folder / "held_out.csv"),)
    images = {"name": "image_folder", "path": str(folder / "train"), "mode": "L"}
    images |= {"eval_path": str(folder / "test")} | second
    section = {"source": {"name": "pairs", "first": texts, "second": images}}
    section["text"] = {"seq_len": 4, "tokenizer": {"name": "words", "vocab_size": 9}}
    config = data_config(batch_size=3, seed=seed, eval_fraction=fraction, **section)
    return data.build(config, folder / "cache"), data.describe(config)


def shades(batch):
    return batch["second_images"][:, 0, 0, 0]


def test_partners_are_of_one_class_and_a_function_of_seed_and_place(tmp_path):
    built, described = opened(write(tmp_path / "d"))
    assert built.info.class_names == NAMES
    assert described.spec == built.info.spec == built.train.spec
    batches = [built.train.batch(i, 0, 3) for i in range(12)]
    for batch in batches:
        assert ((shades(batch) >= 100) == (batch["labels"] == 1)).all()
        assert (batch["first_labels"] == batch["labels"]).all()
        assert sorted(batch["labels"]) == [0, 0, 1]
    # Epoch by epoch other partners, each of them some time; a part of a batch has the same ones.
    assert {int(x) for batch in batches for x in shades(batch)} == {0, 1, 2, 3, 100, 101, 102, 103}
    part = built.train.batch(7, 1, 3)
    np.testing.assert_array_equal(shades(part), shades(batches[7])[1:])
    other, _ = opened(tmp_path / "d", seed=1)
    assert any(
        (shades(other.train.batch(i, 0, 3)) != shades(b)).any() for i, b in enumerate(batches)
    )
    held_out = [one.evals["eval"].batch(0, 1, 0, 1) for one in (built, other)]
    assert 50 <= shades(held_out[0])[0] < 54
    np.testing.assert_array_equal(shades(held_out[0]), shades(held_out[1]))


def test_what_cannot_be_paired_is_named(tmp_path):
    folder = write(tmp_path / "d", texts=("a cat", "a cow"))
    with pytest.raises(DataError, match="second: has no example of the class 'cow'"):
        opened(folder)
    with pytest.raises(DataError, match="one of `first` and `second` holds examples out"):
        opened(write(tmp_path / "e"), fraction=0.0, eval_path=None)
    section = {"name": "pairs", "second": {"name": "stdlib"}}
    section["first"] = {"name": "image_folder", "path": str(folder / "train")}
    config = data_config(source=section)
    with pytest.raises(DataError, match=r"source\.second: stdlib gives text, without classes"):
        data.describe(config)
