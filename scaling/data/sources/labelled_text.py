"""Texts that each have one label: tables of text and label, or lines that begin with the label.

Legend: T tokens in an example.
"""

import dataclasses
import logging
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Literal

import numpy as np

from scaling.configs.types import LocalPath
from scaling.data.cache import Entry, cached, digest, key_of
from scaling.data.documents import Part, has_text, is_held_out
from scaling.data.errors import DataError
from scaling.data.images import split_rows
from scaling.data.info import DataContext, DataInfo, Opened
from scaling.data.loader import Batch, Spec
from scaling.data.npy import Ragged, write_ragged
from scaling.data.sources.files import matching
from scaling.data.sources.tables import Tables, cells, lines, ordered
from scaling.data.tokenizers import Fitted, tokenizer_of

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Texts:
    """Texts alone, as a tokenizer learns from them."""

    kind: ClassVar[str] = "text"

    texts: tuple[str, ...]

    def documents(self) -> Iterator[str]:
        """One after the other."""
        return iter(self.texts)

    def fingerprint(self, cache: pathlib.Path) -> str:
        """Stands for the contents."""
        return digest(self.texts)

    def held_out(self) -> None:
        """Nothing is held out of these."""
        return


def fit_tokenizer(context: DataContext, texts: Iterable[str]) -> Fitted:
    """The tokenizer of the config, ready to encode: what it learns is in these texts."""
    return tokenizer_of(context.section.text).fit([Part(Texts(tuple(texts)))], context.cache)


@dataclasses.dataclass(frozen=True)
class LabelledText(Tables):
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

    paths: tuple[LocalPath, ...]
    eval_paths: tuple[LocalPath, ...] = ()
    form: Literal["table", "label_first"] = "table"
    text: str = "text"
    label: str = "label"
    label_until: str = ""

    @property
    def reads(self) -> tuple[str, ...]:
        """Keys of sections `data` and `data.text` that it uses."""
        keys = ("seq_len", "tokenizer", "limit")
        return keys if self.eval_paths else (*keys, "eval_fraction")

    def describe(self, context: DataContext) -> DataInfo:
        """The classes, by reading the files; the vocabulary, by the config."""
        vocab_size = tokenizer_of(context.section.text).vocab_size
        return self._describe(context, classes(self._read("paths")), vocab_size)

    def open(self, context: DataContext) -> Opened:
        """Training and held-out texts, tokenised."""
        everything = self._read("paths")
        names = classes(everything)
        train, held_out = self._split(everything, context.section.eval_fraction)
        tokenizer = fit_tokenizer(context, (row.text for row in train))
        length = context.section.text.seq_len

        def examples(rows: list["Row"], limit: int | None = None) -> Labelled:
            entry = _tokens(rows, names, tokenizer, context.cache)
            return Labelled(entry, length, tokenizer.vocab_size - 1, limit)

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
            held_out = self._read("eval_paths")
            known = {row.text for row in held_out}
            both = sum(row.text in known for row in rows)
            if both:
                _LOG.warning("%d training texts are also held out: the files say so", both)
            return rows, held_out
        parts: tuple[list[Row], list[Row]] = ([], [])
        for row in rows:
            parts[is_held_out(row.text, fraction)].append(row)
        if fraction and not all(parts):
            raise DataError(
                f"data.eval_fraction={fraction} of {len(rows)} texts holds out {len(parts[1])}: "
                "change it, or name held-out files with data.source.eval_paths"
            )
        return parts

    def _read(self, name: Literal["paths", "eval_paths"]) -> list["Row"]:
        key = f"data.source.{name}"
        paths = matching(getattr(self, name), key)
        rows = []
        for path in paths:
            for where, text, label in self._lines(path):
                label = label.split(self.label_until)[0] if self.label_until else label
                if not has_text(text) or not has_text(label):
                    part = "label" if has_text(text) else "text"
                    raise DataError(f"{where}: has no {part}; correct the line, or leave it out")
                rows.append(Row(text.strip(), label.strip(), where))
        if not rows:
            raise DataError(f"{key}: hold no text: {', '.join(map(str, paths))}")
        return rows

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


def _tokens(
    rows: list[Row], names: tuple[str, ...], tokenizer: Fitted, cache: pathlib.Path
) -> Entry:
    """The tokens of the texts (`Ragged`), and `labels.npy`."""
    number = {name: place for place, name in enumerate(names)}
    for row in rows:
        if row.label not in number:
            raise DataError(
                f"{row.where}: the label {row.label!r} is not in the training files, which have "
                f"{', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"
            )
    labels = np.array([number[row.label] for row in rows], np.int32)
    texts = [row.text for row in rows]
    content = digest([texts, labels.tolist()])

    def build(work: pathlib.Path) -> Mapping[str, Any]:
        write_ragged(work, "tokens", np.dtype(np.int32), tokenizer.encode(texts))
        np.save(work / "labels.npy", labels)
        return {"examples": len(texts)}

    return cached(cache, f"labelled-{key_of({'rows': content, 'tokenizer': tokenizer.key})}", build)


class Labelled:
    """Tokenised texts, one an example."""

    def __init__(self, entry: Entry, length: int, pad: int, limit: int | None = None) -> None:
        """The texts of an entry, of `length` tokens each; the first `limit` in a fixed random order."""
        self._tokens, self._labels = (
            Ragged(entry.path, "tokens"),
            np.load(entry.path / "labels.npy"),
        )
        self._rows = split_rows(len(self._labels), 0.0)[0][:limit]
        self._length, self._pad = length, pad
        self.spec = labelled_spec(length)

    def __len__(self) -> int:
        return len(self._rows)

    def labels(self) -> np.ndarray:
        """The class of each, int32."""
        return np.asarray(self._labels[self._rows])

    def gather(self, indices: np.ndarray, positions: np.ndarray | None = None) -> Batch:
        """{inputs, segments: int32[n, T], labels: int32[n], weights: float32[n]}."""
        rows = self._rows[indices]
        tokens, inside = self._tokens.padded(rows, self._length, self._pad)
        return {
            "inputs": tokens,
            "segments": inside.astype(np.int32),
            "labels": self._labels[rows],
            "weights": np.ones(len(rows), np.float32),
        }


def labelled_spec(length: int) -> Spec:
    """Shapes and dtypes of an example of `length` tokens."""
    return {
        "inputs": ((length,), np.dtype(np.int32)),
        "segments": ((length,), np.dtype(np.int32)),
        "labels": ((), np.dtype(np.int32)),
        "weights": ((), np.dtype(np.float32)),
    }
