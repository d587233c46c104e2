"""Your own text: .txt files, and .jsonl files, plain or compressed with gzip, xz or zstandard."""

import dataclasses
import glob
import gzip
import hashlib
import io
import json
import lzma
import os
import pathlib
import zlib
from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any, ClassVar, Literal, cast

import zstandard

from scaling.data.cache import file_hash
from scaling.data.errors import DataError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_SUFFIXES = (".txt", ".jsonl", ".jsonl.gz", ".jsonl.xz", ".jsonl.zst")
_DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, zstandard.ZstdError)
Errors = Literal["strict", "replace", "ignore"]


@dataclasses.dataclass(frozen=True)
class Files:
    """Text files by path or glob. A .txt file is one document; so is each line of a .jsonl file.

    Attributes:
      paths: files or globs (`**` goes into folders, `~` is your home), read in sorted order.
      eval_paths: the same for held-out text. Empty means that `data.text.holdout` chooses.
      field: the key of the text in a line of .jsonl.
      errors: what to do with bytes that are not UTF-8: stop, put U+FFFD in their place, or leave
        them out.
    """

    kind: ClassVar[str] = "text"

    paths: tuple[str, ...]
    eval_paths: tuple[str, ...] = ()
    field: str = "text"
    errors: Errors = "strict"

    def documents(self) -> Iterator[str]:
        """The documents, file by file. Documents without text are left out.

        Raises:
          DataError: a file is missing, unreadable, damaged, empty, not UTF-8, or not such lines.
        """
        for path in self._files():
            empty = True
            for text in self._read(path):
                if text:
                    empty = False
                    yield text
            if empty:
                raise DataError(f"{path} is empty: remove it from {self._key}, or put text into it")

    def fingerprint(self, cache: pathlib.Path) -> str:
        """A hash of the files' contents (in their order) and of how they are read."""
        try:
            hashes = [file_hash(path, cache) for path in self._files()]
        except OSError as error:
            raise DataError(f"cannot read {error.filename}: {error.strerror}") from error
        text = json.dumps([hashes, self.field, self.errors])
        return hashlib.sha256(text.encode()).hexdigest()

    def held_out(self) -> "Files | None":
        """The source of `eval_paths`, if any.

        Raises:
          DataError: a file is in both.
        """
        if not self.eval_paths:
            return None
        other = dataclasses.replace(self, paths=self.eval_paths, eval_paths=())
        both = {os.path.realpath(p) for p in self._files()} & {
            os.path.realpath(p) for p in other._files()
        }
        if both:
            raise DataError(
                f"{min(both)} is in paths and in eval_paths: a model must not train on the text "
                "that it is evaluated on"
            )
        return other

    @property
    def _key(self) -> str:
        return "the paths of data.source"

    def _files(self) -> list[pathlib.Path]:
        if not self.paths:
            raise DataError(f"{self._key} are empty: name at least one file, e.g. paths=('a.txt',)")
        paths: set[str] = set()
        for pattern in self.paths:
            path = os.path.expanduser(pattern)
            matches = [path] if os.path.exists(path) else glob.glob(path, recursive=True)
            matches = [match for match in matches if not os.path.isdir(match)]
            if not matches:
                raise DataError(f"no file matches {pattern!r} {_where(path)}")
            paths.update(matches)
        for name in paths:
            if not name.endswith(_SUFFIXES):
                raise DataError(f"{name}: cannot tell its format; known are {', '.join(_SUFFIXES)}")
        return [pathlib.Path(name) for name in sorted(paths)]

    def _read(self, path: pathlib.Path) -> Iterator[str]:
        try:
            with _open(path) as file:
                if path.suffix == ".txt":
                    yield self._decode(file.read(), path, 0)
                else:
                    yield from self._lines(file, path)
        except _DAMAGE as error:
            raise DataError(
                f"{path} is damaged or cut short: {error}. Fetch or compress it again"
            ) from error
        except OSError as error:
            raise DataError(
                f"cannot read {path}: {error.strerror or error}. Check the path, its permissions "
                "and the disk"
            ) from error

    def _lines(self, file: IO[bytes], path: pathlib.Path) -> Iterator[str]:
        offset = 0
        for number, raw in enumerate(file, 1):
            line = self._decode(raw, path, offset)
            offset += len(raw)
            if line.strip():
                yield self._text(line, f"{path}, line {number}")

    def _text(self, line: str, where: str) -> str:
        try:
            record: Any = json.loads(line)
        except ValueError as error:
            raise DataError(f"{where} is not JSON: {error}") from error
        if not isinstance(record, dict) or not isinstance(record.get(self.field), str):
            holds = f"keys {sorted(record)}" if isinstance(record, dict) else type(record).__name__
            raise DataError(
                f"{where} has no text under {self.field!r}, but {holds}: name the key with "
                "data.source.field"
            )
        text: str = record[self.field]
        try:
            text.encode()
        except UnicodeEncodeError as error:  # JSON can spell half of a surrogate pair
            if self.errors == "strict":
                raise DataError(
                    f"{where} holds a lone surrogate at character {error.start}: {_REMEDY}"
                ) from error
            kept = "�" if self.errors == "replace" else ""
            return "".join(kept if "\ud800" <= c <= "\udfff" else c for c in text)
        return text

    def _decode(self, raw: bytes, path: pathlib.Path, offset: int) -> str:
        try:
            return raw.decode("utf-8", self.errors)
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path} is not UTF-8: byte 0x{raw[error.start]:02x} at offset "
                f"{offset + error.start:,}. {_REMEDY}"
            ) from error


_REMEDY = "Convert the file, or set data.source.errors='replace' (or 'ignore')"


def _open(path: pathlib.Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return cast(IO[bytes], gzip.open(path, "rb"))
    if path.suffix == ".xz":
        return lzma.open(path, "rb")
    if path.suffix == ".zst":
        return cast(IO[bytes], io.BufferedReader(_Zstd(path), 1 << 20))
    return path.open("rb")


class _Zstd(io.RawIOBase):
    """A zstandard file, frame after frame. The library's own reader takes a cut for the end."""

    def __init__(self, path: pathlib.Path) -> None:
        self._file = path.open("rb")
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._begun = False
        self._rest = b""  # compressed bytes behind the end of a frame
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        while not self._ready:
            packed = self._rest or self._file.read(1 << 17)
            if not packed:
                if self._begun and not self._frame.eof:
                    raise EOFError("the compressed data ends in the middle")
                return 0
            if self._frame.eof:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            self._begun = True
            self._ready = memoryview(self._frame.decompress(packed))
            self._rest = self._frame.unused_data if self._frame.eof else b""
        out = memoryview(buffer)
        count = min(len(out), len(self._ready))
        out[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def _where(path: str) -> str:
    """What there is in place of a file that was not found."""
    folder = os.path.dirname(path) or "."
    if glob.has_magic(folder):
        return f"(seen from {os.getcwd()})"
    if not os.path.isdir(folder):
        return f"(there is no folder {folder!r}, seen from {os.getcwd()})"
    names: Sequence[str] = sorted(os.listdir(folder))
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return f"({folder!r} holds: {shown or 'nothing'})"
