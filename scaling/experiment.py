"""The typed tree of a resolved config: every section, every key, every default.

A config file states only what it changes; `scaling.configs.resolve` makes an `Experiment` of it.
Sections marked `Family` name a component (a model, a source, an optimizer): its own signature says
which further keys there are, and they are read as attributes too (`config.model.num_layers`).
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from scaling.configs.component import Component, Family, import_from
from scaling.configs.errors import ConfigError
from scaling.configs.types import (
    AddedLater,
    LocalPath,
    NonNegativeFloat,
    NonNegativeInt,
    NotInFingerprint,
    PerMember,
    PositiveFloat,
    PositiveInt,
    Range,
)

Task = Family("scaling.tasks:TASKS", supplied=("context", "base"))
Model = Annotated[Component, Family("scaling.models:MODELS", supplied=("platform",))]
Source = Annotated[Component, Family("scaling.data:SOURCES")]
Tokenizer = Annotated[Component, Family("scaling.data:TOKENIZERS", default="bytes")]
Rule = Family("scaling.optim:OPTIMIZERS")
Schedule = Annotated[
    Component, Family("scaling.optim:SCHEDULES", supplied=("step", "peak", "total_steps"))
]
Callback = Annotated[Component, Family("scaling.train.callbacks:CALLBACKS")]
AxisSize = Annotated[int, Range(low=-1)]
_BYTES = Component("bytes")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskConfig(Component):
    """Section `task`: what is learned, `name` one of `scaling.tasks.TASKS`.

    Attributes:
      over: the task that this one wraps, for those that wrap one.
    """

    over: Annotated["TaskConfig", Task] | None = None


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """Section `data.text`: how text becomes examples.

    Attributes:
      seq_len: target tokens in an example.
      tokenizer: how text becomes tokens, `name` one of `scaling.data.TOKENIZERS`.
      mask_documents: keep attention inside a document: batches also carry `segments` and
        `positions`.
      holdout: how a part of the source is held out. `documents` takes whole documents by a hash
        of their text, so that equal documents fall on one side; `tail` takes the end of a source
        that is one single document (as nanoGPT does); `auto` is `tail` for a source of one
        document and `documents` otherwise.
      lanes: each row of a batch goes on with the text where the same row of the batch before ended,
        instead of shuffled windows; a model that carries a state (`rnn`) then keeps it from step to
        step, and in evaluation from batch to batch.
    """

    seq_len: PositiveInt = 256
    tokenizer: Tokenizer = _BYTES
    mask_documents: bool = True
    holdout: Literal["auto", "documents", "tail"] = "auto"
    lanes: Annotated[bool, AddedLater()] = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixtureEntry:
    """One data set of a mixture.

    Attributes:
      source: like `data.source`.
      weight: its share of the training examples, relative to the other members' weights.
    """

    source: Source
    weight: PositiveFloat = 1.0


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Section `data`: what is read, how it is cut into examples, and in which order.

    Attributes:
      source: where documents or images come from: `name` is one of `scaling.data.SOURCES`.
      eval_source: where the held-out ones come from. None means the source's own held-out part
        where it names one (`files.eval_paths`, `tfds.eval_split`), else a part of the source
        (`text.holdout` says which of a text), which training then never sees.
      mixture: several text sources in place of `source`: name -> {source, weight}. One of the two
        must be given.
      text: for sources of text.
      eval_fraction: how much is held out, of the documents, characters or images.
      limit: train on only the first `limit` tokens (images: examples) of the training part (in a
        mixture: of each member's), to study repeated data; None for all of it.
      on_end: when every training example was seen: `repeat` with a new permutation, or `stop`.
      seed: seed of the order; None means the experiment's `seed`.
      prefetch: batches made ahead of the step that uses them.
      workers: threads that make them. The batches do not depend on it.
      cache_dir: where prepared data is kept; None means $SCALING_CACHE, else ~/.cache/scaling.
    """

    source: Source | None = None
    eval_source: Source | None = None
    mixture: Mapping[str, MixtureEntry] | None = None
    text: TextConfig = TextConfig()
    eval_fraction: Annotated[float, Range(0.0, below=1.0)] = 0.1
    limit: PositiveInt | None = None
    on_end: Literal["repeat", "stop"] = "repeat"
    seed: Annotated[NonNegativeInt | None, PerMember()] = None
    prefetch: Annotated[PositiveInt, NotInFingerprint(), PerMember()] = 2
    workers: Annotated[PositiveInt, NotInFingerprint(), PerMember()] = 1
    cache_dir: Annotated[LocalPath | None, NotInFingerprint()] = None

    def check(self) -> None:
        """`source` or `mixture`, not both and not neither."""
        if self.source is None and not self.mixture:
            what = "neither data.source nor data.mixture is set"
            raise ConfigError("data.source", what, "choose one: --config.data.source=stdlib")
        if self.source is not None and self.mixture:
            what = "and data.source are both given, and only one can be read"
            remedy = "drop one: --config.data.source=None or --config.data.mixture=None"
            raise ConfigError("data.mixture", what, remedy)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupConfig:
    """One entry of `optim.groups`: parameters that are updated by a rule of their own.

    Attributes:
      optimizer: the rule, with its own hyper-parameters; `frozen` leaves the parameters as they are,
        and no gradient is computed for them.
      schedule: of this group's learning rate; None takes `optim.schedule`.
      match: regular expression that the whole path of a parameter must match, such as
        "discriminator/.*"; None matches every path.
      axes: logical axis names; the parameter must have one of them. Empty matches all.
    """

    optimizer: Annotated[Component, Rule]
    schedule: Schedule | None = None
    match: str | None = None
    axes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimConfig(Component):
    """Section `optim`: the update rule, `name` one of `scaling.optim.OPTIMIZERS`.

    Attributes:
      schedule: of the learning rate, `name` one of `scaling.optim.SCHEDULES`.
      groups: parameters with a rule of their own.
    """

    schedule: Schedule
    groups: Mapping[str, GroupConfig] | None = None


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Section `mesh`: how many devices along each axis, and what goes where.

    Attributes:
      replica: copies of everything across slices.
      data: parts of the batch; -1 takes all devices that the other axes leave.
      fsdp: parts of the batch and of the parameters.
      tensor: parts of heads, hidden units and vocabulary.
      rules: (logical name, mesh axis | tuple of mesh axes | None) pairs that replace or extend
        `parallel.axes.DEFAULT_RULES`.
      shard_bytes: parameters without axis names are split over `fsdp` from this size on.
      large_bytes: arrays of at least this many bytes must not be replicated over a mesh axis that
        could shard them.
      allow_replicated: patterns (as of a shell: `*/head/kernel`) of parameter paths that may stay
        replicated where they do not divide, or however large they are.
    """

    replica: AxisSize = 1
    data: AxisSize = -1
    fsdp: AxisSize = 1
    tensor: AxisSize = 1
    rules: tuple[tuple[str, str | tuple[str, ...] | None], ...] = ()
    shard_bytes: NonNegativeInt = 2**20
    large_bytes: PositiveInt = 64 * 2**20
    allow_replicated: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class InitFrom:
    """One entry of `train.init_from`: another run whose variables start this one.

    Attributes:
      run: run directory or folder of checkpoints. Used only when this run has no checkpoint.
      step: of its checkpoint; None is the newest that is whole.
      weights: which parameters: "evaluated" is the moving average where the source kept one, else
        the parameters; "ema" insists on a moving average.
      collections: which of its collections are taken, such as ("params", "batch_stats"); None takes
        all that this run has too.
      map: (regular expression, replacement) pairs, applied in order to each path there, inside its
        collection ("a/b/kernel"), to give the path here. A path that becomes "frozen:a/b" goes to
        the collection `frozen` of this run; one that becomes empty is left out.
      into: prefix of the paths here, such as "teacher".
    """

    run: LocalPath
    step: NonNegativeInt | None = None
    weights: Literal["evaluated", "params", "ema"] = "evaluated"
    collections: tuple[str, ...] | None = None
    map: tuple[tuple[str, str], ...] = ()
    into: str = ""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Section `train`: how long, how much a step, and what to do when a step goes wrong.

    Attributes:
      steps: optimizer updates in the whole run.
      batch_size: examples (sequences, images) in one update, over all devices.
      accumulate: microbatches that one update is split into; the activations then need
        `1 / accumulate` of the memory. A loss that is a sum over rows does not depend on it;
        dropout, masks and other random draws are made for each microbatch.
      ema_decay: also keep an exponential moving average of the parameters, and evaluate it. The
        decay of update t (from 0) is min(ema_decay, (1 + t) / (10 + t)), so that a run shorter
        than 1 / (1 - ema_decay) steps is not judged by its initial parameters: evaluations of short
        and long runs then stand in one law.
      on_bad_step: what follows a step whose loss or gradient is not finite, or whose gradient
        norm is a spike. The parameters are never touched by such a step. `stop` ends the run
        (status `diverged`), `skip` goes on with the next batch, `rollback` returns to the last
        checkpoint and leaves the bad batch out on the way back.
      spike_factor: a gradient norm above this many times its running average is a spike;
        None means that only non-finite values are bad.
      max_bad_steps: bad steps that a run outlives; the next ends it as diverged, under any policy.
      diverged_exit: exit code of a run that ended as diverged.
      init_from: runs whose variables start this one, by names of your choice; None means the seed.
    """

    steps: PositiveInt = 1000
    batch_size: PositiveInt = 32
    accumulate: PositiveInt = 1
    ema_decay: Annotated[float, Range(0.0, below=1.0)] | None = None
    on_bad_step: Literal["stop", "skip", "rollback"] = "stop"
    spike_factor: Annotated[float, Range(above=1.0)] | None = None
    max_bad_steps: NonNegativeInt = 10
    diverged_exit: Annotated[Literal[0, 1], NotInFingerprint(), PerMember()] = 1
    init_from: Annotated[Mapping[str, InitFrom] | None, PerMember()] = None


