"""What a cell prints goes into its own log, also when several cells run in one process."""

import contextlib
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence


@contextlib.contextmanager
def into(logs: Sequence[pathlib.Path]) -> Iterator[None]:
    """Sends file descriptors 1 and 2 to the first log; the others become links to it.

    Descriptors and not `sys.stdout`, because compilers and drivers print too.
    """
    logs[0].parent.mkdir(parents=True, exist_ok=True)
    for other in logs[1:]:
        with contextlib.suppress(OSError):
            other.symlink_to(logs[0].name)
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    file = os.open(logs[0], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.dup2(file, 1)
        os.dup2(file, 2)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(saved[0], 1)
        os.dup2(saved[1], 2)
        for descriptor in (*saved, file):
            os.close(descriptor)


def tail(log: pathlib.Path, lines: int = 15) -> str:
    """The last lines of a log; empty when there is none."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 8192))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
