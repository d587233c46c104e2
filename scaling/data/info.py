"""What data says of itself, what a source opens into, and what `build` returns."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from scaling.data.loader import Dataset, EvalSet, Loader, Spec, with_weights
from scaling.data.order import Order
from scaling.experiment import DataConfig


@dataclasses.dataclass(frozen=True)
class DataInfo:
    """What a model and a task must know of the data.

    Attributes:
      kind: what an example is: "text", "images", or a word of a source's own.
      unit: what examples are counted in, such as "tokens" or "examples".
      spec: shape and dtype of one training example under each key of a batch.
      eval_specs: the same of held-out splits that differ, by split.
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
      facts: whatever else a task of your own needs to know; plain JSON data.
    """

    kind: str
    unit: str
    spec: Spec
    vocab_size: int | None = None
    token_bytes: np.ndarray | None = dataclasses.field(default=None, repr=False)
    separator: int | None = None
    num_classes: int | None = None
    class_names: tuple[str, ...] | None = None
    image_shape: tuple[int, int, int] | None = None
    entropy_rate: float | None = None
    eval_entropy: float | None = None
    eval_specs: Mapping[str, Spec] = dataclasses.field(default_factory=dict)
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON data, for the run directory."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        fields["spec"] = _spec_to_json(self.spec)
        fields["eval_specs"] = {k: _spec_to_json(spec) for k, spec in self.eval_specs.items()}
        return fields

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "DataInfo":
        """The inverse of `to_json`."""
        given = dict(fields)
        given["spec"] = _spec_from_json(given["spec"])
        given["eval_specs"] = {k: _spec_from_json(s) for k, s in given["eval_specs"].items()}
        if given["token_bytes"] is not None:
            given["token_bytes"] = np.asarray(given["token_bytes"], np.int32)
        for name in ("class_names", "image_shape"):
            given[name] = None if given[name] is None else tuple(given[name])
        return cls(**given)

    def __post_init__(self) -> None:
        object.__setattr__(self, "spec", with_weights(self.spec))


def _spec_to_json(spec: Spec) -> dict[str, Any]:
    return {key: [list(shape), str(np.dtype(dtype))] for key, (shape, dtype) in spec.items()}


def _spec_from_json(spec: Mapping[str, Any]) -> Spec:
    return {key: (tuple(shape), np.dtype(dtype)) for key, (shape, dtype) in spec.items()}


@dataclasses.dataclass(frozen=True)
class DataContext:
    """What a source is given to describe and open itself.

    Attributes:
      section: the resolved config section `data`.
      seed: of the order of the examples.
      batch_size: examples in a global training batch.
      cache: directory for prepared data.
    """

    section: DataConfig
    seed: int
    batch_size: int
    cache: pathlib.Path


@dataclasses.dataclass(frozen=True)
class Opened:
    """What a source opens into.

    Attributes:
      info: what it says of itself, complete.
      train: the examples to train on, by name; one unless they are mixed.
      evals: held-out examples by split; "eval" is the whole of them.
      order: in which training visits the examples; None shuffles them anew in each epoch.
      artefacts: what belongs to a trained model, such as {"tokenizer": ...}; kept in the run
        directory. An artefact has `to_text() -> str` and a class method `from_text`.
      sizes: for the records: numbers of tokens, bytes, documents.
    """

    info: DataInfo
    train: Mapping[str, Dataset]
    evals: Mapping[str, Dataset] = dataclasses.field(default_factory=dict)
    order: Order | None = None
    artefacts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)


class Opens(Protocol):
    """A source that opens itself, or what opens those of a shorter form; see `scaling.data.sources`."""

    def describe(self, context: DataContext) -> DataInfo:
        """Cheap: shapes, units, facts."""
        ...

    def open(self, context: DataContext) -> Opened:
        """Training and held-out examples."""
        ...


@dataclasses.dataclass(frozen=True)
class Data:
    """Data ready to train on.

    Attributes:
      train: the batch of every training step.
      evals: held-out data; `eval` is the whole of it, further names are parts (mixture members).
        Empty when nothing is held out.
      sizes: for the records: numbers of train and eval examples, tokens, bytes, documents.
    """

    info: DataInfo
    train: Loader
    evals: Mapping[str, EvalSet]
    sizes: Mapping[str, int]
    artefacts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
