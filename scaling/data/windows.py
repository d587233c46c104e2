"""Documents -> one stream of tokens on disk -> examples of fixed length.

The stream of n documents is  S d1 S d2 S ... dn S  with S the separator, which is both what comes
after the end of a document (a target to predict) and what stands before the beginning of the next
(the first input of its segment). Example i has the inputs [i T, i T + T) of the stream and the same
shifted by one as targets, so every token but the first is a target exactly once; with the segments
of `mask_documents` no target depends on another document.
A single document that is split into a head and a tail has no separators at all.

The stream does not depend on T: other lengths of example share it.
"""

import collections
import logging
import pathlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from scaling.data.cache import Entry, cached, key_of
from scaling.data.documents import Part, document_hash, has_text
from scaling.data.errors import DataError
from scaling.data.loader import Batch, Spec, spec_of
from scaling.data.npy import NpyWriter
from scaling.data.tokenizers import Fitted

_LOG = logging.getLogger(__name__)
# What other tools put between documents: in a text it is rarely meant as text.
MARKERS = ("<|endoftext|>", "<|end_of_text|>", "<|im_end|>", "<|eot_id|>", "</s>", "<eos>", "[SEP]")
_CHUNK = 1 << 20  # characters handed to the tokenizer at once


def token_stream(
    part: Part, tokenizer: Fitted, cache: pathlib.Path, exclude: Sequence[Entry] = ()
) -> Entry:
    """The tokens of a part, from the cache or made now.

    Args:
      exclude: streams of held-out text: documents that are also there are left out, and counted.

    Returns:
      An entry with `tokens.npy` (unsigned integers), `documents.npy` (a hash of each document) and
      notes: tokens, bytes, documents, excluded (held-out documents), blank (documents without
      text), and markers: those of `MARKERS` that stand in a text -> in how many documents.
    """
    key = key_of(
        {
            "part": part.key(cache),
            "tokenizer": tokenizer.key,
            "exclude": [entry.path.name for entry in exclude],
            "blank": "left out",
        }
    )

    def build(work: pathlib.Path) -> Mapping[str, Any]:
        held_out = [np.load(entry.path / "documents.npy") for entry in exclude]
        empty = np.empty(0, np.uint64)
        return _write_stream(part, tokenizer, np.concatenate([empty, *held_out]), work)

    entry = cached(cache, f"tokens-{key}", build)
    if entry.meta["excluded"]:
        _LOG.warning(
            "%d training documents are left out, because the held-out text has them too",
            entry.meta["excluded"],
        )
    return entry


def warn_of_markers(entries: Collection[Entry]) -> None:
    """Says once of all streams which well-known markers stand in their texts."""
    for marker in MARKERS:
        count = sum(entry.meta["markers"].get(marker, 0) for entry in entries)
        if count:
            _LOG.warning(
                "%s stands as text in %d documents and is trained on letter by letter: if it "
                "divides documents, set data.source.separator='%s'",
                *(marker, count, marker),
            )


def _write_stream(
    part: Part, tokenizer: Fitted, held_out: np.ndarray, work: pathlib.Path
) -> dict[str, Any]:
    dtype = np.min_scalar_type(tokenizer.vocab_size - 1)
    separator = np.array([tokenizer.vocab_size - 1], dtype)
    separate = not part.is_tail()
    seen: list[np.ndarray] = []
    notes = {"tokens": 0, "bytes": 0, "documents": 0, "excluded": 0, "blank": 0}
    markers: collections.Counter[str] = collections.Counter()
    with NpyWriter(work / "tokens.npy", dtype) as out:
        if separate:
            out.write(separator)
        for chunk in _chunks(part.with_blank()):
            texts = [text for text in chunk if has_text(text)]
            notes["blank"] += len(chunk) - len(texts)
            markers.update(marker for marker in MARKERS for text in texts if marker in text)
            ids = np.array([document_hash(text) for text in texts], np.uint64)
            keep = ~np.isin(ids, held_out)
            texts = [text for text, kept in zip(texts, keep, strict=True) if kept]
            notes["excluded"] += int((~keep).sum())
            notes["documents"] += len(texts)
            seen.append(ids[keep])
            notes["bytes"] += sum(len(text.encode()) for text in texts)
            for tokens in tokenizer.encode(texts):
                out.write(tokens)
                if separate:
                    out.write(separator)
        notes["tokens"] = out.length
    if not notes["documents"]:
        raise DataError(_nothing_left(part, notes["excluded"]))
    np.save(work / "documents.npy", np.concatenate(seen))
    return notes | {"markers": dict(markers)}


