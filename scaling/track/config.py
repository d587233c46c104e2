"""The fixed config section `track`: what a run tells the world, every key with its default."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from scaling.configs.types import NonNegativeFloat, NonNegativeInt, PositiveInt


@dataclasses.dataclass(frozen=True)
class ProfileConfig:
    """Section `track.profile`: a window of steps that is traced with `jax.profiler`.

    Attributes:
      start: step after which the trace begins, counted from the start of this process.
      steps: how many steps it holds.
    """

    start: PositiveInt = 10
    steps: PositiveInt = 3


@dataclasses.dataclass(frozen=True)
class TrackConfig:
    """Section `track`. Nothing here changes the result of a run.

    Attributes:
      every: steps between lines of metrics.jsonl (train/*, perf/*, optim/*); 0 leaves out all but
        the first and the last.
      progress: `bar` is a live bar, `lines` one plain line an update, `off` nothing; `auto` is the
        bar on a terminal and lines elsewhere.
      progress_seconds: at least this long between two plain lines.
      tensorboard: also write TensorBoard event files into the run directory.
      wandb: also log to Weights & Biases; `offline` needs no network (`wandb sync` sends it later).
      wandb_project: the project there.
      fsync_seconds: metrics reach the disk (fsync) at least this often; they survive a killed
        process in any case, this is for power cuts.
      compile_cache: keep compiled programs on disk, so that a second launch compiles nothing.
      profile: trace some steps into the run directory's `profile/`; None traces nothing.
      callbacks: functions of your own, by name; see `scaling.train.callbacks`.
    """

    every: NonNegativeInt = 10
    progress: Literal["auto", "bar", "lines", "off"] = "auto"
    progress_seconds: NonNegativeFloat = 5.0
    tensorboard: bool = True
    wandb: Literal["off", "offline", "online"] = "off"
    wandb_project: str = "scaling"
    fsync_seconds: NonNegativeFloat = 10.0
    compile_cache: bool = True
    profile: ProfileConfig | None = None
    callbacks: Mapping[str, Any] | None = None
