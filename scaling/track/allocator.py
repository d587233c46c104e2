"""glibc's allocator, told to keep what a step frees and to take large buffers in huge pages.

On CPU, XLA takes a step's temporary buffers from malloc at every call and frees them after it. By
default glibc gives them back to the system, which hands out and clears the same pages again at the
next step: a quarter of the processor time of the quickstart (docs/results.md). glibc reads these
settings only when a process starts, so a run on CPU starts itself again, once. And only for the
first thread does it keep buffers above 64 MiB, so that is where programs run (`run_inline`).
"""

import ctypes
import os
import pathlib
import sys

# Buffers below 1 GiB come from the heap; it grows 64 MiB at a time and keeps 2 GiB of freed memory at
# its end at most. The heaps of other threads than the first end at 64 MiB.
TUNABLES = ":".join(
    f"glibc.malloc.{name}={value}"
    for name, value in {
        "hugetlb": 1,
        "mmap_threshold": 1 << 30,
        "trim_threshold": 1 << 31,
        "top_pad": 64 << 20,
    }.items()
)


def chosen() -> str:
    """The environment variable that sets or replaces the allocator of this process, or ""."""
    for name, value in os.environ.items():
        if (
            (name == "GLIBC_TUNABLES" and "glibc.malloc" in value)
            or (name == "LD_PRELOAD" and "malloc" in value)
            or (name.startswith("MALLOC_") and name.endswith("_"))
        ):
            return f"{name}={value}"
    return ""


def restart() -> None:
    """Starts this program again under `TUNABLES`; returns where that is not possible or needed.

    Not needed: the allocator is set already, by the user or by this function. Not possible: another
    C library, or a program that is not ours and only imports us. Has to come before JAX is imported;
    the process keeps its number and its open files.
    """
    if chosen() or not _glibc() or not _ours():
        return
    tunables = ":".join(filter(None, (os.environ.get("GLIBC_TUNABLES"), TUNABLES)))
    sys.stdout.flush()
    sys.stderr.flush()
    arguments = [sys.executable, *sys.orig_argv[1:]]
    os.execve(sys.executable, arguments, os.environ | {"GLIBC_TUNABLES": tunables})


def run_inline() -> None:
    """Has the CPU backend, which must not have started yet, run a program in the calling thread.

    By default JAX hands it to a thread of its own, to prepare the next call meanwhile: 1 ms a step
    here, where a loader's threads prepare the batches.
    """
    import jax

    jax.config.update("jax_cpu_enable_async_dispatch", False)


def describe() -> str:
    """What is in force, for `scaling doctor`."""
    if set_by := chosen():
        return f"as {set_by} says"
    return f"glibc; runs on CPU set GLIBC_TUNABLES={TUNABLES}" if _glibc() else "the system's own"


def _glibc() -> bool:
    try:
        return hasattr(ctypes.CDLL(None), "gnu_get_libc_version")
    except (OSError, TypeError):  # Windows has no library without a name
        return False


def _ours() -> bool:
    spec = sys.modules["__main__"].__spec__  # None for a script, as the console command is
    name = spec.name if spec else pathlib.Path(sys.argv[0]).stem
    return name.partition(".")[0] == "scaling"