def _nothing_left(part: Part, excluded: int) -> str:
    if excluded:
        return "every training document is also in the held-out text: name other files for one"
    if part.side == "all":
        return f"there is no text in {part.source}"
    which = "held out for evaluation" if part.side == "eval" else "left to train on"
    return (
        f"data.text.holdout=documents with data.eval_fraction={part.fraction} leaves no document {which}"
        " (documents are drawn by a hash of their text): change data.eval_fraction, or name"
        " held-out text with data.eval_source"
    )


def _chunks(documents: Iterator[str]) -> Iterator[list[str]]:
    texts: list[str] = []
    size = 0
    for text in documents:
        texts.append(text)
        size += len(text)
        if size >= _CHUNK:
            yield texts
            texts, size = [], 0
    if texts:
        yield texts


class Windows:
    """Examples of `seq_len` targets cut from a stream; see the module's docstring.

    The last one may be shorter: its padding has weight 0.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        seq_len: int,
        separator: int | None = None,
        limit: int | None = None,
        lanes: bool = False,
    ) -> None:
        """Cuts a stream.

        Args:
          tokens: the stream, an integer array [L] (memory-mapped).
          separator: with it, examples carry `segments` and `positions`.
          limit: use only about the first `limit` targets, in whole examples.
          lanes: whether a model may carry a state from the window before: see
            `segments_and_positions`.
        """
        if len(tokens) < 2:
            raise DataError(
                f"{len(tokens)} tokens are too few, an example needs at least two: give more text, or "
                "another data.eval_fraction"
            )
        self.spec = text_spec(seq_len, separator is not None)
        self._tokens = tokens
        self._seq_len = seq_len
        self._separator = separator
        self._lanes = lanes
        self._length = -(-(len(tokens) - 1) // seq_len)
        if limit is not None:
            self._length = min(self._length, max(1, limit // seq_len))

    def __len__(self) -> int:
        return self._length

    def padded(self) -> dict[int, int]:
        """The last example, where it is short: {index: targets that it lacks}."""
        lacking = self._length * self._seq_len - (len(self._tokens) - 1)
        return {self._length - 1: lacking} if lacking > 0 else {}

    def gather(self, indices: np.ndarray, positions: np.ndarray | None = None) -> Batch:
        """Examples by index: int64[n] -> {inputs, targets: int32[n, T], weights: float32, ...}."""
        offsets = np.asarray(indices)[:, None] * self._seq_len + np.arange(self._seq_len + 1)
        last = len(self._tokens) - 1
        window = self._tokens[np.minimum(offsets, last)].astype(np.int32)
        batch = {
            "inputs": window[:, :-1],
            "targets": window[:, 1:],
            "weights": (offsets[:, 1:] <= last).astype(np.float32),
        }
        if self._separator is not None:
            batch |= segments_and_positions(batch["inputs"], self._separator, self._lanes)
        return batch


def text_spec(seq_len: int, mask_documents: bool) -> Spec:
    """Shapes and dtypes of an example of text."""
    keys = ["inputs", "targets", *(["segments", "positions"] if mask_documents else [])]
    return spec_of("int32", (seq_len,), *keys) | spec_of("float32", (seq_len,), "weights")


def segments_and_positions(inputs: np.ndarray, separator: int, lanes: bool = False) -> Batch:
    """Which document each input belongs to, and its place in it as far as the window shows it.

    A separator belongs to the document that it begins. Segments count from 1, positions from 0. In
    lanes a window goes on where the one before it ended: what is left of that document is segment 0.
    {segments, positions: int32[n, T]}.
    """
    begins = inputs == separator
    if not lanes:
        begins[:, 0] = True
    place = np.arange(inputs.shape[1], dtype=np.int32)
    start = np.maximum.accumulate(np.where(begins, place, 0), axis=1)
    return {
        "segments": np.cumsum(begins, axis=1, dtype=np.int32),
        "positions": (place - start).astype(np.int32),
    }


def open_tokens(entry: Entry) -> np.ndarray:
    """The stream of an entry, memory-mapped."""
    return np.load(entry.path / "tokens.npy", mmap_mode="r")
