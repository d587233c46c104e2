"""Which documents are trained on and which are held out."""

import dataclasses
import hashlib
import itertools
import pathlib
from collections.abc import Iterator
from typing import ClassVar, Literal, Protocol

from scaling.data.errors import DataError

Holdout = Literal["auto", "documents", "tail"]


class TextSource(Protocol):
    """Text that is read document by document."""

    kind: ClassVar[str] = "text"

    def documents(self) -> Iterator[str]:
        """The documents, always in the same order; one without text as an empty string."""
        ...

    def fingerprint(self, cache: pathlib.Path) -> str:
        """Stands for the documents: other text, another fingerprint."""
        ...

    def held_out(self) -> "TextSource | None":
        """The evaluation text that the source names itself, if it does."""
        return None


@dataclasses.dataclass(frozen=True)
class Part:
    """The whole of a source, or one side of its split.

    Attributes:
      side: which side of the split; `all` when nothing is split off.
      holdout: how it is split, `data.text.holdout`.
      fraction: how much is held out, `data.eval_fraction`.
    """

    source: TextSource
    side: Literal["all", "train", "eval"] = "all"
    holdout: Holdout = "auto"
    fraction: float = 0.0

    def key(self, cache: pathlib.Path) -> list[str | float]:
        """JSON-able; stands for the documents of this part."""
        split: list[str | float] = [self.holdout, self.fraction] if self.side != "all" else []
        return [self.source.fingerprint(cache), self.side, *split]

    def documents(self) -> Iterator[str]:
        """The documents of this part that hold text."""
        return filter(has_text, self.with_blank())

    def with_blank(self) -> Iterator[str]:
        """The documents of this part, those without text among them."""
        if self.side == "all":
            yield from self.source.documents()
        elif self.is_tail():
            (text,) = filter(has_text, self.source.documents())
            cut = int(len(text) * (1.0 - self.fraction))  # as nanoGPT: the first 90 % train
            yield text[:cut] if self.side == "train" else text[cut:]
        else:
            for text in self.source.documents():
                if is_held_out(text, self.fraction) == (self.side == "eval"):
                    yield text

    def is_tail(self) -> bool:
        """Whether this is one side of a single document; such a stream has no separators."""
        if self.side == "all" or self.holdout == "documents":
            return False
        single = len(list(itertools.islice(filter(has_text, self.source.documents()), 2))) == 1
        if self.holdout == "tail" and not single:
            raise DataError(
                "data.text.holdout=tail splits a single document, and this source has several: use "
                "data.text.holdout=documents"
            )
        return single


def has_text(text: str) -> bool:
    """Whether a document counts: null, empty and all-blank ones are left out of every source."""
    return bool(text) and not text.isspace()


def document_hash(text: str) -> int:
    """64 bits that stand for the text of a document."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def is_held_out(text: str, fraction: float) -> bool:
    """Whether the text is of the held-out share, whatever the seed; equal texts go together."""
    return document_hash(text) < int(fraction * 2.0**64)
