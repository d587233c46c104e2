"""What sources share whose files hold rows: reading them, holding some out, tokens of their texts."""

import dataclasses
import functools
import logging
import pathlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Generic, Literal, TypeVar

import numpy as np

from scaling.configs.types import LocalPath
from scaling.data.cache import cached, digest, key_of
from scaling.data.documents import Part, TextSource, is_held_out
from scaling.data.errors import DataError
from scaling.data.info import DataContext
from scaling.data.npy import Ragged, write_ragged
from scaling.data.sources.files import matching
from scaling.data.tokenizers import Fitted, tokenizer_of

_LOG = logging.getLogger(__name__)

Row = TypeVar("Row")


class RowFiles(Generic[Row]):
    """A source with the fields `paths` and `eval_paths`, each a list of files of rows.

    Attributes:
      noun: what a row is called in errors.
    """

    noun: ClassVar[str]
    paths: tuple[LocalPath, ...]
    eval_paths: tuple[LocalPath, ...]

    @property
    def reads(self) -> tuple[str, ...]:
        """Keys of sections `data` and `data.text` that it uses."""
        keys = ("seq_len", "tokenizer", "limit")
        return keys if self.eval_paths else (*keys, "eval_fraction")

    def rows(self, path: pathlib.Path) -> Iterable[Row]:
        """The rows of one file."""
        raise NotImplementedError

    @functools.cached_property
    def training(self) -> list[Row]:
        """The rows of `paths`, those that `data.eval_fraction` holds out among them."""
        return self.read("paths")

    def read(self, name: Literal["paths", "eval_paths"]) -> list[Row]:
        """The rows of all files under a key, or DataError if there are none."""
        key = f"data.source.{name}"
        paths = matching(getattr(self, name), key)
        rows = [row for path in paths for row in self.rows(path)]
        if not rows:
            raise DataError(f"{key}: hold no {self.noun}: {', '.join(map(str, paths))}")
        return rows

    def divide(self, text: Callable[[Row], str], fraction: float) -> tuple[list[Row], list[Row]]:
        """(training, held-out) rows: those of `eval_paths`, or else drawn by a hash of their text."""
        if not self.eval_paths:
            return split_by_hash(self.training, text, fraction, self.noun, "data.source.eval_paths")
        held_out = self.read("eval_paths")
        warn_of_both(map(text, self.training), map(text, held_out), self.noun)
        return self.training, held_out


def split_by_hash(
    rows: Sequence[Row], text: Callable[[Row], str], fraction: float, noun: str, key: str
) -> tuple[list[Row], list[Row]]:
    """(training, held-out) rows, drawn by a hash of their text, so that equal texts fall on one side.

    Errors call a row `noun`, and name the `key` of held-out files.
    """
    parts: tuple[list[Row], list[Row]] = ([], [])
    for row in rows:
        parts[is_held_out(text(row), fraction)].append(row)
    if fraction and not all(parts):
        raise DataError(
            f"data.eval_fraction={fraction} of {len(rows)} {noun}s holds out {len(parts[1])}: "
            f"change it, or name held-out files with {key}"
        )
    return parts


def warn_of_both(train: Iterable[Hashable], held_out: Iterable[Hashable], noun: str) -> None:
    """Counts the training rows that the user's own files hold out too."""
    known = set(held_out)
    both = sum(row in known for row in train)
    if both:
        _LOG.warning("%d training %ss are also held out: the files say so", both, noun)


@dataclasses.dataclass(frozen=True)
class Texts(TextSource):
    """Texts alone, as a tokenizer learns from them."""

    texts: tuple[str, ...]

    def documents(self) -> Iterator[str]:
        """One after the other."""
        return iter(self.texts)

    def fingerprint(self, cache: pathlib.Path) -> str:
        """Stands for the contents."""
        return digest(self.texts)


def fit_tokenizer(context: DataContext, texts: Iterable[str]) -> Fitted:
    """The tokenizer of the config, ready to encode: what it learns is in these texts."""
    return tokenizer_of(context.section.text).fit([Part(Texts(tuple(texts)))], context.cache)


def encoded(texts: Sequence[str], tokenizer: Fitted, cache: pathlib.Path) -> Ragged:
    """The tokens of each text, from the cache or made now."""

    def build(work: pathlib.Path) -> Mapping[str, Any]:
        write_ragged(work, "tokens", np.dtype(np.int32), tokenizer.encode(texts))
        return {"texts": len(texts)}

    key = key_of({"texts": digest(texts), "tokenizer": tokenizer.key})
    return Ragged(cached(cache, f"texts-{key}", build).path, "tokens")
