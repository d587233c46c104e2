"""The persistent compile cache, so that a program is compiled once a machine and not once a launch."""

import contextlib
import os
import pathlib
import zlib
from typing import Any

import jax
import zstandard

from scaling.track import paths

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


def enable() -> str | None:
    """Turns the cache on for every program, however small or quick to compile.

    JAX's own variables (JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS and so on) keep the last word.
    Starts no backend. Call it before the first compile.

    Returns:
      What keeps it from working, such as a directory that cannot be written to, or None. The run
      can go on without.
    """
    try:
        path = paths.compile_cache()
        path.mkdir(parents=True, exist_ok=True)
    except paths.PathError as error:
        return f"no compile cache: {error}"
    except OSError as error:
        return f"no compile cache: {path} cannot be made ({error}); set SCALING_CACHE elsewhere"
    if not os.access(path, os.W_OK):
        return f"no compile cache: {path} cannot be written to; set SCALING_CACHE elsewhere"
    _repair(path)
    jax.config.update("jax_compilation_cache_dir", str(path))
    # By default JAX skips what compiles in under a second: much of a small run.
    for key, value in (("min_compile_time_secs", 0.0), ("min_entry_size_bytes", -1)):
        if f"JAX_PERSISTENT_CACHE_{key.upper()}" not in os.environ:
            jax.config.update(f"jax_persistent_cache_{key}", value)
    return None


def _repair(path: pathlib.Path) -> None:
    """Deletes entries that a kill cut short.

    JAX writes entries in place, warns of a torn one at each launch, compiles, and never replaces
    it. Only what is newer than the last repair is read.
    """
    marker = path / "repaired"
    with contextlib.suppress(OSError):
        last = marker.stat().st_mtime if marker.exists() else 0.0
        entries = [p for p in path.glob("*-cache") if p.stat().st_mtime >= last]
        marker.touch()
        for entry in entries:
            if not _is_whole(entry):
                entry.unlink(missing_ok=True)


def _is_whole(path: pathlib.Path) -> bool:
    """Whether a compressed file reaches the end of its frame."""
    with open(path, "rb") as file:
        zstd = file.read(4) == _ZSTD_MAGIC
        file.seek(0)
        stream: Any = zstandard.ZstdDecompressor() if zstd else zlib
        stream = stream.decompressobj()
        try:
            while not stream.eof and (block := file.read(1 << 20)):
                stream.decompress(block)
        except (zstandard.ZstdError, zlib.error):
            return False
    return stream.eof
