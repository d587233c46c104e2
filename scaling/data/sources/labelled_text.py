"""Texts that each have one label: tables of text and label, or lines that begin with the label.

Legend: T tokens in an example.
"""

import dataclasses
import logging
import pathlib
from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np

from scaling.configs.types import LocalPath
from scaling.data.documents import has_text
from scaling.data.errors import DataError
from scaling.data.images import split_rows
from scaling.data.info import DataContext, DataInfo, Opened
from scaling.data.loader import Batch, Spec
from scaling.data.npy import Ragged
from scaling.data.sources.rows import RowFiles, encoded, fit_tokenizer, split_by_hash
from scaling.data.sources.tables import Tables, cells, lines, ordered
from scaling.data.tokenizers import tokenizer_of

_LOG = logging.getLogger(__name__)


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
        vocab_size = tokenizer_of(context.section.text).vocab_size
        return self._describe(context, classes(self.read()), vocab_size)

    def open(self, context: DataContext) -> Opened:
        """Training and held-out texts, tokenised."""
        everything = self.read()
        names = classes(everything)
        train, held_out = self._split(everything, context.section.eval_fraction)
        tokenizer = fit_tokenizer(context, (row.text for row in train))
        length = context.section.text.seq_len

        def examples(rows: list["Row"], limit: int | None = None) -> Labelled:
            labels = _numbers(rows, names)
            tokens = encoded([row.text for row in rows], tokenizer, context.cache)
            return Labelled(tokens, labels, length, tokenizer.vocab_size - 1, limit)

        evals = {"eval": examples(held_out)} if held_out else {}
        return Opened(
            info=self._describe(context, names, tokenizer.vocab_size),
            train={"train": examples(train, context.section.limit)},
            evals=evals,
            artefacts={"tokenizer": tokenizer},
        )

    def _describe(self, context: DataContext, names: tuple[str, ...], vocab_size: int) -> DataInfo:
        return DataInfo(
            kind="labelled_text",
            unit="examples",
            spec=labelled_spec(context.section.text.seq_len),
            vocab_size=vocab_size,
            separator=vocab_size - 1,
            num_classes=len(names),
            class_names=names,
        )

    def _split(self, rows: list["Row"], fraction: float) -> tuple[list["Row"], list["Row"]]:
        """(training, held-out) texts; those on both sides by the user's files are counted."""
        if self.eval_paths:
            held_out = self.read("eval_paths")
            known = {row.text for row in held_out}
            both = sum(row.text in known for row in rows)
            if both:
                _LOG.warning("%d training texts are also held out: the files say so", both)
            return rows, held_out
        key = "data.source.eval_paths"
        return split_by_hash(rows, lambda row: row.text, fraction, self.noun, key)

    def rows(self, path: pathlib.Path) -> Iterator["Row"]:
        """Texts and labels, each line by itself."""
        for where, text, label in self._lines(path):
            label = label.split(self.label_until)[0] if self.label_until else label
            if not has_text(text) or not has_text(label):
                part = "label" if has_text(text) else "text"
                raise DataError(f"{where}: has no {part}; correct the line, or leave it out")
            yield Row(text.strip(), label.strip(), where)

    def _lines(self, path: pathlib.Path) -> Iterator[tuple[str, str, str]]:
        """(place, text, label) line by line."""
        if self.form == "table":
            columns = [(self.text, "data.source.text"), (self.label, "data.source.label")]
            for where, (text, label) in cells(path, self, columns):
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
                f"{', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"
            )
    return np.array([number[row.label] for row in rows], np.int32)


class Labelled:
    """Tokenised texts, one an example."""

    def __init__(
        self, tokens: Ragged, labels: np.ndarray, length: int, pad: int, limit: int | None = None
    ) -> None:
        """Texts of `length` tokens each; the first `limit` in a fixed random order."""
        self._tokens, self._labels = tokens, labels
        self._rows = split_rows(len(labels), 0.0)[0][:limit]
        self._length, self._pad = length, pad
        self.spec = labelled_spec(length)

    def __len__(self) -> int:
        return len(self._rows)

    def labels(self) -> np.ndarray:
        """The class of each, int32."""
        return np.asarray(self._labels[self._rows])

    def gather(self, indices: np.ndarray, positions: np.ndarray | None = None) -> Batch:
        """{inputs, segments: int32[n, T], labels: int32[n]}."""
        rows = self._rows[indices]
        tokens, inside = self._tokens.padded(rows, self._length, self._pad)
        segments = inside.astype(np.int32)
        return {"inputs": tokens, "segments": segments, "labels": self._labels[rows]}


def labelled_spec(length: int) -> Spec:
    """Shapes and dtypes of an example of `length` tokens."""
    tokens, label = ((length,), np.dtype(np.int32)), ((), np.dtype(np.int32))
    return {"inputs": tokens, "segments": tokens, "labels": label}
