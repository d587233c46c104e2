"""Writing small files so that a kill at any moment leaves the old text or the new, never a part."""

import hashlib
import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any, Self

_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def encode(value: object) -> Any:
    """`value` as plain JSON types: numpy and JAX scalars become Python numbers; else TypeError.

    JSON has no NaN and no infinities. They are written as the strings "NaN", "Infinity" and
    "-Infinity", which `decode` turns back; every other float round-trips exactly (`repr`).
    """
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if getattr(value, "ndim", None) is not None and hasattr(value, "tolist"):
        return encode(value.tolist())
    if hasattr(value, "item"):  # numpy scalars that are not Python numbers (float32, int64)
        return encode(value.item())
    raise TypeError(f"{value!r} ({type(value).__name__}) cannot be written as JSON")


def decode(value: Any) -> Any:
    """The inverse of `encode` on parsed JSON: the three strings become floats again."""
    if isinstance(value, str):
        return _NOT_FINITE.get(value, value)
    if isinstance(value, dict):
        return {key: decode(item) for key, item in value.items()}
    if isinstance(value, list):
        return [decode(item) for item in value]
    return value


def is_number(value: object) -> bool:
    """Whether it is a single number: Python's, numpy's or JAX's; True and False are none."""
    if isinstance(value, bool):
        return False
    return isinstance(value, int | float) or getattr(value, "ndim", None) == 0


def to_json(value: object, indent: int | None = None) -> str:
    """Strict JSON text of `value`; see `encode` for floats that are not finite."""
    return json.dumps(encode(value), allow_nan=False, indent=indent)


def read_json(path: str | os.PathLike[str]) -> Any:
    """Parsed content of a file written by `write_json`, `decode`d.

    Raises:
      OSError: the file cannot be read.
      ValueError: it is not JSON; the message names the file.
    """
    text = pathlib.Path(path).read_text(encoding="utf-8")
    try:
        return decode(json.loads(text))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); the file is damaged") from error


def sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: str | os.PathLike[str], value: object) -> None:
    """Writes `value` as indented JSON, atomically."""
    write_text(path, to_json(value, indent=2) + "\n")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes UTF-8 text atomically and durably: temporary file, fsync, rename, fsync; makes folders.

    On OSError the old content of `path` is untouched.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: str | os.PathLike[str]) -> None:
    """Makes renames inside a directory survive a power cut (a no-op where that is unsupported)."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


class Closing:
    """A `with` statement over it ends with `close`, which subclasses have."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Makes durable what was written and gives back what is held."""
        raise NotImplementedError
