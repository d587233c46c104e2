"""Texts with labels: both forms of file, what is held out, and which line an error names."""

import gzip

import pytest
from helpers import resolved
from ml_collections import ConfigDict

from scaling import data
from scaling.data.errors import DataError

TABLE = 'label,text\nyes,"It rains, it pours"\nno,The sun shines\nyes,It rains again\nno,Sun\n'
WORDS = {"name": "words", "vocab_size": 12}


def opened(tmp_path, source, fraction=0.0):
    config = ConfigDict(
        {
            "name": "tiny",
            "task": {"name": "classification"},
            "model": {"name": "kim_cnn", "embed_dim": 4, "filters": 2},
            "data": {
                "source": {"name": "labelled_text", **source},
                "text": {"seq_len": 4, "tokenizer": WORDS},
            },
            "optim": {"name": "adamw", "learning_rate": 1e-2, "schedule": {"name": "constant"}},
            "train": {"steps": 1, "batch_size": 4},
        }
    )
    overrides = {} if "eval_paths" in source else {"data.eval_fraction": fraction}
    return data.build(resolved(config, overrides), tmp_path / "cache")


def test_a_table_becomes_words_cut_and_padded(tmp_path):
    (tmp_path / "a.csv").write_text(TABLE, encoding="utf-8")
    built = opened(tmp_path, {"paths": (str(tmp_path / "a.csv"),)})
    assert built.info.class_names == ("no", "yes")
    batch = built.train.batch(0, 0, 4)
    tokenizer = built.artefacts["tokenizer"]
    texts = {
        tokenizer.decode(tokens): (label, segments.tolist())
        for tokens, label, segments in zip(
            batch["inputs"], batch["labels"], batch["segments"], strict=True
        )
    }
    assert texts == {
        "it rains , it": (1, [1, 1, 1, 1]),
        "the sun shines": (0, [1, 1, 1, 0]),
        "it rains again": (1, [1, 1, 1, 0]),
        "sun": (0, [1, 0, 0, 0]),
    }


def test_lines_that_begin_with_the_label(tmp_path):
    (tmp_path / "train").write_text("NUM:date When ?\nLOC:city Where \xe9 ?\n", encoding="latin-1")
    (tmp_path / "test").write_text("NUM:count How many ?\n", encoding="latin-1")
    source = {"form": "label_first", "label_until": ":", "encoding": "latin-1"}
    paths = {"paths": (str(tmp_path / "train"),), "eval_paths": (str(tmp_path / "test"),)}
    built = opened(tmp_path, source | paths)
    assert built.info.class_names == ("LOC", "NUM")
    assert built.evals["eval"].batch(0, 1, 0, 1)["labels"].tolist() == [1]
    # The words of held-out texts are not learned: "how" and "many" are unknown.
    unknown = 12 - 2
    tokens = built.evals["eval"].batch(0, 1, 0, 1)["inputs"][0]
    assert (tokens[:2] == unknown).all()
    with pytest.raises(DataError, match=r"is not utf-8.*data\.source\.encoding"):
        opened(tmp_path, {**source, **paths, "encoding": "utf-8"})
    with pytest.raises(DataError, match="line 1: the label 'NUM:count' is not in the training"):
        opened(tmp_path, {**source, **paths, "label_until": ""})


def test_equal_texts_fall_on_one_side(tmp_path):
    rows = [f"{i % 2},text {i % 40}" for i in range(200)]
    (tmp_path / "a.csv").write_text("\n".join(["label,text", *rows]), encoding="utf-8")
    built = opened(tmp_path, {"paths": (str(tmp_path / "a.csv"),)}, fraction=0.3)
    sizes = built.sizes["train_examples"], built.sizes["eval_examples"]
    assert sum(sizes) == 200
    assert sizes[0] % 5 == sizes[1] % 5 == 0  # each text is there five times
    assert sizes[1] > 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label,text\nyes,\n", "line 2: has no text"),
        ("label,text\n ,words\n", "line 2: has no label"),
        ("label,text\nyes,a\nyes,b\n", "all texts have the label 'yes'"),
        ("label,text\nyes,a,b\n", "has 3 cells, and there are 2 columns"),
        ("tag,text\nyes,a\n", r"no column 'label' among tag, text.*data\.source\.label"),
        ("label,text\n", "hold no text"),
    ],
)
def test_a_bad_file_is_named(tmp_path, text, message):
    (tmp_path / "bad.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        opened(tmp_path, {"paths": (str(tmp_path / "bad.csv"),)})


def test_an_error_names_the_key_of_the_held_out_files(tmp_path):
    (tmp_path / "a.csv").write_text(TABLE, encoding="utf-8")
    (tmp_path / "empty.csv").write_text("label,text\n", encoding="utf-8")
    paths = {"paths": (str(tmp_path / "a.csv"),), "eval_paths": (str(tmp_path / "empty.csv"),)}
    with pytest.raises(DataError, match=r"data\.source\.eval_paths: hold no text"):
        opened(tmp_path, paths)


def test_lines_of_json(tmp_path):
    lines = [
        '{"label": 1, "text": "It rains, \\u00e9"}',
        "",
        '{"text": "Sun", "label": 0, "more": [1]}',
    ]
    with gzip.open(tmp_path / "a.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(lines))
    built = opened(tmp_path, {"paths": (str(tmp_path / "a.jsonl.gz"),)})
    assert built.info.class_names == ("0", "1")
    batch = built.train.batch(0, 0, 2)
    texts = [built.artefacts["tokenizer"].decode(tokens) for tokens in batch["inputs"]]
    assert dict(zip(texts, batch["labels"].tolist(), strict=True)) == {"it rains , é": 1, "sun": 0}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "a", "label": null}', "line 2: has no label"),
        (
            '{"words": "a", "label": 1}',
            r"no text or number under 'text', .*words, label.*data\.source\.text",
        ),
        ('{"text": "a", "label": ["b"]}', r"under 'label', .*data\.source\.label"),
        ('{"text": "a"', "line 2 is not JSON"),
        ('["a", "b"]', "line 2 is list, not an object"),
        (r'{"text": "a\ud800", "label": 0}', "line 2: holds half of a surrogate pair under 'text'"),
    ],
)
def test_a_bad_line_of_json_is_named(tmp_path, line, message):
    first = '{"text": "a", "label": 0}\n'
    (tmp_path / "bad.jsonl").write_text(first + line, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        opened(tmp_path, {"paths": (str(tmp_path / "bad.jsonl"),)})
