"""data.json across starts: another tokenizer ends the run, other data is told."""

import dataclasses

import pytest
from data_helpers import data_config, some_texts, write_documents

from scaling import data
from scaling.train import data_record


def built(folder, texts: list[str]) -> data.Data:
    source = {"name": "files", "paths": (str(write_documents(folder / "text.jsonl", texts)),)}
    text = {"seq_len": 8, "tokenizer": {"name": "bytes"}}
    return data.build(data_config(source=source, text=text, eval_fraction=0.3), folder / "cache")


def test_what_changed_since_the_last_start_is_told_or_refused(tmp_path):
    texts = some_texts(40)
    before = built(tmp_path, texts)
    assert data_record.compare(tmp_path, data_record.to_text(before)) == []  # nothing kept yet
    (tmp_path / data_record.NAME).write_text(data_record.to_text(before), encoding="utf-8")
    assert data_record.compare(tmp_path, data_record.to_text(built(tmp_path, texts))) == []

    (note,) = data_record.compare(tmp_path, data_record.to_text(built(tmp_path, texts[:-1])))
    assert "train_documents: " in note or "eval_documents: " in note
    # Equal sizes, other letters.
    swapped = [text.translate(str.maketrans("ae", "ea")) for text in texts]
    after = built(tmp_path, swapped)
    changed = data_record.compare(tmp_path, data_record.to_text(after))
    assert "train_sample: " in changed[0]
    assert "eval_sample: " in changed[0]


@dataclasses.dataclass
class Words:
    text: str

    def to_text(self) -> str:
        return self.text


def test_another_tokenizer_ends_the_run(tmp_path):
    plain = built(tmp_path, some_texts(10))
    one, other = (dataclasses.replace(plain, artefacts={"tokenizer": Words(x)}) for x in "ab")
    (tmp_path / data_record.NAME).write_text(data_record.to_text(one), encoding="utf-8")
    assert data_record.compare(tmp_path, data_record.to_text(one)) == []
    with pytest.raises(data_record.DataRecordError, match="another tokenizer"):
        data_record.compare(tmp_path, data_record.to_text(other))
