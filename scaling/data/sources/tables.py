"""Rows of text tables (CSV and its like, or lines of JSON), plain or compressed, each with its place."""

import csv
import dataclasses
import io
import pathlib
from collections.abc import Iterable, Iterator, Sequence

from scaling.data.documents import has_text
from scaling.data.errors import DataError
from scaling.data.sources.files import json_object, reading


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tables:
    """What sources have in common that read tables: how lines become cells.

    In a file whose name ends in .jsonl (before .gz and its like) each line is an object with the columns
    as keys, and `delimiter` and `names` say nothing.

    Attributes:
      delimiter: what stands between two cells. A comma may be quoted, as CSV does; any other
        delimiter, of any length, always divides, as "::" or "\\t".
      names: of the columns; empty where the first line of each file has them.
      encoding: of the text; a byte order mark of UTF-8 is not part of it.
    """

    delimiter: str = ","
    names: tuple[str, ...] = ()
    encoding: str = "utf-8"

    def cells(self, path: pathlib.Path, *fields: str) -> Iterator[tuple[str, list[str]]]:
        """(place of the line, for errors; its cells), line by line; those without text are passed over.

        The cells are of the columns that these fields of the source name, in their order.
        """
        columns = [(getattr(self, field), f"data.source.{field}") for field in fields]
        if ".jsonl" in path.suffixes:
            yield from _json_cells(path, self.encoding, columns)
            return
        names, places = list(self.names), []
        for number, row in _rows(path, self):
            if not any(cell.strip() for cell in row):
                continue
            where = f"{path}, line {number}"
            if not names:
                names = [name.strip() for name in row]
                places = _places(names, columns, where)
                continue
            places = places or _places(names, columns, str(path))
            if len(row) != len(names):
                raise DataError(
                    f"{where}: has {len(row)} cells, and there are {len(names)} columns "
                    f"({', '.join(names)}); correct the line, or data.source.delimiter"
                )
            yield where, [row[place] for place in places]


def require(where: str, /, **cells: str) -> None:
    """DataError if one of the cells of a line, by their names, holds no text."""
    for name, cell in cells.items():
        if not has_text(cell):
            raise DataError(f"{where}: has no {name}; correct the line, or leave it out")


def lines(path: pathlib.Path, encoding: str) -> Iterator[str]:
    """The lines of a text file with their ends, unpacked where it is compressed."""
    number = 0
    try:
        codec = "utf-8-sig" if encoding == "utf-8" else encoding
        with reading(path) as file, io.TextIOWrapper(file, codec, newline="") as text:
            for number, line in enumerate(text, 1):  # noqa: B007
                yield line
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}, soon after line {number}: is not {encoding} ({error.reason}, byte "
            f"0x{error.object[error.start]:02x}); convert the file, or set data.source.encoding"
        ) from error
    except LookupError as error:
        raise DataError(f"data.source.encoding: {error}; use a name that Python knows") from error


def _json_cells(
    path: pathlib.Path, encoding: str, columns: Sequence[tuple[str, str]]
) -> Iterator[tuple[str, list[str]]]:
    """`cells` of lines of JSON: text and numbers as they stand, null as an empty cell."""
    for number, line in enumerate(lines(path, encoding), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        record = json_object(line, where, columns[0][0])
        row = []
        for column, key in columns:
            value = record.get(column, [])
            if isinstance(value, dict | list):
                raise DataError(
                    f"{where}: has no text or number under {column!r}, but keys "
                    f"{', '.join(record)}; name it with {key}"
                )
            cell = "" if value is None else str(value)
            if any("\ud800" <= c <= "\udfff" for c in cell):  # JSON can spell half of a pair
                raise DataError(
                    f"{where}: holds half of a surrogate pair under {column!r}; correct the line"
                )
            row.append(cell)
        yield where, row


def _places(names: list[str], columns: Sequence[tuple[str, str]], where: str) -> list[int]:
    for column, key in columns:
        if column not in names:
            raise DataError(
                f"{where}: there is no column {column!r} among {', '.join(names)}; name it with "
                f"{key} (data.source.names gives the columns of a file without a header)"
            )
    return [names.index(column) for column, _ in columns]


def _rows(path: pathlib.Path, layout: Tables) -> Iterator[tuple[int, list[str]]]:
    text = lines(path, layout.encoding)
    if layout.delimiter != ",":
        for number, line in enumerate(text, 1):
            yield number, line.rstrip("\r\n").split(layout.delimiter)
        return
    reader = csv.reader(text, strict=True)
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num}: is not CSV ({error}); correct the line, or give "
            "data.source.delimiter"
        ) from error


def ordered(names: Iterable[str]) -> tuple[str, ...]:
    """Different names in the order of their numbers, and those that are not numbers behind."""

    def key(name: str) -> tuple[bool, int, str]:
        return (not name.isdecimal(), int(name) if name.isdecimal() else 0, name)

    return tuple(sorted(set(names), key=key))
