"""Where this package keeps what can be made again. Imports neither JAX nor numpy."""

import os
import pathlib


def cache_root() -> pathlib.Path:
    """$SCALING_CACHE (`~` is expanded, an empty variable counts as none), or ~/.cache/scaling.

    Raises:
      RuntimeError: there is no home directory to put it in.
    """
    stated = os.environ.get("SCALING_CACHE") or "~/.cache/scaling"
    try:
        return pathlib.Path(stated).expanduser()
    except RuntimeError as error:
        raise RuntimeError(
            f"SCALING_CACHE: {stated} cannot be found, as this user has no home directory; set "
            "SCALING_CACHE to a folder that can be written to"
        ) from error


def compile_cache() -> pathlib.Path:
    """$JAX_COMPILATION_CACHE_DIR, or jax/ in the cache.

    Raises:
      RuntimeError: see `cache_root`.
    """
    stated = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    return pathlib.Path(stated) if stated else cache_root() / "jax"
