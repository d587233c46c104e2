"""Where this package keeps what can be made again. Imports neither JAX nor numpy.

All raise PathError where the stated place cannot be used, see `expand`.
"""

import os
import pathlib

from scaling.configs.errors import RefusedError, local_path


class PathError(RuntimeError):
    """A variable or key names a place that cannot be used."""


def cache_root() -> pathlib.Path:
    """$SCALING_CACHE (`~` is expanded, an empty variable counts as none), or ~/.cache/scaling."""
    return expand(os.environ.get("SCALING_CACHE") or "~/.cache/scaling", "SCALING_CACHE")


def expand(stated: str, name: str) -> pathlib.Path:
    """A folder as somebody stated it, `~` expanded; `name` is the variable or key that sets it.

    Raises:
      PathError: it is a URL, or begins with `~` where there is no home directory.
    """
    try:
        return pathlib.Path(local_path(stated)).expanduser()
    except RefusedError as error:
        raise PathError(f"{name}: {error.reason}; {error.remedy}") from None
    except RuntimeError as error:
        raise PathError(
            f"{name}: {stated} cannot be found, as this user has no home directory; set "
            f"{name} to a folder that can be written to"
        ) from error


def tfds_root() -> pathlib.Path:
    """$TFDS_DATA_DIR, or ~/tensorflow_datasets."""
    return expand(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets", "TFDS_DATA_DIR")


def compile_cache() -> pathlib.Path:
    """$JAX_COMPILATION_CACHE_DIR (`~` is expanded), or jax/ in the cache."""
    stated = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    return expand(stated, "JAX_COMPILATION_CACHE_DIR") if stated else cache_root() / "jax"
