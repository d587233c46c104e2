"""Which documents, or other examples, are trained on and which are held out."""

import dataclasses
import hashlib
import itertools
import pathlib
from collections.abc import Iterator
from typing import ClassVar, Literal, Protocol

import numpy as np

from scaling.data.errors import DataError
from scaling.data.feistel import derive_key, permute, subkeys

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


def split_rows(size: int, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """(train, eval) row numbers: a fixed pseudo-random share is held out, whatever the seed.

    Both come in a fixed pseudo-random order, so that the first n are a fair sample (`data.limit`).
    """
    count = round(size * fraction)
    if fraction and not 0 < count < size:
        raise DataError(
            f"data.eval_fraction={fraction} of {size} examples holds out {count}: change it, or "
            "name held-out examples (as data.source.eval_split of images)"
        )
    key = subkeys(derive_key(0, "holdout"), np.zeros(1))
    order = permute(np.arange(size), size, key)
    return order[count:], order[:count]
