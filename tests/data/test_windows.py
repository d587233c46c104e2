import dataclasses

import numpy as np
import pytest
from data_helpers import some_texts, write_documents

from scaling.data.documents import Part, document_hash
from scaling.data.errors import DataError
from scaling.data.sources.files import Files
from scaling.data.tokenizers import Bytes
from scaling.data.windows import (
    Windows,
    open_tokens,
    segments_and_positions,
    token_stream,
    warn_of_markers,
)

S = 256


def documents(tmp_path, texts, name="a.jsonl"):
    return Files(paths=(str(write_documents(tmp_path / name, texts)),))


def stream(part, tmp_path, **keywords):
    return token_stream(part, Bytes(), tmp_path / "cache", **keywords)


def test_the_stream_is_documents_between_separators(tmp_path):
    entry = stream(Part(documents(tmp_path, ["ab", "é", ""])), tmp_path)
    assert open_tokens(entry).tolist() == [S, 97, 98, S, 0xC3, 0xA9, S]
    assert entry.meta == {
        "tokens": 7,
        "bytes": 4,
        "documents": 2,
        "excluded": 0,
        "blank": 1,
        "markers": {},
    }
    assert np.load(entry.path / "documents.npy").tolist() == [
        document_hash("ab"),
        document_hash("é"),
    ]


@pytest.mark.parametrize("seq_len", [1, 3, 8, 50, 5000])
def test_every_token_but_the_first_is_a_target_once(tmp_path, seq_len):
    texts = some_texts(40)
    tokens = open_tokens(stream(Part(documents(tmp_path, texts)), tmp_path))
    windows = Windows(tokens, seq_len, separator=S)
    batch = windows.gather(np.arange(len(windows)))
    np.testing.assert_array_equal(batch["targets"][batch["weights"] > 0], tokens[1:])
    np.testing.assert_array_equal(batch["inputs"][batch["weights"] > 0], tokens[:-1])
    assert set(np.unique(batch["weights"])) <= {0.0, 1.0}
    for key, (shape, dtype) in windows.spec.items():
        assert batch[key].dtype == dtype
        assert batch[key].shape == (len(windows), *shape)


def test_segments_and_positions_against_a_loop(tmp_path):
    texts = some_texts(40, size=20)
    tokens = open_tokens(stream(Part(documents(tmp_path, texts)), tmp_path))
    batch = Windows(tokens, 32, separator=S).gather(np.arange(10))
    for row in range(10):
        segment, position = 1, 0
        for t in range(32):
            if t and batch["inputs"][row, t] == S:
                segment, position = segment + 1, 0
            assert batch["segments"][row, t] == segment
            assert batch["positions"][row, t] == position
            position += 1


def test_a_target_belongs_to_the_document_of_its_input(tmp_path):
    # The target after a document's last token is the separator; a document's first token is
    # predicted from the separator before it, which is in the document's own segment.
    tokens = open_tokens(stream(Part(documents(tmp_path, ["abc", "de", "f"])), tmp_path))
    batch = Windows(tokens, 9, separator=S).gather(np.array([0]))
    assert batch["inputs"][0].tolist() == [S, 97, 98, 99, S, 100, 101, S, 102]
    assert batch["targets"][0].tolist() == [97, 98, 99, S, 100, 101, S, 102, S]
    assert batch["segments"][0].tolist() == [1, 1, 1, 1, 2, 2, 2, 3, 3]
    assert batch["positions"][0].tolist() == [0, 1, 2, 3, 0, 1, 2, 0, 1]


def test_without_masking_there_are_no_segments():
    assert set(Windows(np.arange(9), 4).gather(np.array([0]))) == {"inputs", "targets", "weights"}
    inputs = np.array([[1, 2, 3]], np.int32)
    assert segments_and_positions(inputs, S)["segments"].tolist() == [[1, 1, 1]]


def test_limit_keeps_the_first_whole_examples():
    tokens = np.arange(101)
    assert len(Windows(tokens, 10)) == 10
    assert len(Windows(tokens, 10, limit=35)) == 3
    assert len(Windows(tokens, 10, limit=1)) == 1
    assert len(Windows(tokens, 10, limit=10**6)) == 10


def test_too_few_tokens_are_an_error():
    with pytest.raises(DataError, match="too few"):
        Windows(np.arange(1), 4)


def test_held_out_documents_are_not_trained_on(tmp_path):
    source = documents(tmp_path, some_texts(300))
    train, held = (Part(source, side, "documents", 0.2) for side in ("train", "eval"))
    a = np.load(stream(train, tmp_path).path / "documents.npy")
    b = np.load(stream(held, tmp_path).path / "documents.npy")
    assert len(np.intersect1d(a, b)) == 0
    assert len(a) + len(b) == 300
    assert 30 < len(b) < 90


