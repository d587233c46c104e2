"""Where this package keeps what can be made again. Imports neither JAX nor numpy."""

import os
import pathlib


def cache_root() -> pathlib.Path:
    """$SCALING_CACHE, or ~/.cache/scaling; an empty variable counts as none."""
    return pathlib.Path(os.environ.get("SCALING_CACHE") or "~/.cache/scaling").expanduser()


def compile_cache() -> pathlib.Path:
    """$JAX_COMPILATION_CACHE_DIR, or jax/ in the cache."""
    stated = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    return pathlib.Path(stated) if stated else cache_root() / "jax"
