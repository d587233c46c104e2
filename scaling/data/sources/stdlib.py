"""Text that every Python install has: the standard library's sources and the `help()` topics.

The default of the quickstart, because it needs no download. It differs between Python versions and
installs, so losses on it compare only on one machine.
"""

import dataclasses
import functools
import hashlib
import logging
import os
import pathlib
import sysconfig
import tokenize
from collections.abc import Iterator

from scaling.configs.types import PositiveInt
from scaling.data.documents import TextSource
from scaling.data.errors import DataError

_LOG = logging.getLogger(__name__)

# Not part of every install (distributions split them off), or not text that a person wrote.
_LEFT_OUT = (
    *("__pycache__", "site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3"),
    *("turtledemo", "ensurepip", "pydoc_data"),
)


@dataclasses.dataclass(frozen=True)
class Stdlib(TextSource):
    """The `help()` topics and the .py files of the standard library, one document each.

    Attributes:
      max_bytes: about how much text to take (the whole is about 10 MB). Files are chosen by a hash
        of their names, so that a smaller corpus is a subset of a larger one.
    """

    max_bytes: PositiveInt = 4_000_000

    def documents(self) -> Iterator[str]:
        """Topics in the order of their names, then files in the order of their paths."""
        yield from self._chosen

    def fingerprint(self, cache: pathlib.Path) -> str:
        """A hash of the text itself; the cache is not needed."""
        digest = hashlib.sha256()
        for text in self._chosen:
            digest.update(f"{len(text)}:".encode())
            digest.update(text.encode())
        return digest.hexdigest()

    @functools.cached_property
    def _chosen(self) -> tuple[str, ...]:
        names = {f"topics/{name}": text for name, text in _topics().items()}
        root = pathlib.Path(sysconfig.get_path("stdlib"))
        for folder, below, files in os.walk(root, followlinks=True):
            below[:] = [name for name in below if name not in _LEFT_OUT]
            for path in (pathlib.Path(folder, name) for name in files if name.endswith(".py")):
                if text := _read(path):
                    names[f"lib/{path.relative_to(root).as_posix()}"] = text
        if not names:
            raise DataError(
                f"this Python has no standard library text under {root}: name your own files with "
                "data.source={'name': 'files', 'paths': (...)}"
            )
        taken: dict[str, str] = {}
        total = 0
        for name in sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest()):
            if total and total + len(names[name]) > self.max_bytes:
                break
            taken[name] = names[name]
            total += len(names[name])
        return tuple(taken[name] for name in sorted(taken, key=lambda n: (n[:4] == "lib/", n)))


def _topics() -> dict[str, str]:
    try:
        from pydoc_data import topics
    except ImportError:  # split off by some distributions
        _LOG.info("this Python has no pydoc_data.topics: taking the .py files alone")
        return {}
    return dict(topics.topics)


def _read(path: pathlib.Path) -> str:
    """The text of a source file in the encoding that it declares; "" if it does not keep to it."""
    try:
        with tokenize.open(path) as file:
            return file.read()
    except (SyntaxError, UnicodeDecodeError, OSError) as error:
        _LOG.warning("left out %s: %s", path, error)
        return ""