def test_equal_documents_fall_on_one_side(tmp_path):
    source = documents(tmp_path, some_texts(100) * 3)
    sides = [set(Part(source, side, "documents", 0.3).documents()) for side in ("train", "eval")]
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == 100


def test_documents_that_are_also_held_out_are_left_out_and_counted(tmp_path, caplog):
    texts = some_texts(50)
    held = stream(Part(documents(tmp_path, texts[:10], "eval.jsonl")), tmp_path)
    train = stream(Part(documents(tmp_path, texts)), tmp_path, exclude=[held])
    assert train.meta["documents"] == 40
    assert "10 training documents are left out" in caplog.text
    with pytest.raises(DataError, match="also in the held-out text"):
        stream(Part(documents(tmp_path, texts[:5], "b.jsonl")), tmp_path, exclude=[held])


def test_a_single_document_is_split_into_head_and_tail_without_separators(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("é" * 95 + "bcdef")
    for holdout in ("auto", "tail"):
        train, held = (
            stream(Part(Files(paths=(str(path),)), side, holdout, 0.1), tmp_path)
            for side in ("train", "eval")
        )
        assert open_tokens(train).tolist() == [0xC3, 0xA9] * 90
        assert open_tokens(held).tolist() == [0xC3, 0xA9] * 5 + [98, 99, 100, 101, 102]


def test_splits_that_cannot_be_are_errors(tmp_path):
    many = documents(tmp_path, some_texts(5))
    with pytest.raises(DataError, match="single document"):
        list(Part(many, "eval", "tail", 0.1).documents())
    with pytest.raises(DataError, match=r"eval_fraction=1e-06 leaves no document held out"):
        stream(Part(many, "eval", "auto", 1e-6), tmp_path)
    with pytest.raises(DataError, match="no document left to train on"):
        stream(Part(many, "train", "auto", 0.999999), tmp_path)


def test_the_key_follows_everything_that_matters(tmp_path):
    source = documents(tmp_path, some_texts(20))
    base = stream(Part(source, "train", "documents", 0.2), tmp_path).path
    assert stream(Part(source, "train", "documents", 0.2), tmp_path).path == base
    others = [
        Part(source, "train", "documents", 0.3),
        Part(source, "eval", "documents", 0.2),
        Part(source),
        Part(dataclasses.replace(source, errors="replace"), "train", "documents", 0.2),
        Part(documents(tmp_path, some_texts(21), "b.jsonl"), "train", "documents", 0.2),
    ]
    assert len({base} | {stream(part, tmp_path).path for part in others}) == 6
    moved = documents(tmp_path, some_texts(20), "moved.jsonl")  # the contents count, not the name
    assert stream(Part(moved, "train", "documents", 0.2), tmp_path).path == base


def test_documents_without_text_are_left_out_and_counted(tmp_path):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "blank.txt").write_text(" \n")
    write_documents(tmp_path / "a.jsonl", ["aa", "", "b", "\t"])
    notes = token_stream(Part(Files((f"{tmp_path}/*.*",))), Bytes(), tmp_path / "cache").meta
    assert (notes["documents"], notes["blank"], notes["bytes"]) == (2, 4, 3)


def test_a_marker_in_the_text_is_told_once_with_the_key_that_splits_at_it(tmp_path, caplog):
    path = tmp_path / "a.jsonl"
    write_documents(path, [f"one {i}\n<|endoftext|>\ntwo" for i in range(40)])
    parts = [Part(Files((str(path),)), side, "documents", 0.5) for side in ("train", "eval")]
    entries = [token_stream(part, Bytes(), tmp_path / "cache") for part in parts]
    assert caplog.text == ""
    warn_of_markers(entries)
    (record,) = caplog.records
    assert "in 40 documents" in record.getMessage()
    assert "data.source.separator='<|endoftext|>'" in record.getMessage()
    caplog.clear()
    split = Files((str(path),), separator="<|endoftext|>")
    entry = token_stream(Part(split), Bytes(), tmp_path / "cache")
    warn_of_markers([entry])
    assert (entry.meta["documents"], caplog.text) == (80, "")


def test_in_lanes_a_window_may_go_on_with_a_document():
    inputs = np.array([[1, 2, S, 3], [S, 1, S, 2], [4, 4, 4, 4]], np.int32)
    batch = segments_and_positions(inputs, S, lanes=True)
    assert batch["segments"].tolist() == [[0, 0, 1, 1], [1, 1, 2, 2], [0, 0, 0, 0]]
    assert batch["positions"].tolist() == [[0, 1, 0, 1], [0, 1, 0, 1], [0, 1, 2, 3]]
