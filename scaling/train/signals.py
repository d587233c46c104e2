"""Being told to stop: SIGTERM and Ctrl-C end the run at a step boundary with a valid checkpoint."""

import contextlib
import os
import signal
from types import FrameType

EXIT_PREEMPTED = 75  # sysexits' EX_TEMPFAIL: run the same command again


class StopRequest:
    """A flag that signals raise and the loop reads between steps.

    The handler only sets the flag, so a signal in the middle of a save, an evaluation or a compile
    takes effect when that is done. A second Ctrl-C ends the process at once.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        """Catches SIGTERM and SIGINT from now on (main thread only)."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        """Gives the signals back to the handlers before ours."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._previous.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.reason is not None and number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            raise KeyboardInterrupt
        self.reason = name
        # Not print(): the signal may have interrupted another write to the same buffer. And Ctrl-C in
        # `... 2>&1 | tee log` ends the reader too: what cannot be said must not end the run.
        with contextlib.suppress(OSError):
            os.write(2, f"{name}: stopping after this step, then saving\n".encode())
