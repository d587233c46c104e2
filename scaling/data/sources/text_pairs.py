"""Pairs of texts, a source and its target, for models that write the second after reading the first.

Legend: S tokens of a source, T tokens of a target with its end.
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Annotated

import numpy as np

from scaling.configs.types import AddedLater, LocalPath, PositiveInt
from scaling.data.documents import has_text, split_rows
from scaling.data.errors import DataError
from scaling.data.info import DataContext, DataInfo, Opened
from scaling.data.loader import Batch, Spec, spec_of
from scaling.data.npy import Ragged
from scaling.data.sources.files import matching
from scaling.data.sources.rows import encoded, fit_tokenizer, split_by_hash, warn_of_both
from scaling.data.sources.tables import Tables, lines
from scaling.data.tokenizers import Fitted, tokenizer_of


@dataclasses.dataclass(frozen=True)
class TextPairs(Tables):
    """Two text files whose lines belong together, or a table with a column for each side.

    One tokenizer is trained on both sides of the training pairs (`data.text.tokenizer`). Nothing is
    cut: training pairs that are longer than `source_len` or `target_len` are left out, and so are
    pairs of which a side is blank; the data line of a run counts both. A held-out pair of
    `eval_...` or `test_...` files that is too long stops the run, with the length that would do: a
    score without it would not be that of the set. With `data.eval_fraction` it is left out and
    counted, as in training.

    Attributes:
      source_paths: files or globs, plain or compressed (.gz, .xz, .zst), in this order.
      target_paths: the same, file by file. Empty means that `source_paths` are tables.
      eval_source_paths: held-out pairs, the split `eval`. Empty means that `data.eval_fraction` of
        the pairs is held out, by a hash of the source, so that equal sources fall on one side.
      eval_target_paths: their other side.
      test_source_paths: a second held-out set, the split `test`.
      test_target_paths: its other side.
      source_len: S.
      target_len: T, the end of the text among them.
      eval_source_len: S of held-out pairs; None is `source_len`. Training may so be spared the padding
        that a few long held-out pairs need.
      eval_target_len: T of held-out pairs; None is `target_len`.
      source: column of the source in a table.
      target: column of the target in a table.
      delimiter, names, encoding: see `Tables`.
    """

    source_paths: tuple[LocalPath, ...]
    target_paths: tuple[LocalPath, ...] = ()
    eval_source_paths: tuple[LocalPath, ...] = ()
    eval_target_paths: tuple[LocalPath, ...] = ()
    test_source_paths: tuple[LocalPath, ...] = ()
    test_target_paths: tuple[LocalPath, ...] = ()
    source_len: PositiveInt = 64
    target_len: PositiveInt = 64
    eval_source_len: Annotated[PositiveInt | None, AddedLater()] = None
    eval_target_len: Annotated[PositiveInt | None, AddedLater()] = None
    source: str = "source"
    target: str = "target"

    @property
    def reads(self) -> tuple[str, ...]:
        """Keys of sections `data` and `data.text` that it uses."""
        keys = ("tokenizer", "limit")
        return keys if self.eval_source_paths else (*keys, "eval_fraction")

    def describe(self, context: DataContext) -> DataInfo:
        """Shapes and the vocabulary, by the config alone."""
        vocab_size = tokenizer_of(context.section.text).vocab_size
        files = {
            "eval": self.eval_source_paths or context.section.eval_fraction,
            "test": self.test_source_paths,
        }
        held_out = pair_spec(*self._lengths(True), held_out=True)
        return DataInfo(
            kind="text_pairs",
            unit="tokens",
            spec=pair_spec(*self._lengths(False), held_out=False),
            eval_specs={name: held_out for name, given in files.items() if given},
            vocab_size=vocab_size,
            separator=vocab_size - 1,
        )

    def open(self, context: DataContext) -> Opened:
        """Training and held-out pairs, tokenised; the held-out texts as they are, as an artefact."""
        train, held_out = self._parts(context.section.eval_fraction)
        tokenizer = fit_tokenizer(context, (text for row in train for text in row.texts))
        limit, separator = context.section.limit, tokenizer.vocab_size - 1
        sizes: dict[str, int] = {}
        evals: dict[str, Pairs] = {}
        texts: tuple[tuple[str, str], ...] = ()
        for name, rows in held_out.items():
            tokens, kept = self._fitting(name, rows, context, tokenizer, sizes)
            evals[name] = Pairs(tokens, kept, self._lengths(True), separator, len(texts))
            given = [row.texts for row in rows if row.has_text()]
            texts += tuple(given[i] for i in kept)
        tokens, kept = self._fitting("train", train, context, tokenizer, sizes)
        if limit is not None:
            kept = kept[split_rows(len(kept), 0.0)[0][:limit]]
        return Opened(
            info=dataclasses.replace(self.describe(context), token_bytes=tokenizer.token_bytes),
            train={"train": Pairs(tokens, kept, self._lengths(False), separator)},
            evals=evals,
            artefacts={"tokenizer": tokenizer, "held_out_texts": HeldOutTexts(texts)},
            sizes=sizes,
        )

    def _lengths(self, held_out: bool) -> tuple[int, int]:
        """(S, T)."""
        if not held_out:
            return self.source_len, self.target_len
        return self.eval_source_len or self.source_len, self.eval_target_len or self.target_len

    def _fitting(
        self,
        name: str,
        rows: list["Row"],
        context: DataContext,
        tokenizer: Fitted,
        sizes: dict[str, int],
    ) -> tuple[Ragged, np.ndarray]:
        """(the tokens of the rows with text, which of them fit); counts the others into `sizes`."""
        texts = [row for row in rows if row.has_text()]
        tokens = encoded([text for row in texts for text in row.texts], tokenizer, context.cache)
        length = tokens.lengths.reshape(-1, 2)  # of source and target
        source_len, target_len = self._lengths(name != "train")
        fits = (length <= [source_len, target_len - 1]).all(axis=1)
        prefix = "" if name == "train" else "eval_"
        given = f"data.source.{prefix}source_len={source_len}, {prefix}target_len={target_len}"
        if not fits.all() and (name == "test" or (name == "eval" and self.eval_source_paths)):
            row, longest = texts[int(np.argmin(fits))], length.max(axis=0)
            raise DataError(
                f"{row.where}: a held-out pair is too long for {given}; {name} needs at least "
                f"eval_source_len={longest[0]}, eval_target_len={longest[1] + 1}"
            )
        if not fits.any():
            raise DataError(f"{given}: none of the {len(texts)} pairs ({name}) fits; give more")
        counts = {"too_long": int((~fits).sum()), "without_text": len(rows) - len(texts)}
        for reason, count in counts.items():
            if count:
                sizes[f"{name}_pairs_{reason}_left_out"] = count
        return tokens, np.flatnonzero(fits)

    def _parts(self, fraction: float) -> tuple[list["Row"], dict[str, list["Row"]]]:
        """(training pairs, held-out pairs by split)."""
        rows = self._read("")
        held_out: dict[str, list[Row]] = {}
        if fraction and not self.eval_source_paths:
            key = "data.source.eval_source_paths"
            rows, held_out["eval"] = split_by_hash(
                rows, lambda row: row.texts[0], fraction, "pair", key
            )
        for name in ("eval", "test"):
            key = f"{name}_source_paths"
            if getattr(self, key):
                held_out[name] = self._read(f"{name}_")
            elif getattr(self, f"{name}_target_paths"):
                raise DataError(
                    f"data.source.{name}_target_paths: has no {key} beside it; give both"
                )
        known = (row.texts for part in held_out.values() for row in part)
        warn_of_both((row.texts for row in rows), known, "pair")
        return rows, held_out

    def _read(self, prefix: str) -> list["Row"]:
        key, other = f"data.source.{prefix}source_paths", f"data.source.{prefix}target_paths"
        sources = getattr(self, f"{prefix}source_paths")
        targets = getattr(self, f"{prefix}target_paths")
        if not sources:
            matching(sources, key)  # says so
        # In the order in which they are named: the files of two sides are matched by it.
        paths = [path for pattern in sources for path in matching([pattern], key)]
        others = [path for pattern in targets for path in matching([pattern], other)]
        if others:
            rows = list(self._pairs(paths, others, other))
        else:
            table = (line for path in paths for line in self.cells(path, "source", "target"))
            rows = [Row((source.strip(), target.strip()), at) for at, (source, target) in table]
        if not any(row.has_text() for row in rows):
            raise DataError(f"{key}: hold no pair of texts: {', '.join(map(str, paths))}")
        return rows

    def _pairs(
        self, paths: Sequence[pathlib.Path], others: Sequence[pathlib.Path], key: str
    ) -> Iterator["Row"]:
        if len(paths) != len(others):
            raise DataError(
                f"{key}: {len(others)} files, and there are {len(paths)} of sources; name one for each"
            )
        for path, other in zip(paths, others, strict=True):
            sides = [list(lines(file, self.encoding)) for file in (path, other)]
            if len(sides[0]) != len(sides[1]):
                raise DataError(
                    f"{path} has {len(sides[0])} lines and {other} has {len(sides[1])}: line by line "
                    "they must be the two sides of a pair; correct the files"
                )
            for number, (source, target) in enumerate(zip(*sides, strict=True), 1):
                yield Row((source.strip(), target.strip()), f"{path}, line {number}")


@dataclasses.dataclass(frozen=True)
class Row:
    """A pair (source, target), and where it stands."""

    texts: tuple[str, str]
    where: str

    def has_text(self) -> bool:
        """Whether both sides hold text."""
        return all(map(has_text, self.texts))


@dataclasses.dataclass(frozen=True)
class HeldOutTexts:
    """The held-out pairs as they stand in the files, split after split.

    Attributes:
      pairs: (source, target); `index` of a held-out example is its place.
    """

    pairs: tuple[tuple[str, str], ...]

    def to_text(self) -> str:
        """As JSON."""
        return json.dumps(self.pairs, ensure_ascii=False)

    @classmethod
    def from_text(cls, text: str) -> "HeldOutTexts":
        """The inverse of `to_text`."""
        return cls(tuple((source, target) for source, target in json.loads(text)))


class Pairs:
    """Tokenised pairs, one an example.

    A target is read after a separator and ends with one; what follows is padding, of weight 0.
    """

    def __init__(
        self,
        tokens: Ragged,
        rows: np.ndarray,
        lengths: tuple[int, int],
        separator: int,
        first: int | None = None,
    ) -> None:
        """Those pairs of alternating texts; `lengths` are (S, T), and `first` numbers the examples."""
        self._tokens, self._rows, self._lengths = tokens, rows, lengths
        self._separator, self._first = separator, first
        self.spec = pair_spec(*lengths, first is not None)

    def __len__(self) -> int:
        return len(self._rows)

    def padded(self) -> np.ndarray:
        """Targets that each example lacks: int64[examples]."""
        return self._lengths[1] - 1 - self._tokens.lengths[2 * self._rows + 1]

    def gather(self, indices: np.ndarray, positions: np.ndarray | None = None) -> Batch:
        """Examples by index.

        {source, source_segments (0 for padding): int32[n, S], inputs, targets: int32[n, T], weights:
        float32[n, T]}, and of held-out pairs index: int32[n].
        """
        rows, separator = self._rows[indices], self._separator
        source_len, target_len = self._lengths
        source, text = self._tokens.padded(2 * rows, source_len, separator)
        target, inside = self._tokens.padded(2 * rows + 1, target_len, separator)
        begin = np.full((len(rows), 1), separator, np.int32)
        batch = {
            "source": source,
            "source_segments": text.astype(np.int32),
            "inputs": np.concatenate([begin, target[:, :-1]], axis=1),
            "targets": target,
            # The separator behind the text is a target too.
            "weights": np.concatenate([np.ones_like(inside[:, :1]), inside[:, :-1]], axis=1),
        }
        batch["weights"] = batch["weights"].astype(np.float32)
        if self._first is not None:
            batch["index"] = (self._first + np.asarray(indices)).astype(np.int32)
        return batch


def pair_spec(source_len: int, target_len: int, held_out: bool) -> Spec:
    """Shapes and dtypes of an example; those of held-out ones have their number."""
    spec = spec_of("int32", (source_len,), "source", "source_segments")
    spec |= spec_of("int32", (target_len,), "inputs", "targets")
    spec |= spec_of("float32", (target_len,), "weights")
    return spec | (spec_of("int32", (), "index") if held_out else {})
