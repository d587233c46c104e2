"""The persistent compile cache, so that a program is compiled once a machine and not once a launch."""

import os
import pathlib

import jax


def directory() -> pathlib.Path:
    """$JAX_COMPILATION_CACHE_DIR, else jax/ under $SCALING_CACHE or ~/.cache/scaling."""
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return pathlib.Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
    root = os.environ.get("SCALING_CACHE") or "~/.cache/scaling"
    return pathlib.Path(root).expanduser() / "jax"


def enable() -> str | None:
    """Turns the cache on for every program, however small or quick to compile.

    JAX's own variables (JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS and so on) keep the last word.
    Starts no backend. Call it before the first compile.

    Returns:
      What keeps it from working, such as a directory that cannot be written to, or None. The run
      can go on without.
    """
    path = directory()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"no compile cache: {path} cannot be made ({error}); set SCALING_CACHE elsewhere"
    if not os.access(path, os.W_OK):
        return f"no compile cache: {path} cannot be written to; set SCALING_CACHE elsewhere"
    jax.config.update("jax_compilation_cache_dir", str(path))
    # By default JAX skips what compiles in under a second: much of a small run.
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES" not in os.environ:
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return None
