"""Sentences with a tag for each word: CoNLL files, one word a line, a blank line between sentences.

Legend: T tokens in an example.
"""

import dataclasses
import itertools
import pathlib
import re
from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from scaling.configs.types import LocalPath, NonNegativeInt, PositiveInt
from scaling.data.documents import split_rows
from scaling.data.errors import DataError
from scaling.data.info import DataContext, DataInfo, Opened
from scaling.data.loader import Arrays, Spec, spec_of
from scaling.data.sources.files import first_of
from scaling.data.sources.rows import RowFiles, fit_tokenizer
from scaling.data.sources.tables import lines
from scaling.data.tokenizers import Fitted, tokenizer_of

OUTSIDE = "O"
_TAG = re.compile(r"O|[BI]-\S+")
_DOCUMENT = "-DOCSTART-"  # CoNLL-2003 has it between documents


@dataclasses.dataclass(frozen=True)
class TaggedText(RowFiles["Sentence"]):
    """CoNLL files. `data.text.tokenizer` makes tokens of words, at most `data.text.seq_len` a sentence.

    A tag is `O`, or `B-TYPE` or `I-TYPE` for a word that begins or goes on with an entity. The first
    token of a word carries its tag and counts. A word that is not the first is encoded with a blank
    before it, as in running text. The classes are `O` and both tags of each type in the training files.

    Attributes:
      paths: files or globs, plain or compressed (.gz, .xz, .zst).
      eval_paths: the same for held-out sentences. Empty means that `data.eval_fraction` of the sentences
        is held out, by a hash of the sentence, so that equal ones fall on one side.
      delimiter: what stands between two columns; empty for any blanks.
      word: column of the words, from 0.
      tag: column of the tags, from 0; None is the last.
      encoding: of the files.
      eval_len: the most tokens of a held-out sentence; None is `data.text.seq_len`.
    """

    noun: ClassVar[str] = "sentence"

    paths: tuple[LocalPath, ...]
    eval_paths: tuple[LocalPath, ...] = ()
    delimiter: str = ""
    word: NonNegativeInt = 0
    tag: NonNegativeInt | None = None
    encoding: str = "utf-8"
    eval_len: PositiveInt | None = None

    def describe(self, context: DataContext) -> DataInfo:
        """The tags, by reading the files; the vocabulary, by the config."""
        names, vocab_size = tags(self.training), tokenizer_of(context.section.text).vocab_size
        return DataInfo(
            kind="tagged_text",
            unit="sentences",
            spec=tagged_spec(context.section.text.seq_len),
            eval_specs={"eval": tagged_spec(self.eval_len)} if self.eval_len else {},
            vocab_size=vocab_size,
            separator=vocab_size - 1,
            num_classes=len(names),
            class_names=names,
        )

    def open(self, context: DataContext) -> Opened:
        """Training and held-out sentences, tokenised.

        Raises:
          DataError: a file cannot be read; a line has too few columns, no word, or a tag that is none of
            BIO; a sentence is too long, or has a type that the training files lack; a side is empty.
        """
        info, section = self.describe(context), context.section
        train, held_out = self.divide(Sentence.text, section.eval_fraction)
        tokenizer = fit_tokenizer(context, map(Sentence.text, train))
        names, length, evals = info.class_names or (), section.text.seq_len, {}
        if held_out:
            evals = {"eval": tagged(held_out, names, tokenizer, self.eval_len or length)}
        examples = tagged(train, names, tokenizer, length, section.limit)
        return Opened(info, {"train": examples}, evals, artefacts={"tokenizer": tokenizer})

    def rows(self, path: pathlib.Path) -> Iterator["Sentence"]:
        """Sentences, whose words stand one a line."""
        words: list[str] = []
        given: list[str] = []
        first = 1
        # A blank line more ends the last sentence.
        for number, line in enumerate(itertools.chain(lines(path, self.encoding), [""]), 1):
            if not line.strip() or line.startswith(_DOCUMENT):
                if words:
                    yield Sentence(tuple(words), tuple(given), f"{path}, line {first}")
                words, given = [], []
                continue
            first = first if words else number
            word, tag = self._cells(line.rstrip("\r\n"), f"{path}, line {number}")
            words.append(word)
            given.append(tag)

    def _cells(self, line: str, where: str) -> tuple[str, str]:
        cells = line.split(self.delimiter or None)
        needed = max(self.word, self.tag or 0, 1)
        if len(cells) <= needed:
            raise DataError(
                f"{where}: has {len(cells)} columns, and word and tag need {needed + 1}; correct the "
                "line, or data.source.delimiter"
            )
        word, tag = cells[self.word].strip(), cells[-1 if self.tag is None else self.tag].strip()
        if not word or not _TAG.fullmatch(tag):
            what = f"{tag!r} is not O, B-TYPE or I-TYPE" if word else "has no word"
            raise DataError(f"{where}: {what}; correct the line, or name the columns")
        return word, tag