@dataclasses.dataclass(frozen=True)
class EvaluationEntry:
    """One entry of `eval.also`: an evaluation that runs beside the task's scoring.

    Attributes:
      evaluation: one of the task's evaluations, `adversarial`, `frechet`, or
        "package.module:function" that makes one of the task; empty takes the name of the entry.
      options: keyword parameters of the function that makes the evaluation.
      split: which held-out examples it runs on.
      every: steps between its runs; None takes `eval.every`, 0 means only after the last step.
      batches: at most so many batches, spread over the split, at the end too; None takes all.
      batch_size: examples per batch; None takes `eval.batch_size`.
    """

    evaluation: str = ""
    options: Annotated[Mapping[str, Any], AddedLater()] = dataclasses.field(default_factory=dict)
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
        the whole split. The evaluation after the last step does not follow it.
      final_units: tokens (of other tasks: examples) that the evaluation after the last step takes,
        in whole batches spread evenly over each held-out split; None takes the whole split. The
        summary holds the loss with its standard error, which says whether they were enough: four
        times the tokens halve it. `python -m scaling.sweep --sweep=FILE --dry_run` shows what the
        whole split would cost; `python -m scaling.main --evaluate=RUN` takes all of it later.
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
    final_units: Annotated[PositiveInt | None, AddedLater()] = None
    batch_size: PositiveInt | None = None
    also: Mapping[str, EvaluationEntry] | None = None
    stop_metric: str | None = None
    stop_mode: Literal["min", "max"] = "min"
    patience: PositiveInt | None = None
    min_delta: NonNegativeFloat = 0.0

    def check(self) -> None:
        """Early stopping is whole: several evaluations to compare, and a patience."""
        if self.every == 0 and self.patience:
            raise _one_evaluation("eval.patience", self.patience)
        if self.min_delta and not self.patience:
            what = f"is {self.min_delta}, and without eval.patience nothing stops early"
            remedy = "give --config.eval.patience=N too, or drop it"
            raise ConfigError("eval.min_delta", what, remedy)


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
    callbacks: Mapping[str, Callback] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """A complete config.

    Attributes:
      name: of the experiment; the config file's own name where the file does not say.
      seed: every random stream of the run derives from it.
      platform: what the run must be on; `auto` takes what there is. Asking for `gpu` or `tpu` and
        coming up on anything else ends the run.
      task: what is learned.
      model: the function that learns it, `name` one of `scaling.models.MODELS`.
    """

    name: Annotated[str, NotInFingerprint(), PerMember()] = "experiment"
    seed: Annotated[NonNegativeInt, PerMember()] = 0
    platform: Annotated[Literal["auto", "cpu", "gpu", "tpu"], NotInFingerprint()] = "auto"
    task: Annotated[TaskConfig, Task]
    model: Model
    data: DataConfig = DataConfig()
    optim: Annotated[OptimConfig, Rule]
    mesh: Annotated[MeshConfig, NotInFingerprint(), PerMember()] = MeshConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    checkpoint: Annotated[CheckpointConfig, NotInFingerprint(), PerMember()] = CheckpointConfig()
    track: Annotated[TrackConfig, NotInFingerprint(), PerMember()] = TrackConfig()

    def check(self) -> None:
        """What sections say of each other; then what other packages hold a config to.

        Raises:
          ConfigError: two keys do not go together.
        """
        steps, saved, scored = self.train.steps, self.checkpoint, self.eval.every
        if saved.keep_best and not scored:
            raise _one_evaluation("checkpoint.keep_best", saved.keep_best)
        if saved.keep_best and saved.every % (scored or 1):
            raise ConfigError(
                "checkpoint.keep_best",
                f"ranks checkpoints by their evaluation, and with checkpoint.every={saved.every} "
                f"and eval.every={scored} some have none",
                f"give --config.checkpoint.every={scored} or another multiple of it",
            )
        late = [step for step in saved.keep_steps if step > steps]
        if late:
            what = f"{late[0]} is after the last step, train.steps={steps}"
            raise ConfigError("checkpoint.keep_steps", what, "drop it, or lengthen the run")
        if self.train.on_bad_step == "rollback" and not saved.every:
            what = "is 'rollback', and with checkpoint.every=0 there is no checkpoint to return to"
            remedy = "give --config.checkpoint.every=N, or --config.train.on_bad_step=skip"
            raise ConfigError("train.on_bad_step", what, remedy)
        for path in CHECKS:
            import_from(path)(self)


# Functions of a whole config that stand where their subject is, by path as in `Family`.
CHECKS = (
    "scaling.models.dims:heads_divide",
    "scaling.optim.schedules:lengths_fit",
    "scaling.parallel.axes:check",
)


def _one_evaluation(key: str, value: int) -> ConfigError:
    what = f"is {value}, and with eval.every=0 there is one evaluation, the last"
    return ConfigError(key, what, "give --config.eval.every=N")
