"""Pairs of texts: which line is with which, what is left out or refused, and what a batch holds."""

import gzip

import numpy as np
import pytest
from data_helpers import data_config

from scaling import data
from scaling.data.errors import DataError
from scaling.data.sources.text_pairs import HeldOutTexts

PAIRS = [("ab", "x"), ("abc", "xyz"), ("  ", "gap"), ("a", "xx"), ("abcdef", "y"), ("ä", "ß")]


def write(folder, name, pairs, end=""):
    for place, side in enumerate(("source", "target")):
        text = "".join(f"{pair[place]}\n" for pair in pairs) + end
        (folder / f"{name}.{side}").write_text(text, encoding="utf-8")
    return {
        f"{prefix}{side}_paths": (str(folder / f"{name}.{side}"),)
        for side in ("source", "target")
        for prefix in ("" if name == "train" else f"{name}_",)
    }


def opened(tmp_path, source, batch_size=4, **section):
    source = {"name": "text_pairs", "source_len": 5, "target_len": 4, **source}
    if "eval_source_paths" not in source:
        section = {"eval_fraction": 0.0, **section}
    return data.build(data_config(batch_size, source=source, **section), tmp_path / "cache")


def spelled(row):
    """(source, target) of an example, by the bytes of its arrays."""
    source = bytes(row["source"][row["source_segments"] > 0].astype(np.uint8)).decode()
    target = row["targets"][row["weights"] > 0]
    assert target[-1] == 256
    assert row["inputs"][0] == 256
    np.testing.assert_array_equal(row["inputs"][1 : len(target)], target[:-1])
    return source, bytes(target[:-1].astype(np.uint8)).decode()


def examples(dataset, batch, count):
    rows = dataset.batch(batch, count, 0, count) if hasattr(dataset, "num_batches") else None
    rows = rows or dataset.batch(batch, 0, count)
    return [spelled({key: value[i] for key, value in rows.items()}) for i in range(count)]


def test_lines_of_two_files_belong_together(tmp_path):
    source = write(tmp_path, "train", PAIRS) | write(tmp_path, "eval", [("de", "fg"), ("h", "i")])
    built = opened(tmp_path, source)
    assert sorted(examples(built.train, 0, 4)) == [
        ("a", "xx"),
        ("ab", "x"),
        ("abc", "xyz"),
        ("ä", "ß"),
    ]
    assert built.sizes["train_pairs_too_long_left_out"] == 1
    assert built.sizes["train_pairs_without_text_left_out"] == 1
    assert examples(built.evals["eval"], 0, 2) == [("de", "fg"), ("h", "i")]
    # Padding is not counted among the tokens: 1, 3, 2 and 2 bytes, each with an end, an epoch.
    assert [built.train.units(step, 4) for step in (1, 3, 2, 0)] == [12, 36, 24, 0]
    assert data.describe(data_config(4, source={"name": "text_pairs", **source})).vocab_size == 257


def test_a_table_and_compressed_files_give_the_same_pairs(tmp_path):
    lines = ["en\tde", *("\t".join(pair) for pair in PAIRS)]
    (tmp_path / "pairs.tsv").write_text("\n".join(lines), encoding="utf-8")
    table = {"source": "en", "target": "de", "delimiter": "\t"}
    built = opened(tmp_path, {"source_paths": (str(tmp_path / "pairs.tsv"),), **table})
    files = write(tmp_path, "train", PAIRS)
    for key, (path,) in files.items():
        with gzip.open(path + ".gz", "wb") as file, open(path, "rb") as plain:
            file.write(plain.read())
        files[key] = (path + ".gz",)
    other = opened(tmp_path, files)
    for step in range(3):
        assert examples(built.train, step, 4) == examples(other.train, step, 4)


def test_files_are_matched_in_the_order_in_which_they_are_named(tmp_path):
    for name in "bca":
        (tmp_path / f"{name}.txt").write_text(f"{name}\n", encoding="utf-8")
    paths = [str(tmp_path / f"{name}.txt") for name in "bca"]
    source = {"source_paths": (paths[0], paths[1]), "target_paths": (paths[2], paths[0])}
    built = opened(tmp_path, source, batch_size=2)
    assert sorted(examples(built.train, 0, 2)) == [("b", "a"), ("c", "b")]


