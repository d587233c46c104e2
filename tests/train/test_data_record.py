"""data.json across starts: another tokenizer ends the run, other data is told."""

import dataclasses

import pytest
from helpers import TEXT_INFO

from scaling.train import data_record


@dataclasses.dataclass
class Words:
    text: str

    def to_text(self) -> str:
        return self.text


def kept(folder, text: str, tokens: int = 100) -> str:
    return data_record.to_text(TEXT_INFO, {"tokenizer": Words(text)}, {"train_tokens": tokens})


def test_what_changed_since_the_last_start_is_told_or_refused(tmp_path):
    assert data_record.compare(tmp_path, kept(tmp_path, "a")) == []
    (tmp_path / data_record.NAME).write_text(kept(tmp_path, "a"), encoding="utf-8")
    assert data_record.compare(tmp_path, kept(tmp_path, "a")) == []
    (note,) = data_record.compare(tmp_path, kept(tmp_path, "a", tokens=90))
    assert "train_tokens: 100 -> 90" in note
    with pytest.raises(data_record.DataRecordError, match="another tokenizer"):
        data_record.compare(tmp_path, kept(tmp_path, "b"))
