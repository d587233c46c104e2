"""Your own text: .txt files, and .jsonl files, plain or compressed with gzip, xz or zstandard."""

import codecs
import contextlib
import dataclasses
import glob
import gzip
import io
import json
import lzma
import os
import pathlib
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any, Literal, cast

import zstandard

from scaling.configs.types import LocalPath
from scaling.data.cache import digest, file_hash
from scaling.data.documents import TextSource, has_text
from scaling.data.errors import DataError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_SUFFIXES = (".txt", ".jsonl", ".jsonl.gz", ".jsonl.xz", ".jsonl.zst")
_DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, zstandard.ZstdError)
_KEY = "the paths of data.source"
Errors = Literal["strict", "replace", "ignore"]


@dataclasses.dataclass(frozen=True)
class Files(TextSource):
    """Text files by path or glob. A .txt file is one document; so is each line of a .jsonl file.

    Text is UTF-8, or UTF-16 or UTF-32 where a file begins with their byte order mark; the mark is no
    text. A document without text (an empty file; a line where the key is missing, null, empty or
    blank) is left out, and the data line of a run counts them.

    Attributes:
      paths: files or globs (`**` goes into folders, `~` is your home), read in sorted order.
      eval_paths: the same for held-out text. Empty means that `data.text.holdout` chooses.
      field: the key of the text in a line of .jsonl.
      errors: what to do with bytes that are not UTF-8: stop, put U+FFFD in their place, or leave
        them out.
      separator: what stands between the documents inside one text, such as "<|endoftext|>": each
        piece is a document, without the line breaks around the separator. Empty splits nothing.
    """

    paths: tuple[LocalPath, ...]
    eval_paths: tuple[LocalPath, ...] = ()
    field: str = "text"
    errors: Errors = "strict"
    separator: str = ""

    def documents(self) -> Iterator[str]:
        """The documents, file by file; one without text as an empty string."""
        empty = True
        for text in self._texts():
            empty &= not has_text(text)
            yield text
        if empty:
            raise DataError(f"{_KEY} hold no text: {', '.join(map(str, self._files()))}")

    def _texts(self) -> Iterator[str]:
        between = re.compile(rf"[\r\n]*{re.escape(self.separator)}[\r\n]*")
        for path in self._files():
            for text in self._read(path):
                if not self.separator or self.separator not in text:
                    yield text
                else:  # a separator at the very start or end divides nothing
                    yield from filter(None, between.split(text))

    def fingerprint(self, cache: pathlib.Path) -> str:
        """A hash of the files' contents (in their order) and of how they are read."""
        try:
            hashes = [file_hash(path, cache) for path in self._files()]
        except OSError as error:
            raise DataError(f"cannot read {error.filename}: {error.strerror}") from error
        split = [self.separator] if self.separator else []
        return digest([hashes, self.field, self.errors, *split])

    def held_out(self) -> "Files | None":
        """The source of `eval_paths`, if any; DataError if a file is in both."""
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

    def _files(self) -> list[pathlib.Path]:
        paths = matching(self.paths, _KEY)
        for path in paths:
            if not path.name.endswith(_SUFFIXES):
                raise DataError(f"{path}: cannot tell its format; known are {', '.join(_SUFFIXES)}")
        return paths

    def _read(self, path: pathlib.Path) -> Iterator[str]:
        with reading(path) as file:
            mark, encoding = _byte_order_mark(file.peek(4))
            file.read(len(mark))
            if encoding is not None:
                yield from self._marked(file, path, encoding)
            elif path.suffix == ".txt":
                yield self._decode(file.read(), path, len(mark))
            else:
                yield from self._lines(self._utf8(file, path, len(mark)), path)

    def _marked(self, file: IO[bytes], path: pathlib.Path, encoding: str) -> Iterator[str]:
        """The texts of a file that is in the encoding of its byte order mark."""
        with io.TextIOWrapper(file, encoding, self.errors, newline="") as text:
            try:
                if path.suffix == ".txt":
                    yield text.read()
                else:
                    yield from self._lines(text, path)
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path} begins with the byte order mark of {encoding} and is not {encoding}: "
                    f"{error.reason}. {_REMEDY}"
                ) from error

    def _utf8(self, file: IO[bytes], path: pathlib.Path, offset: int) -> Iterator[str]:
        for raw in file:
            yield self._decode(raw, path, offset)
            offset += len(raw)

    def _lines(self, lines: Iterable[str], path: pathlib.Path) -> Iterator[str]:
        without: str | None = None  # the first line without the key, while none has had it
        keyed = False
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            record = json_object(line, where, self.field)
            keyed |= self.field in record
            if not keyed and without is None:
                without = f"{where} has no text under {self.field!r}, but keys {sorted(record)}"
            yield self._text(record.get(self.field), where)
        if without is not None and not keyed:
            raise DataError(
                f"{without}, and no line of the file has one: name the key with data.source.field"
            )

    def _text(self, text: object, where: str) -> str:
        if text is None:
            return ""
        if not isinstance(text, str):
            raise DataError(
                f"{where} has {type(text).__name__} under {self.field!r}, not text: name the key of "
                "the text with data.source.field"
            )
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
                f"{path} is not UTF-8, and no byte order mark names another encoding: byte "
                f"0x{raw[error.start]:02x} at offset {offset + error.start:,}. {_REMEDY}"
            ) from error