def test_held_out_texts_are_kept_as_they_stand(tmp_path):
    source = write(tmp_path, "train", PAIRS)
    source |= write(tmp_path, "eval", [("d", "é."), ("e", " "), ("f", "F")])
    source |= write(tmp_path, "test", [("g", "G"), ("h", "H")])
    built = opened(tmp_path, source)
    texts = built.artefacts["held_out_texts"]
    assert HeldOutTexts.from_text(texts.to_text()) == texts
    rows = {name: built.evals[name].batch(0, 2, 0, 2) for name in ("eval", "test")}
    kept = {name: [texts.pairs[i] for i in batch["index"]] for name, batch in rows.items()}
    assert kept == {"eval": [("d", "é."), ("f", "F")], "test": [("g", "G"), ("h", "H")]}
    assert built.sizes["eval_pairs_without_text_left_out"] == 1
    assert "index" not in built.train.batch(0, 0, 2)
    assert built.info.eval_specs["test"].keys() - built.info.spec.keys() == {"index"}


def test_equal_sources_fall_on_one_side_and_long_ones_are_left_out(tmp_path):
    pairs = [(f"s{i % 20}", f"t{i % 9}") for i in range(100)] + [("long one", "x")] * 5
    built = opened(tmp_path, write(tmp_path, "train", pairs), eval_fraction=0.3)
    sizes = built.sizes
    assert sizes["train_examples"] + sizes["eval_examples"] == 100
    assert sizes["train_examples"] % 5 == 0
    left_out = (sizes.get(f"{part}_pairs_too_long_left_out", 0) for part in ("train", "eval"))
    assert sum(left_out) == 5
    assert opened(tmp_path, write(tmp_path, "train", pairs), limit=7).sizes["train_examples"] == 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"eval": [("abcdefg", "x")]},
            r"line 1: a held-out pair is too long.*eval_source_len=7, eval_target",
        ),
        (
            {"test": [("a", "x"), ("a", "xyzw")]},
            r"line 2.*test needs .*eval_source_len=1, eval_target_len=5",
        ),
        ({"train": [("abcdefg", "x")]}, r"none of the 1 pairs \(train\) fits"),
        ({"train": [(" ", " ")]}, "hold no pair of texts"),
    ],
)
def test_what_is_too_long_or_empty(tmp_path, change, message):
    parts = {"train": PAIRS, "eval": [("a", "b")]} | change
    source = {}
    for name, pairs in parts.items():
        source |= write(tmp_path, name, pairs)
    with pytest.raises(DataError, match=message):
        opened(tmp_path, source)


def test_held_out_pairs_may_be_longer_than_those_of_training(tmp_path):
    held_out = [("abcdefg", "xyzwv"), ("a", "b")]
    source = write(tmp_path, "train", PAIRS) | write(tmp_path, "eval", held_out)
    built = opened(tmp_path, source | {"eval_source_len": 7, "eval_target_len": 6})
    assert examples(built.evals["eval"], 0, 2) == held_out
    train, longer = built.info.spec, built.info.eval_specs["eval"]
    assert [spec[key][0] for spec in (train, longer) for key in ("source", "targets")] == [
        *((5,), (4,)),
        *((7,), (6,)),
    ]
    assert built.train.batch(0, 0, 4)["source"].shape == (4, 5)
    assert built.sizes["train_pairs_too_long_left_out"] == 1  # the longer ones are not trained on


def test_files_that_do_not_match(tmp_path):
    source = write(tmp_path, "train", PAIRS)
    with open(source["target_paths"][0], "a", encoding="utf-8") as file:
        file.write("one more\n")
    with pytest.raises(DataError, match=r"has 6 lines and .*has 7: line by line"):
        opened(tmp_path, source)
    two = source | {"source_paths": source["source_paths"] * 2}
    with pytest.raises(DataError, match="1 files, and there are 2 of sources"):
        opened(tmp_path, two)
    alone = write(tmp_path, "train", PAIRS) | {"eval_target_paths": source["target_paths"]}
    with pytest.raises(DataError, match=r"eval_target_paths: has no eval_source_paths beside it"):
        opened(tmp_path, alone)
    with pytest.raises(DataError, match=r"data\.text\.seq_len=9 does nothing"):
        opened(tmp_path, source, text={"seq_len": 9})
