"""How text becomes tokens.

A *tokenizer* as `data.tokenizer` names it is a dataclass with `vocab_size` and `key` that is turned
by `fit(parts, cache)` into a `Fitted`: bytes need no fitting, byte-pair encoding is trained on the
training documents alone. The last token of every vocabulary is the separator: it stands between
documents, and text can never spell it.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import ClassVar, Protocol

import numpy as np

from scaling.data.documents import Part


class Fitted(Protocol):
    """A tokenizer that is ready to encode.

    Attributes:
      vocab_size: tokens, the separator among them; it is the last one.
      token_bytes: int32[vocab_size], bytes of text that each token stands for (separator: 0).
      key: stands for everything that the encoding depends on.
    """

    vocab_size: int
    token_bytes: np.ndarray
    key: str

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Tokens of each text, without separators: a list of integer arrays."""
        ...

    def decode(self, tokens: np.ndarray) -> str:
        """Text of the tokens; separators vanish, and what is not UTF-8 becomes U+FFFD."""
        ...


@dataclasses.dataclass(frozen=True)
class Bytes:
    """One token a byte of UTF-8, and the separator: 257 tokens."""

    vocab_size: ClassVar[int] = 257
    token_bytes: ClassVar[np.ndarray] = np.array([1] * 256 + [0], np.int32)
    key: ClassVar[str] = "bytes"

    def fit(self, parts: Sequence[Part], cache: pathlib.Path) -> "Bytes":
        """Itself: there is nothing to learn."""
        return self

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """uint8 arrays."""
        return [np.frombuffer(text.encode(), np.uint8) for text in texts]

    def decode(self, tokens: np.ndarray) -> str:
        """Text of the tokens; separators vanish, and what is not UTF-8 becomes U+FFFD."""
        tokens = np.asarray(tokens)
        return tokens[tokens < 256].astype(np.uint8).tobytes().decode("utf-8", "replace")
