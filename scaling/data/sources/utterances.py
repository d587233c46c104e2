"""Speech: wav files with what is said in them, listed in tables.

The samples are read once into one array in the cache, as 16-bit numbers of one channel.

Legend: S samples of a padded utterance, L symbols of a padded text.
"""

import dataclasses
import math
import pathlib
import wave
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from scaling.configs.types import LocalPath, PositiveFloat
from scaling.data.cache import cached, digest, key_of, stamp
from scaling.data.documents import split_rows
from scaling.data.errors import DataError
from scaling.data.info import DataContext, DataInfo, Opened
from scaling.data.loader import Batch, Spec, spec_of
from scaling.data.npy import Ragged, write_ragged
from scaling.data.sources.rows import RowFiles, fit_tokenizer
from scaling.data.sources.tables import Tables, require
from scaling.data.tokenizers import Fitted, tokenizer_of

# How bytes of PCM become numbers, by the bytes of a sample, and what divides them to be 16-bit ones.
_PCM = {1: ("u1", 2**-8), 2: ("<i2", 1), 3: ("<i4", 2**16), 4: ("<i4", 2**16)}


@dataclasses.dataclass(frozen=True)
class Utterances(RowFiles["Row"], Tables):
    """Wav files and their texts. `data.text.tokenizer` makes symbols, at most `data.text.seq_len`.

    Files hold PCM of 8 to 32 bits. Channels are averaged, and samples rounded to 16 bits. All files
    have one sample rate; nothing is resampled. The tokenizer's separator, which no text spells, is
    the blank of CTC.

    Attributes:
      paths: tables or globs, plain or compressed (.gz, .xz, .zst); one utterance a line.
      eval_paths: the same for held-out utterances, none of which may be in `paths`. Empty means that
        `data.eval_fraction` of the utterances is held out.
      path: column of the wav file, as seen from the table's folder.
      text: column of what is said.
      max_seconds: to which utterances are padded; a longer one is refused.
      delimiter, names, encoding: see `Tables`.
    """

    noun: ClassVar[str] = "line"

    paths: tuple[LocalPath, ...]
    eval_paths: tuple[LocalPath, ...] = ()
    path: str = "path"
    text: str = "text"
    max_seconds: PositiveFloat = 16.0

    def describe(self, context: DataContext) -> DataInfo:
        """Shapes by the config and the first file's sample rate; the vocabulary by the config."""
        first, vocab_size = self.training[0], tokenizer_of(context.section.text).vocab_size
        rate = read_wav(first.path, first.where)[0]
        return DataInfo(
            kind="utterances",
            unit="utterances",
            spec=utterance_spec(math.ceil(self.max_seconds * rate), context.section.text.seq_len),
            vocab_size=vocab_size,
            separator=vocab_size - 1,
            facts={"sample_rate": rate},
        )

    def open(self, context: DataContext) -> Opened:
        """Training and held-out utterances."""
        rows = self.training
        held_out = self.read("eval_paths") if self.eval_paths else []
        fraction = 0.0 if self.eval_paths else context.section.eval_fraction
        train, evals = split_rows(len(rows), fraction)
        _refuse_overlap([rows[i] for i in train], held_out or [rows[i] for i in evals])
        tokenizer = fit_tokenizer(context, (rows[i].text for i in sorted(train)))
        info = self.describe(context)
        rate = info.facts["sample_rate"]
        parts = [
            self._recordings(part, rate, tokenizer, context) for part in (rows, held_out) if part
        ]
        if held_out:
            evals = np.arange(len(held_out))
        return Opened(
            info=dataclasses.replace(info, facts={**info.facts, "tightest": tightest(parts)}),
            train={"train": Spoken(parts[0], train[: context.section.limit], info)},
            evals={"eval": Spoken(parts[-1], evals, info)} if len(evals) else {},
            artefacts={"tokenizer": tokenizer},
        )

    def _recordings(
        self, rows: Sequence["Row"], rate: int, tokenizer: Fitted, context: DataContext
    ) -> "Recordings":
        """The utterances of these lines; the samples from the cache, or read now.

        The key of the cache holds every file's path, size and times of change and not its contents, as
        that of images in class folders.
        """
        stats = []
        for row in rows:
            try:
                stats.append([str(row.path.resolve()), *stamp(row.path)])
            except OSError as error:
                raise DataError(
                    f"{row.where}: cannot read {row.path}: {error.strerror or error}; correct the path"
                ) from error

        def build(work: pathlib.Path) -> Mapping[str, Any]:
            write_ragged(work, "samples", np.dtype(np.int16), (_samples(row, rate) for row in rows))
            return {"examples": len(rows)}

        key = key_of({"files": digest(stats), "rate": rate})
        audio = Ragged(cached(context.cache, f"utterances-{key}", build).path, "samples")
        part = Recordings(rows, audio, tokenizer.encode([row.text for row in rows]))
        length = context.section.text.seq_len
        for row, count, symbols in zip(rows, audio.lengths, part.symbols, strict=True):
            if count > math.ceil(self.max_seconds * rate):
                raise DataError(
                    f"{row.where}: {row.path} has {count / rate:.2f} seconds, more than "
                    f"data.source.max_seconds={self.max_seconds}; raise it, or leave the line out"
                )
            if len(symbols) > length:
                raise DataError(
                    f"{row.where}: has {len(symbols)} symbols, more than data.text.seq_len={length}; "
                    "raise it, or leave the line out"
                )
        return part

    def rows(self, path: pathlib.Path) -> Iterator["Row"]:
        """The utterances that one table lists."""
        for where, (sound, text) in self.cells(path, "path", "text"):
            require(where, path=sound, text=text)
            yield Row(path.parent / sound.strip(), text.strip(), where)


