"""What data says of itself, and what `build` returns."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import numpy as np

from scaling.data.loader import EvalSet, Loader, Spec


@dataclasses.dataclass(frozen=True)
class DataInfo:
    """What a model and a task must know of the data.

    Attributes:
      kind: what an example is.
      unit: what examples are counted in.
      spec: shape and dtype of one example under each key of a batch.
      vocab_size: tokens of the vocabulary (text).
      token_bytes: int32[vocab_size], bytes of text that each token stands for, for bits per byte;
        None for images and made-up tokens, and before a trained tokenizer is built.
      separator: the token between documents (text).
      num_classes: labels (images).
      class_names: their names, where the data set has them.
      image_shape: (height, width, channels); values are uint8, 0 to 255.
      entropy_rate: nats per target token that no model can beat in expectation, where it is known.
      eval_entropy: mean loss of the true distribution on the held-out examples themselves, where
        it is known and the data is built. Losses of all models on these examples share its luck,
        so it is what an irreducible loss fitted to them should come to.
    """

    kind: Literal["text", "images"]
    unit: Literal["tokens", "examples"]
    spec: Spec
    vocab_size: int | None = None
    token_bytes: np.ndarray | None = dataclasses.field(default=None, repr=False)
    separator: int | None = None
    num_classes: int | None = None
    class_names: tuple[str, ...] | None = None
    image_shape: tuple[int, int, int] | None = None
    entropy_rate: float | None = None
    eval_entropy: float | None = None


@dataclasses.dataclass(frozen=True)
class Data:
    """Data ready to train on.

    Attributes:
      info: what it says of itself, complete.
      train: the batch of every training step.
      evals: held-out data; `eval` is the whole of it, further names are parts (mixture members).
        Empty when nothing is held out.
      sizes: for the records: numbers of train and eval examples, tokens, bytes, documents.
    """

    info: DataInfo
    train: Loader
    evals: Mapping[str, EvalSet]
    sizes: Mapping[str, int]
