"""Writes .npy files piece by piece."""

import io
import pathlib

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