@dataclasses.dataclass(frozen=True)
class Sentence:
    """Its words, their tags, and the line that it begins on."""

    words: tuple[str, ...]
    tags: tuple[str, ...]
    where: str

    def text(self) -> str:
        """The words with blanks between them."""
        return " ".join(self.words)


def tags(sentences: list[Sentence]) -> tuple[str, ...]:
    """`O`, then B- and I- of each type, in the order of the alphabet; DataError if there is none."""
    types = sorted({tag[2:] for sentence in sentences for tag in sentence.tags if tag != OUTSIDE})
    if not types:
        raise DataError("data.source.tag: every word is O; name the column of the tags")
    return (OUTSIDE, *(f"{part}-{name}" for name in types for part in "BI"))


def tagged(
    sentences: list[Sentence],
    names: tuple[str, ...],
    tokenizer: Fitted,
    length: int,
    limit: int | None = None,
) -> Arrays:
    """The first `limit` of the sentences, in a fixed random order, tokenised and padded to `length`.

    Returns:
      {inputs, segments, labels: int32[n, T], weights: float32[n, T], 1 where a word begins}.

    Raises:
      DataError: a sentence has more than `length` tokens, a word without a token, or another tag.
    """
    number = {name: place for place, name in enumerate(names)}
    chosen = [sentences[row] for row in split_rows(len(sentences), 0.0)[0][:limit]]
    texts = [" " * bool(i) + word for sentence in chosen for i, word in enumerate(sentence.words)]
    tokens = iter(tokenizer.encode(texts))
    spec = tagged_spec(length)
    arrays = {key: np.zeros((len(chosen), length), dtype) for key, (_, dtype) in spec.items()}
    arrays["inputs"][:] = tokenizer.vocab_size - 1
    for row, sentence in enumerate(chosen):
        pieces = [next(tokens) for _ in sentence.words]
        sizes = [len(piece) for piece in pieces]
        _check(sentence, sizes, names, length)
        starts, count = np.cumsum([0, *sizes[:-1]]), sum(sizes)
        arrays["inputs"][row, :count] = np.concatenate(pieces)
        arrays["segments"][row, :count] = 1
        arrays["labels"][row, starts] = [number[tag] for tag in sentence.tags]
        arrays["weights"][row, starts] = 1.0
    return Arrays(arrays)


def _check(sentence: Sentence, sizes: list[int], names: tuple[str, ...], length: int) -> None:
    for tag in sentence.tags:
        if tag not in names:
            raise DataError(
                f"{sentence.where}: the sentence has the tag {tag}, and the training files have "
                f"{first_of(names)}"
            )
    if not all(sizes):
        word = sentence.words[sizes.index(0)]
        raise DataError(
            f"{sentence.where}: the tokenizer makes nothing of {word!r}; use another "
            "(data.text.tokenizer), or correct the word"
        )
    if sum(sizes) > length:
        raise DataError(
            f"{sentence.where}: the sentence has {sum(sizes)} tokens, more than the {length} of "
            "data.text.seq_len or data.source.eval_len; raise it, or cut the sentence"
        )


def tagged_spec(length: int) -> Spec:
    """Shapes and dtypes of an example of `length` tokens."""
    integers = spec_of("int32", (length,), "inputs", "segments", "labels")
    return integers | spec_of("float32", (length,), "weights")
