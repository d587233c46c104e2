"""CoNLL files: words become tokens, the first of which has the tag; which line an error names."""

import numpy as np
import pytest
from data_helpers import data_config

from scaling import data
from scaling.data.errors import DataError

FILE = """-DOCSTART- -X- O

Ann NNP B-person
met VBD O
New NNP B-place
York NNP I-place

No DT O
one NN O
"""


def opened(folder, text, held_out="x X O\n", length=16, **source):
    (folder / "train.conll").write_text(text, encoding="utf-8")
    (folder / "test.conll").write_text(held_out, encoding="utf-8")
    paths = {"paths": (str(folder / "train.conll"),), "eval_paths": (str(folder / "test.conll"),)}
    section = {"source": {"name": "tagged_text", **paths, **source}, "text": {"seq_len": length}}
    return data.build(data_config(batch_size=2, **section), folder / "cache")


def test_the_first_token_of_a_word_has_its_tag(tmp_path):
    built = opened(tmp_path, FILE, eval_len=20)
    assert built.info.class_names == ("O", "B-person", "I-person", "B-place", "I-place")
    batch = built.train.batch(0, 0, 2)
    decode = built.artefacts["tokenizer"].decode
    row = int(np.argmax(batch["segments"].sum(axis=1)))
    assert decode(batch["inputs"][row]) == "Ann met New York"
    # Bytes: a word but the first begins with its blank.
    starts = np.flatnonzero(batch["weights"][row]).tolist()
    assert starts == [0, 3, 7, 11]
    assert batch["labels"][row, starts].tolist() == [1, 0, 3, 4]
    assert batch["segments"][row].tolist() == [1] * 16
    assert decode(batch["inputs"][1 - row]) == "No one"
    assert batch["segments"][1 - row].tolist() == [1] * 6 + [0] * 10
    assert built.evals["eval"].batch(0, 1, 0, 1)["inputs"].shape == (1, 20)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a X O\nb\n", "train.conll, line 2: has 1 columns, and word and tag need 2"),
        ("a X O\n\nb X B\n", "line 3: 'B' is not O, B-TYPE or I-TYPE"),
        ("a X O\nb X O\n", "every word is O"),
        ("\n\n", "hold no sentence"),
        (
            FILE + "\nx X O\n" + "a X O\n" * 9,
            "line 11: the sentence has 19 tokens, more than the 16",
        ),
    ],
)
def test_a_bad_line_is_named(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        opened(tmp_path, text)


def test_held_out_tags_must_be_known_and_columns_can_be_named(tmp_path):
    with pytest.raises(DataError, match=r"test.conll, line 3: .*has the tag B-group"):
        opened(tmp_path, FILE, held_out="a X O\n\nb X B-group\n")
    built = opened(tmp_path, "O\tx y\nB-a\tz\n", "O\tx\n", delimiter="\t", word=1, tag=0)
    batch = built.train.batch(0, 0, 1)
    assert built.artefacts["tokenizer"].decode(batch["inputs"][0]) == "x y z"
    assert int(batch["weights"].sum()) == 2
