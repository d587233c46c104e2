"""The fixed config sections `train`, `eval` and `checkpoint`: every key, its type and its default."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Literal

from scaling.configs.types import (
    Ambient,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    Range,
)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Section `train`: how long, how much a step, and what to do when a step goes wrong.

    Attributes:
      steps: optimizer updates in the whole run.
      batch_size: examples (sequences, images) in one update, over all devices.
      accumulate: microbatches that one update is split into; the activations then need
        `1 / accumulate` of the memory. A loss that is a sum over rows does not depend on it;
        dropout, masks and other random draws are made for each microbatch.
      ema_decay: also keep an exponential moving average of the parameters, and evaluate it.
      on_bad_step: what follows a step whose loss or gradient is not finite, or whose gradient
        norm is a spike. The parameters are never touched by such a step. `stop` ends the run
        (status `diverged`), `skip` goes on with the next batch, `rollback` returns to the last
        checkpoint and leaves the bad batch out on the way back.
      spike_factor: a gradient norm above this many times its running average is a spike;
        None means that only non-finite values are bad.
      max_bad_steps: bad steps that a run outlives; the next ends it as diverged, under any policy.
      diverged_exit: exit code of a run that ended as diverged.
      init_from: run or checkpoint directory whose parameters start this run. Used only when
        this run has no checkpoint of its own.
      init_from_map: (regular expression, replacement) pairs applied to the parameter paths of
        `init_from`.
      audit_bytes: arrays of at least this many bytes must not be replicated over a mesh axis
        that could shard them (see `mesh.waivers`).
    """

    steps: PositiveInt = 1000
    batch_size: PositiveInt = 32
    accumulate: PositiveInt = 1
    ema_decay: Annotated[float, Range(0.0, below=1.0)] | None = None
    on_bad_step: Literal["stop", "skip", "rollback"] = "stop"
    spike_factor: Annotated[float, Range(above=1.0)] | None = None
    max_bad_steps: NonNegativeInt = 10
    diverged_exit: Annotated[Literal[0, 1], Ambient()] = 1
    init_from: str | None = None
    init_from_map: tuple[tuple[str, str], ...] = ()
    audit_bytes: Annotated[PositiveInt, Ambient()] = 64 * 2**20


@dataclasses.dataclass(frozen=True)
class EvaluationEntry:
    """One entry of `eval.also`: an evaluation that runs beside the task's scoring.

    Attributes:
      evaluation: one of the task's evaluations, or "package.module:function" that makes one of the
        task; empty takes the name of the entry.
      split: which held-out examples it runs on.
      every: steps between its runs; None takes `eval.every`, 0 means only after the last step.
      batches: at most so many batches, spread over the split, at the end too; None takes all.
      batch_size: examples per batch; None takes `eval.batch_size`.
    """

    evaluation: str = ""
    split: str = "eval"
    every: NonNegativeInt | None = None
    batches: PositiveInt | None = None
    batch_size: PositiveInt | None = None


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """Section `eval`: scoring held-out examples during the run and at its end.

    Attributes:
      every: steps between evaluations; 0 means only after the last step.
      batches: evaluate on this many batches, spread evenly over the held-out split; None means
        the whole split. The evaluation after the last step always uses the whole split.
      batch_size: examples in a batch; None means `train.batch_size`.
      also: further evaluations, by the name under which their values are reported.
      stop_metric: key of the metric that early stopping and `checkpoint.keep_best` watch; None is
        the task's objective on the split `eval`, such as `eval/loss`.
      stop_mode: whether a smaller (`min`) or a larger (`max`) value is better.
      patience: end the run after this many evaluations without improvement; None never does.
      min_delta: what counts as an improvement.
    """

    every: NonNegativeInt = 0
    batches: PositiveInt | None = None
    batch_size: PositiveInt | None = None
    also: Mapping[str, EvaluationEntry] | None = None
    stop_metric: str | None = None
    stop_mode: Literal["min", "max"] = "min"
    patience: PositiveInt | None = None
    min_delta: NonNegativeFloat = 0.0


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """Section `checkpoint`: what survives a kill.

    Attributes:
      every: steps between checkpoints; 0 means only after the last step (and on SIGTERM).
      keep_last: how many of the newest to keep.
      keep_best: how many of the best by `eval.stop_metric` to keep besides.
      keep_steps: steps that are saved, and kept for good: where other runs branch off.
      asynchronous: write in the background while training goes on.
    """

    every: NonNegativeInt = 500
    keep_last: PositiveInt = 2
    keep_best: NonNegativeInt = 0
    keep_steps: tuple[PositiveInt, ...] = ()
    asynchronous: bool = True
