"""How text becomes tokens.

A *tokenizer* as `data.text.tokenizer` names it is a dataclass with `vocab_size` and `key` that is turned
by `fit(parts, cache)` into a `Fitted`: bytes need no fitting, byte-pair encodings and lists of words
are learned from the training documents alone. The last token of every vocabulary is the separator:
it stands between documents, and text can never spell it.
"""

import dataclasses
import hashlib
import json
import logging
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Protocol

import numpy as np
import tokenizers

from scaling import configs
from scaling.configs.types import PositiveInt, Range
from scaling.data.cache import cached, key_of
from scaling.data.documents import Part
from scaling.experiment import TextConfig

_LOG = logging.getLogger(__name__)

TOKENIZERS: dict[str, str] = {
    "bytes": "scaling.data.tokenizers:Bytes",
    "bpe": "scaling.data.tokenizers:Bpe",
    "words": "scaling.data.words:Words",
}


class Tokenizer(Protocol):
    """A tokenizer as the config names it.

    Attributes:
      vocab_size: tokens, the separator among them.
    """

    vocab_size: int

    def fit(self, parts: Sequence[Part], cache: pathlib.Path) -> "Fitted":
        """Made ready to encode: trained on the documents of the parts, where it learns."""
        ...


class Fitted(Protocol):
    """A tokenizer that is ready to encode.

    Attributes:
      vocab_size: tokens, the separator among them; it is the last one.
      token_bytes: int32[vocab_size], bytes of text that each token stands for (separator: 0); None
        where a token may stand for any text, and then bits per byte are not reported.
      key: stands for everything that the encoding depends on.
    """

    vocab_size: int
    token_bytes: np.ndarray | None
    key: str

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Tokens of each text, without separators: a list of integer arrays."""
        ...

    def decode(self, tokens: np.ndarray) -> str:
        """Text of the tokens; separators vanish, and what is not UTF-8 becomes U+FFFD."""
        ...


def tokenizer_of(section: TextConfig) -> Tokenizer:
    """The tokenizer that section `data.text` names."""
    tokenizer: Tokenizer = configs.build(section.tokenizer, TOKENIZERS)
    return tokenizer


@dataclasses.dataclass(frozen=True)
class Bytes:
    """One token a byte of UTF-8, and the separator: 257 tokens."""

    vocab_size: ClassVar[int] = 257
    token_bytes: ClassVar[np.ndarray] = np.array([1] * 256 + [0], np.int32)
    starts_word: ClassVar[np.ndarray] = np.isin(np.arange(257), [*b" \t\r\n", 256])
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

    def to_text(self) -> str:
        """Nothing to keep."""
        return ""

    @classmethod
    def from_text(cls, text: str) -> "Bytes":
        """The same again."""
        return cls()


@dataclasses.dataclass(frozen=True)
class Bpe:
    """Byte-level byte-pair encoding, trained on the training documents: any text can be spelled.

    The words that pairs are merged in are GPT-2's. The trained vocabulary is kept in the cache.

    Attributes:
      vocab_size: tokens, the 256 bytes and the separator among them. A small corpus may have fewer
        pairs worth merging; the numbers left over then never occur.
      max_train_bytes: train on about the first so many bytes of text.
    """

    vocab_size: Annotated[int, Range(low=257)] = 8192
    max_train_bytes: PositiveInt = 1 << 28

    def fit(self, parts: Sequence[Part], cache: pathlib.Path) -> "FittedBpe":
        """Trains on the documents of the parts, or takes the result from the cache."""
        key = key_of(
            {
                "bpe": dataclasses.asdict(self),
                "parts": [part.key(cache) for part in parts],
                "blank": "left out",
            }
        )

        def build(work: pathlib.Path) -> Mapping[str, Any]:
            _LOG.info("training a byte-pair encoding of %d tokens", self.vocab_size)
            tokenizer = _train_bpe(self._texts(parts), self.vocab_size - 1)
            (work / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
            return {"tokens": tokenizer.get_vocab_size()}

        entry = cached(cache, f"bpe-{key}", build)
        text = (entry.path / "tokenizer.json").read_text(encoding="utf-8")
        return FittedBpe(tokenizers.Tokenizer.from_str(text), self.vocab_size)

    def _texts(self, parts: Sequence[Part]) -> Iterator[str]:
        seen = 0
        for part in parts:
            for text in part.documents():
                yield text
                seen += len(text)
                if seen >= self.max_train_bytes:
                    return


# What stands for a space, a tab, a carriage return and a line feed in a byte-level vocabulary.
_BLANKS = "\u0120\u0109\u010d\u010a"


class FittedBpe:
    """A trained byte-level encoding; the separator is the last number of the vocabulary."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self.key = hashlib.sha256(tokenizer.to_str().encode()).hexdigest() + f"/{vocab_size}"
        self.token_bytes = np.zeros(vocab_size, np.int32)
        self.starts_word = np.zeros(vocab_size, bool)
        self.starts_word[-1] = True
        for token, number in tokenizer.get_vocab().items():
            self.token_bytes[number] = len(token)  # one character stands for each byte
            self.starts_word[number] = token[0] in _BLANKS
        self._tokenizer = tokenizer

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Integer arrays; text never gives the separator."""
        return [
            np.asarray(one.ids, np.int32)
            for one in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        ]

    def decode(self, tokens: np.ndarray) -> str:
        """Text of the tokens; separators vanish, and what is not UTF-8 becomes U+FFFD."""
        tokens = np.asarray(tokens)
        known = tokens[self.token_bytes[tokens] > 0]
        return self._tokenizer.decode(known.tolist(), skip_special_tokens=False)

    def to_text(self) -> str:
        """Everything that encoding and decoding depend on, as JSON."""
        return json.dumps({"vocab_size": self.vocab_size, "tokenizer": self._tokenizer.to_str()})

    @classmethod
    def from_text(cls, text: str) -> "FittedBpe":
        """The tokenizer that `to_text` wrote."""
        content = json.loads(text)
        return cls(tokenizers.Tokenizer.from_str(content["tokenizer"]), content["vocab_size"])


def _train_bpe(texts: Iterator[str], vocab_size: int) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
