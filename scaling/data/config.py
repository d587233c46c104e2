"""The fixed config section `data`: every key, its type and its default."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from scaling.configs.types import Ambient, NonNegativeInt, PositiveFloat, PositiveInt, Range

Section = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class MixtureEntry:
    """One data set of a mixture.

    Attributes:
      source: like `data.source`.
      weight: its share of the training examples, relative to the other members' weights.
    """

    source: Section
    weight: PositiveFloat = 1.0


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Section `data`: what is read, how it is cut into examples, and in which order.

    Attributes:
      source: where documents or images come from: `name` is one of `scaling.data.SOURCES`.
      eval_source: where the held-out ones come from. None means the source's own held-out part
        where it names one (`files.eval_paths`, `tfds.eval_split`), else a part of the source
        chosen by `holdout`, which training then never sees.
      tokenizer: how text becomes tokens: `name` is one of `scaling.data.TOKENIZERS`.
      mixture: several text sources in place of `source`: name -> {source, weight}. One of the two
        must be given.
      seq_len: target tokens in an example of text.
      mask_documents: keep attention inside a document: batches also carry `segments` and
        `positions`.
      holdout: how a part of the source is held out. `documents` takes whole documents by a hash
        of their text, so that equal documents fall on one side; `tail` takes the end of a source
        that is one single document (as nanoGPT does); `auto` is `tail` for a source of one
        document and `documents` otherwise.
      eval_fraction: how much is held out, of the documents, characters or images.
      limit: train on only the first `limit` tokens (images: examples) of the training part (in a
        mixture: of each member's), to study repeated data; None for all of it.
      on_end: when every training example was seen: `repeat` with a new permutation, or `stop`.
      seed: seed of the order; None means the experiment's `seed`.
      prefetch: batches made ahead of the step that uses them.
      workers: threads that make them. The batches do not depend on it.
      cache_dir: where prepared data is kept; None means $SCALING_CACHE, else ~/.cache/scaling.
    """

    source: Section | None = None
    eval_source: Section | None = None
    tokenizer: Section = dataclasses.field(default_factory=lambda: {"name": "bytes"})
    mixture: Mapping[str, MixtureEntry] | None = None
    seq_len: PositiveInt = 256
    mask_documents: bool = True
    holdout: Literal["auto", "documents", "tail"] = "auto"
    eval_fraction: Annotated[float, Range(0.0, below=1.0)] = 0.1
    limit: PositiveInt | None = None
    on_end: Literal["repeat", "stop"] = "repeat"
    seed: NonNegativeInt | None = None
    prefetch: Annotated[PositiveInt, Ambient()] = 2
    workers: Annotated[PositiveInt, Ambient()] = 1
    cache_dir: Annotated[str | None, Ambient()] = None
