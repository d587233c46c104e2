"""Whole words as tokens, for classifiers of text: short sequences, and nothing to spell back."""

import collections
import dataclasses
import hashlib
import json
import pathlib
import re
from collections.abc import Sequence
from typing import Annotated, ClassVar

import numpy as np

from scaling.configs.types import PositiveInt, Range
from scaling.data.documents import Part

# A run of letters and digits, or any other character that is not blank.
_WORD = re.compile(r"\w+|[^\w\s]")


@dataclasses.dataclass(frozen=True)
class Words:
    """The most frequent words of the training documents, one token for all others, the separator.

    Attributes:
      vocab_size: tokens, the unknown word and the separator among them. Fewer different words leave
        numbers that never occur.
      min_count: words that occur less often are unknown: with 2 or more, training sees unknown words.
      lowercase: whether capitals are made small.
    """

    vocab_size: Annotated[int, Range(low=3)] = 8192
    min_count: PositiveInt = 1
    lowercase: bool = True

    def fit(self, parts: Sequence[Part], cache: pathlib.Path) -> "FittedWords":
        """Counts the words of the parts; equally frequent ones come in the order of the alphabet."""
        counts: collections.Counter[str] = collections.Counter()
        for part in parts:
            for text in part.documents():
                counts.update(split(text, self.lowercase))
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        kept = [word for word in ranked if counts[word] >= self.min_count]
        return FittedWords(tuple(kept[: self.vocab_size - 2]), self.vocab_size, self.lowercase)


@dataclasses.dataclass(frozen=True)
class FittedWords:
    """A list of words: their places are tokens, then the unknown word and the separator.

    Attributes:
      words: the most frequent first.
      vocab_size: see `Words`; the unknown word is `vocab_size - 2`.
    """

    token_bytes: ClassVar[None] = None

    words: tuple[str, ...]
    vocab_size: int
    lowercase: bool

    @property
    def starts_word(self) -> np.ndarray:
        """Every token is a word."""
        return np.ones(self.vocab_size, bool)

    @property
    def key(self) -> str:
        """Stands for the list."""
        return hashlib.sha256(self.to_text().encode()).hexdigest()

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """int32 arrays; text never gives the separator."""
        number = {word: place for place, word in enumerate(self.words)}
        unknown = self.vocab_size - 2
        return [
            np.array([number.get(word, unknown) for word in split(text, self.lowercase)], np.int32)
            for text in texts
        ]

    def decode(self, tokens: np.ndarray) -> str:
        """The words with blanks between them; an unknown one is U+FFFD, separators vanish."""
        kept = [int(token) for token in np.asarray(tokens) if token < self.vocab_size - 1]
        return " ".join(self.words[i] if i < len(self.words) else "\ufffd" for i in kept)

    def to_text(self) -> str:
        """Everything that encoding and decoding depend on, as JSON."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_text(cls, text: str) -> "FittedWords":
        """The tokenizer that `to_text` wrote."""
        content = json.loads(text)
        return cls(tuple(content["words"]), content["vocab_size"], content["lowercase"])


def split(text: str, lowercase: bool) -> list[str]:
    """The words and other characters of a text."""
    return _WORD.findall(text.lower() if lowercase else text)
