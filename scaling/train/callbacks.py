"""Functions that are called as a run goes on: `track.callbacks` of the config, and the profiler.

A callback of your own is a class or function that the config names ("package.module:Name"); its
parameters are the keys of the entry. What it makes is called with every `Event`, in every process of
the run, and may return numbers for the metrics stream:

    def loudest(threshold: float = 10.0):
        def callback(event):
            if event.kind == "step" and event.values["train/grad_norm"] > threshold:
                return {"loud": 1.0}
        return callback
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax

from scaling import configs
from scaling.experiment import ProfileConfig, TrackConfig

CALLBACKS: dict[str, str] = {}


@dataclasses.dataclass(frozen=True)
class Event:
    """Something that happened in a run.

    Attributes:
      kind: a step whose metrics were read, an evaluation, or the end.
      values: the numbers of it, as in the metrics stream.
      variables: gives the evaluated variables at an evaluation; None otherwise, as the arrays of a
        step have been given to the next one.
    """

    kind: Literal["step", "evaluation", "end"]
    step: int
    values: Mapping[str, Any]
    workdir: pathlib.Path
    variables: Callable[[], Mapping[str, Any]] | None = None


Callback = Callable[[Event], Mapping[str, float] | None]


def build_callbacks(track: TrackConfig) -> dict[str, Callback]:
    """The callbacks of a resolved section `track`, by name; ConfigError if one cannot be called."""
    made: dict[str, Callback] = {}
    for name, entry in (track.callbacks or {}).items():
        made[name] = configs.build(entry, "scaling.train.callbacks:CALLBACKS")
        if not callable(made[name]):
            raise configs.ConfigError(
                f"track.callbacks.{name}",
                f"{entry.name} made {type(made[name]).__name__}, which cannot be called",
                "return a function of one event",
            )
    if track.profile is not None:
        made["profile"] = Profile(track.profile)
    return made


class Profile:
    """Traces a window of steps with `jax.profiler` into `profile/` of the run directory."""

    def __init__(self, config: ProfileConfig) -> None:
        self._config, self._seen, self._running = config, 0, False

    def __call__(self, event: Event) -> None:
        """Starts and ends the trace."""
        self._seen += event.kind == "step"
        first, last = self._config.start, self._config.start + self._config.steps
        if event.kind == "step" and self._seen == first:
            jax.profiler.start_trace(str(event.workdir / "profile"))
            self._running = True
        elif self._running and (self._seen >= last or event.kind == "end"):
            jax.profiler.stop_trace()
            self._running = False
