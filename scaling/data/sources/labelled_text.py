"""Texts that each have one label: tables of text and label, or lines that begin with the label.

Legend: T tokens in an example.
"""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np

from scaling.configs.types import LocalPath
from scaling.data.documents import has_text, split_rows
from scaling.data.errors import DataError
from scaling.data.info import DataContext, DataInfo, Opened
from scaling.data.loader import Batch, Classified, Spec, spec_of
from scaling.data.npy import Ragged
from scaling.data.sources.files import first_of
from scaling.data.sources.rows import RowFiles, encoded, fit_tokenizer
from scaling.data.sources.tables import Tables, lines, ordered, require
from scaling.data.tokenizers import tokenizer_of


@dataclasses.dataclass(frozen=True)
class LabelledText(RowFiles["Row"], Tables):
    """Files of text and label. `data.text.tokenizer` makes tokens, cut or padded to `seq_len`.

    Classes are the labels of the training files, in the order of the alphabet (numbers by value).
    The padding is the tokenizer's separator, and `segments` are 1 for text and 0 for padding.

    Attributes:
      paths: files or globs, plain or compressed (.gz, .xz, .zst).
      eval_paths: the same for held-out text. Empty means that `data.eval_fraction` of the texts is
        held out, by a hash of the text, so that equal texts fall on one side.
      form: `table` has a column of texts and one of labels; in `label_first` a line begins with the
        label, and the text stands after a blank (as in TREC's files).
      text: column of the text.
      label: column of the label.
      label_until: the label ends before this mark, such as ":" for TREC's six coarse classes; empty
        takes it whole.
      delimiter, names, encoding: see `Tables`.
    """

    noun: ClassVar[str] = "text"

    paths: tuple[LocalPath, ...]
    eval_paths: tuple[LocalPath, ...] = ()
    form: Literal["table", "label_first"] = "table"
    text: str = "text"
    label: str = "label"
    label_until: str = ""

    def describe(self, context: DataContext) -> DataInfo:
        """The classes, by reading the files; the vocabulary, by the config."""
        names, vocab_size = classes(self.training), tokenizer_of(context.section.text).vocab_size
        return DataInfo(
            kind="labelled_text",
            unit="examples",
            spec=labelled_spec(context.section.text.seq_len),
            vocab_size=vocab_size,
            separator=vocab_size - 1,
            num_classes=len(names),
            class_names=names,
        )

    def open(self, context: DataContext) -> Opened:
        """Training and held-out texts, tokenised."""
        info, section = self.describe(context), context.section
        train, held_out = self.divide(lambda row: row.text, section.eval_fraction)
        tokenizer = fit_tokenizer(context, (row.text for row in train))

        def examples(rows: list["Row"], limit: int | None = None) -> Labelled:
            labels = _numbers(rows, info.class_names or ())
            tokens = encoded([row.text for row in rows], tokenizer, context.cache)
            return Labelled(tokens, labels, section.text.seq_len, tokenizer.vocab_size - 1, limit)

        evals = {"eval": examples(held_out)} if held_out else {}
        train_texts = examples(train, section.limit)
        return Opened(info, {"train": train_texts}, evals, artefacts={"tokenizer": tokenizer})

    def rows(self, path: pathlib.Path) -> Iterator["Row"]:
        """Texts and labels, each line by itself."""
        for where, text, label in self._lines(path):
            label = label.split(self.label_until)[0] if self.label_until else label
            require(where, text=text, label=label)
            yield Row(text.strip(), label.strip(), where)

    def _lines(self, path: pathlib.Path) -> Iterator[tuple[str, str, str]]:
        """(place, text, label) line by line."""
        if self.form == "table":
            for where, (text, label) in self.cells(path, "text", "label"):
                yield where, text, label
            return
        for number, line in enumerate(lines(path, self.encoding), 1):
            if has_text(line):
                label, _, text = line.strip().partition(" ")
                yield f"{path}, line {number}", text, label


@dataclasses.dataclass(frozen=True)
class Row:
    """A text, its label, and where it stands."""

    text: str
    label: str
    where: str


def classes(rows: list[Row]) -> tuple[str, ...]:
    """The labels, each once; DataError if there is one alone, and so nothing to tell apart."""
    names = ordered(row.label for row in rows)
    if len(names) < 2:
        raise DataError(
            f"data.source.label: all texts have the label {names[0]!r}; name the column of the labels"
        )
    return names


def _numbers(rows: list[Row], names: tuple[str, ...]) -> np.ndarray:
    """The place of each label in `names`, int32."""
    number = {name: place for place, name in enumerate(names)}
    for row in rows:
        if row.label not in number:
            raise DataError(
                f"{row.where}: the label {row.label!r} is not in the training files, which have "
                f"{first_of(names)}"
            )
    return np.array([number[row.label] for row in rows], np.int32)


class Labelled(Classified):
    """Tokenised texts, one an example."""

    def __init__(
        self, tokens: Ragged, labels: np.ndarray, length: int, pad: int, limit: int | None = None
    ) -> None:
        """Texts of `length` tokens each; the first `limit` in a fixed random order."""
        super().__init__({"labels": labels}, split_rows(len(labels), 0.0)[0][:limit])
        self._tokens, self._length, self._pad = tokens, length, pad
        self.spec = labelled_spec(length)

    def gather(self, indices: np.ndarray, positions: np.ndarray | None = None) -> Batch:
        """{inputs, segments: int32[n, T], labels: int32[n]}."""
        tokens, inside = self._tokens.padded(self.rows[indices], self._length, self._pad)
        return super().gather(indices) | {"inputs": tokens, "segments": inside.astype(np.int32)}


def labelled_spec(length: int) -> Spec:
    """Shapes and dtypes of an example of `length` tokens."""
    return spec_of("int32", (length,), "inputs", "segments") | spec_of("int32", (), "labels")