# The longer ones first: that of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, None),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def _byte_order_mark(head: bytes) -> tuple[bytes, str | None]:
    """The mark that a file begins with, and the encoding it stands for; (b"", None) for none."""
    return next(((mark, name) for mark, name in _MARKS if head.startswith(mark)), (b"", None))


_REMEDY = (
    "Convert the file to UTF-8 (iconv -f ENCODING -t UTF-8), or set data.source.errors='replace' "
    "(or 'ignore')"
)


def matching(patterns: Sequence[str], key: str) -> list[pathlib.Path]:
    """The files that paths and globs name, sorted, each once; errors name the `key` that holds them.

    `**` goes into folders, `~` is the user's home.
    """
    if not patterns:
        raise DataError(f"{key} are empty: name at least one file, e.g. paths=('a.txt',)")
    paths: set[str] = set()
    for pattern in patterns:
        path = os.path.expanduser(pattern)
        matches = [path] if os.path.exists(path) else glob.glob(path, recursive=True)
        matches = [match for match in matches if not os.path.isdir(match)]
        if not matches:
            raise DataError(f"no file matches {pattern!r} {_where(path)}")
        paths.update(matches)
    return [pathlib.Path(name) for name in sorted(paths)]


def json_object(line: str, where: str, key: str) -> dict[str, Any]:
    """The object that a line of JSON is; errors name its place, and a key that it should have."""
    try:
        record: Any = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where} is not JSON: {error}") from error
    if not isinstance(record, dict):
        raise DataError(
            f"{where} is {type(record).__name__}, not an object with the text under {key!r}: "
            f"write each line as {{{json.dumps(key)}: ...}}"
        )
    return record


@contextlib.contextmanager
def reading(path: pathlib.Path) -> Iterator[io.BufferedReader]:
    """A file for reading; what the end of its name says is compressed comes unpacked.

    Raises:
      DataError: it cannot be opened, or (while it is read) is damaged or cut short.
    """
    try:
        with _opened(path) as file:
            yield file
    except _DAMAGE as error:
        raise DataError(
            f"{path} is damaged or cut short: {error}. Fetch or compress it again"
        ) from error
    except OSError as error:
        raise DataError(
            f"cannot read {path}: {error.strerror or error}. Check the path, its permissions "
            "and the disk"
        ) from error


def _opened(path: pathlib.Path) -> io.BufferedReader:
    if path.suffix == ".gz":
        return io.BufferedReader(cast(io.RawIOBase, gzip.open(path, "rb")), 1 << 20)
    if path.suffix == ".xz":
        return io.BufferedReader(cast(io.RawIOBase, lzma.open(path, "rb")), 1 << 20)
    if path.suffix == ".zst":
        return io.BufferedReader(_Pieces(_zstd_pieces(path)), 1 << 20)
    return path.open("rb")


def _zstd_pieces(path: pathlib.Path) -> Iterator[bytes]:
    """A zstandard file, frame after frame. The library's own reader takes a cut for the end."""
    frame, rest = None, b""  # compressed bytes behind the end of a frame
    with path.open("rb") as file:
        while packed := rest or file.read(1 << 17):
            if frame is None or frame.eof:
                # Windows up to what `zstd --long=31` writes, at the price of their memory.
                frame = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
            yield frame.decompress(packed)
            rest = frame.unused_data if frame.eof else b""
    if frame is not None and not frame.eof:
        raise EOFError("the compressed data ends in the middle")


class _Pieces(io.RawIOBase):
    """Bytes that come in pieces, as a file."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._ready = pieces, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        while not self._ready:
            if (piece := next(self._pieces, None)) is None:
                return 0
            self._ready = memoryview(piece)
        out = memoryview(buffer)
        count = min(len(out), len(self._ready))
        out[:count], self._ready = self._ready[:count], self._ready[count:]
        return count


def _where(path: str) -> str:
    """What there is in place of a file that was not found."""
    folder = os.path.dirname(path) or "."
    if glob.has_magic(folder):
        return f"(seen from {os.getcwd()})"
    if not os.path.isdir(folder):
        return f"(there is no folder {folder!r}, seen from {os.getcwd()})"
    return f"({folder!r} holds: {first_of(sorted(os.listdir(folder))) or 'nothing'})"


def first_of(names: Sequence[str]) -> str:
    """The first eight of some names, for an error."""
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
