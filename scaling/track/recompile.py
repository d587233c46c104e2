"""What was compiled, whether the disk cache had it, and why a warm program was compiled again.

JAX tells of each compile through `jax.monitoring`: a duration event names the program, and an event
before it says whether the persistent cache had the executable. A second launch that finds
everything in the cache therefore counts requests, but no compile. Why a function was traced again
JAX says in its log, when `jax_explain_cache_misses` is set.
"""

import contextlib
import dataclasses
import logging
import threading
from typing import Any

import jax

from scaling.track import files

_COMPILE = "/jax/core/compile/backend_compile_duration"
_HIT = "/jax/compilation_cache/cache_hits"


@dataclasses.dataclass(frozen=True)
class Compile:
    """One request for an executable.

    Attributes:
      name: the program, such as `jit_step`.
      seconds: time until the executable was there.
      cached: it came from the persistent cache; nothing was compiled.
    """

    name: str
    seconds: float
    cached: bool


class _Explanations(logging.Handler):
    """Collects what JAX says about functions that it traces again."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text.startswith("TRACING CACHE MISS"):
            self.texts.append("\n".join(text.splitlines()[1:]) or text)


class CompileLog(files.Closing):
    """Records every compile request from its construction until `close`.

    with CompileLog() as log:
        ...  # compile, first steps
        log.warm()
        for batch in batches:
            state, metrics = step(state, batch)
            for text in log.late(): print(text)
    """

    def __init__(self) -> None:
        self.events: list[Compile] = []
        self._told: int | None = None
        self._explanations = _Explanations()
        self._hit = threading.local()
        jax.monitoring.register_event_listener(self._on_event)
        jax.monitoring.register_event_duration_secs_listener(self._on_duration)

    def _on_event(self, event: str, **_: object) -> None:
        if event == _HIT:
            self._hit.value = True

    def _on_duration(self, event: str, duration_secs: float, **details: Any) -> None:
        if event == _COMPILE:
            cached = getattr(self._hit, "value", False)
            self._hit.value = False
            self.events.append(Compile(str(details.get("fun_name", "?")), duration_secs, cached))

    def count(self, name: str | None = None, cached: bool | None = None) -> int:
        """How many requests, of programs with `name` in theirs, from the cache or not."""
        return len(self.matching(name, cached))

    def seconds(self, name: str | None = None) -> float:
        """Seconds spent on those requests."""
        return sum(event.seconds for event in self.matching(name))

    def matching(self, name: str | None = None, cached: bool | None = None) -> list[Compile]:
        """The requests themselves."""
        return [
            event
            for event in self.events
            if (name is None or name in event.name) and (cached is None or event.cached == cached)
        ]

    def warm(self) -> None:
        """From here on no compile is expected; JAX is asked to explain the ones that come."""
        if self._told is None:
            self._explained = bool(jax.config.values["jax_explain_cache_misses"])
            jax.config.update("jax_explain_cache_misses", True)
            logging.getLogger("jax").addHandler(self._explanations)
        self._told = len(self.events)

    def late(self) -> list[str]:
        """One text for each compile since `warm` that was not given before, with what changed.

        Costs a comparison of two numbers when there was none.
        """
        if self._told is None or self._told == len(self.events):
            return []
        new, self._told = self.events[self._told :], len(self.events)
        texts, self._explanations.texts = self._explanations.texts, []
        return [
            f"{event.name} was compiled after warm-up ({event.seconds:.1f} s"
            + (", from the cache)" if event.cached else ")")
            + "".join(f"\n{text}" for text in texts if f"for {_function(event.name)} " in text)
            for event in new
        ]

    def close(self) -> None:
        """Stops listening; may be called twice."""
        if self._told is not None:
            logging.getLogger("jax").removeHandler(self._explanations)
            jax.config.update("jax_explain_cache_misses", self._explained)
            self._told = None
        # The assertion is JAX's way to say that it does not know the listener (any more).
        with contextlib.suppress(AssertionError, ValueError):
            jax.monitoring.unregister_event_listener(self._on_event)
        with contextlib.suppress(AssertionError, ValueError):
            jax.monitoring.unregister_event_duration_listener(self._on_duration)


def _function(program: str) -> str:
    """The function's name in that of its program: `jit(step)` or `jit_step`."""
    return program.removeprefix("jit").strip("_()")
