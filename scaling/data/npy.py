"""Arrays on disk: .npy files that are written piece by piece, and rows of different lengths."""

import io
import pathlib
from collections.abc import Iterable

import numpy as np


class NpyWriter:
    """Appends rows to a .npy file whose number of rows is known only at the end.

    Not a memory map: on a full disk that would kill the process instead of raising.

    Attributes:
      length: rows written so far.
    """

    def __init__(self, path: pathlib.Path, dtype: np.dtype, row: tuple[int, ...] = ()) -> None:
        """Starts a file of rows of the given shape; () for a one-dimensional array."""
        self.length = 0
        self._dtype = np.dtype(dtype)
        self._row = row
        self._file: io.BufferedWriter = path.open("wb")
        self._header()
        self._start = self._file.tell()

    def write(self, values: np.ndarray) -> None:
        """Appends an array [n, *row]."""
        self._file.write(np.ascontiguousarray(values, self._dtype).data)
        self.length += len(values)

    def _header(self) -> None:
        # numpy pads the header, so that the final number of rows fits in its place.
        shape = (self.length, *self._row)
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)

    def __enter__(self) -> "NpyWriter":
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        with self._file:
            if kind is None:
                self._file.seek(0)
                self._header()
                if self._file.tell() != self._start:
                    raise OSError("the header of a .npy file grew into its data")


def write_ragged(
    folder: pathlib.Path, name: str, dtype: np.dtype, rows: Iterable[np.ndarray]
) -> None:
    """Rows one after the other in NAME.npy; start.npy says where each begins, and the end."""
    start = [0]
    with NpyWriter(folder / f"{name}.npy", dtype) as out:
        for row in rows:
            out.write(row)
            start.append(out.length)
    np.save(folder / "start.npy", np.array(start))


class Ragged:
    """What `write_ragged` wrote, the values memory-mapped."""

    def __init__(self, folder: pathlib.Path, name: str) -> None:
        self.values = np.load(folder / f"{name}.npy", mmap_mode="r")
        self.start = np.load(folder / "start.npy")
        self.lengths = np.diff(self.start)

    def row(self, i: int) -> np.ndarray:
        """One row, whole."""
        return self.values[self.start[i] : self.start[i + 1]]

    def padded(self, rows: np.ndarray, length: int, pad: int) -> tuple[np.ndarray, np.ndarray]:
        """(the first `length` values of these rows, int32[n, length]; where the row has them)."""
        grid = self.start[rows][:, None] + np.arange(length)
        inside = grid < self.start[rows + 1][:, None]
        values = self.values[np.minimum(grid, len(self.values) - 1)]
        return np.where(inside, values, pad).astype(np.int32), inside