@dataclasses.dataclass(frozen=True)
class Row:
    """An utterance: its file, what is said, and the line of the table."""

    path: pathlib.Path
    text: str
    where: str


def _refuse_overlap(rows: Sequence[Row], held_out: Sequence[Row]) -> None:
    lines = {row.path.resolve(): row.where for row in rows} if held_out else {}
    for row in held_out:
        line = lines.get(row.path.resolve())
        if line:
            raise DataError(
                f"{row.where}: {row.path} is held out and also trained on ({line}); leave one line out"
            )


def read_wav(path: pathlib.Path, where: str) -> tuple[int, np.ndarray]:
    """(samples a second, int16 samples of the channels' mean); `where` is the line of the table."""
    try:
        with wave.open(str(path), "rb") as file:
            rate, width, channels = file.getframerate(), file.getsampwidth(), file.getnchannels()
            count = file.getnframes()
            data = np.frombuffer(file.readframes(count), np.uint8)
    except OSError as error:
        what = error.strerror or error
        raise DataError(f"{where}: cannot read {path}: {what}; correct the path") from error
    except (wave.Error, EOFError) as error:
        raise DataError(
            f"{where}: {path} is not a wav file of PCM ({error or 'it ends too soon'}); convert it, "
            "as `ffmpeg -i IN -c:a pcm_s16le OUT.wav` does"
        ) from error
    if width not in _PCM or not rate:
        raise DataError(
            f"{where}: {path} has {8 * width} bits a sample and {rate} samples a second; convert it to "
            "PCM of 8 to 32 bits"
        )
    if not count or len(data) != count * width * channels:
        what = "is cut short" if count else "holds no samples"
        raise DataError(f"{where}: {path} {what}; fetch it again, or leave the line out")
    if width == 3:  # a low byte of zeros makes 32 bits of 24
        data = np.pad(data.reshape(-1, 3), ((0, 0), (1, 0))).reshape(-1)
    dtype, scale = _PCM[width]
    values = data.view(dtype).reshape(-1, channels)
    if width == 2 and channels == 1:
        return rate, values[:, 0].astype(np.int16)
    mixed = (values.astype(np.float64) - (128 if width == 1 else 0)).mean(axis=1) / scale
    return rate, np.clip(np.round(mixed), -(2**15), 2**15 - 1).astype(np.int16)


@dataclasses.dataclass(frozen=True)
class Recordings:
    """All utterances of some tables.

    Attributes:
      audio: int16 samples of each.
      symbols: of each text.
    """

    rows: Sequence[Row]
    audio: Ragged
    symbols: Sequence[np.ndarray]


def _samples(row: Row, rate: int) -> np.ndarray:
    other, samples = read_wav(row.path, row.where)
    if other != rate:
        raise DataError(
            f"{row.where}: {row.path} has {other:,} samples a second, and the first file "
            f"{rate:,}; resample it (ffmpeg -i IN -ar {rate} OUT.wav), or leave it out"
        )
    return samples


def tightest(parts: Sequence[Recordings]) -> list[list[Any]]:
    """The utterances that have the fewest samples for what CTC needs.

    It needs a frame for each symbol, and one for the blank between two equal ones.

    Returns:
      [frames needed, samples, line], the largest need first, and each next one shorter: if these
      have frames enough, all have.
    """
    needs = [
        (len(symbols) + int(np.sum(symbols[1:] == symbols[:-1])), int(samples), row.where)
        for part in parts
        for row, samples, symbols in zip(part.rows, part.audio.lengths, part.symbols, strict=True)
    ]
    kept: list[list[Any]] = []
    for need, samples, where in sorted(needs, key=lambda x: (-x[0], x[1])):
        if not kept or samples < kept[-1][1]:
            kept.append([need, samples, where])
    return kept


class Spoken:
    """Utterances padded with silence, and their symbols, padded with the blank."""

    def __init__(self, part: Recordings, numbers: np.ndarray, info: DataInfo) -> None:
        """Those of a part whose numbers are given."""
        self.spec = info.spec
        self._part, self._numbers, self._blank = part, numbers, info.separator

    def __len__(self) -> int:
        return len(self._numbers)

    def texts(self) -> list[str]:
        """What is said in each."""
        return [self._part.rows[i].text for i in self._numbers]

    def gather(self, indices: np.ndarray, positions: np.ndarray | None = None) -> Batch:
        """{audio: int16[n, S], labels: int32[n, L]}, and how much of each is there."""
        count, part = len(indices), self._part
        batch = {key: np.zeros((count, *shape), dtype) for key, (shape, dtype) in self.spec.items()}
        batch["labels"][:], batch["weights"][:] = self._blank, 1.0
        for place, i in enumerate(self._numbers[indices]):
            samples, symbols = part.audio.row(i), part.symbols[i]
            batch["audio"][place, : len(samples)] = samples
            batch["labels"][place, : len(symbols)] = symbols
            batch["num_samples"][place], batch["num_labels"][place] = len(samples), len(symbols)
        return batch


def utterance_spec(samples: int, symbols: int) -> Spec:
    """Shapes and dtypes of an example of so many samples and symbols, padding included."""
    sound = spec_of("int16", (samples,), "audio") | spec_of("int32", (), "num_samples")
    return sound | spec_of("int32", (symbols,), "labels") | spec_of("int32", (), "num_labels")
