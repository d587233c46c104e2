"""What was compiled, whether the disk cache had it, and why a warm program was compiled again.

JAX tells of each compile through `jax.monitoring`: a duration event names the program, and an event
before it says whether the persistent cache had the executable. A second launch that finds
everything in the cache therefore counts requests, but no compile.
"""

import contextlib
import dataclasses
import threading
from collections.abc import Mapping
from typing import Any

import jax

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


class CompileLog:
    """Records every compile request from its construction until `close`."""

    def __init__(self) -> None:
        self.events: list[Compile] = []
        self._hit = threading.local()
        jax.monitoring.register_event_listener(self._on_event)
        jax.monitoring.register_event_duration_secs_listener(self._on_duration)

    def _on_event(self, event: str, **_: Any) -> None:
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

    def close(self) -> None:
        """Stops listening; may be called twice."""
        # The assertion is JAX's way to say that it does not know the listener (any more).
        with contextlib.suppress(AssertionError, ValueError):
            jax.monitoring.unregister_event_listener(self._on_event)
        with contextlib.suppress(AssertionError, ValueError):
            jax.monitoring.unregister_event_duration_listener(self._on_duration)

    def __enter__(self) -> "CompileLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RecompileWatch:
    """Says when one program that should be warm is compiled again, and what changed.

    watch = RecompileWatch(log, "jit_step")
    for batch in batches:
        state, metrics = step(state, batch)
        if told := watch.after(state, batch): print(told)
    """

    def __init__(self, log: CompileLog, name: str) -> None:
        """Watches the program with `name` in its name; its first compile is the warm-up."""
        self._log, self._name = log, name
        self._count = 0
        self._signature: dict[str, str] | None = None

    def after(self, *arguments: Any) -> str | None:
        """Call it after each call of the program, with arguments like the ones passed.

        Costs nothing but a comparison when nothing was compiled; donated arrays will do.

        Returns:
          A sentence about an unexpected compile, else None.
        """
        count = self._log.count(self._name)
        if count == self._count and self._signature is not None:
            return None
        new, old = signature(arguments), self._signature
        compiled, self._count, self._signature = count - self._count, count, new
        if old is None or not compiled:
            return None
        seconds = sum(e.seconds for e in self._log.matching(self._name)[-compiled:])
        changes = changed(old, new)
        why = "; ".join(changes[:8]) or (
            "no shape, dtype or sharding differs: another device, a changed jax.config value, a "
            "static argument, or a function made anew for each call"
        )
        return f"{self._name} was compiled again ({seconds:.1f} s): {why}"


def signature(tree: Any) -> dict[str, str]:
    """What jit sees of each argument: {path: dtype, shape, weak type, sharding}."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): _describe(leaf) for path, leaf in leaves}


def _describe(leaf: Any) -> str:
    if not hasattr(leaf, "dtype"):
        return f"{type(leaf).__name__} {leaf!r}"
    text = f"{leaf.dtype}{list(leaf.shape)}"
    if getattr(leaf, "weak_type", False):
        text += " (weak type)"
    sharding = getattr(leaf, "sharding", None)
    return text if sharding is None else f"{text} {getattr(sharding, 'spec', sharding)}"


def changed(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Differences of two signatures, one line each."""
    lines = [f"{k}: {old[k]} -> {new[k]}" for k in new if k in old and old[k] != new[k]]
    lines += [f"{k}: new, {new[k]}" for k in new if k not in old]
    return lines + [f"{k}: gone, was {old[k]}" for k in old if k not in new]
