"""Pairs of examples of two kinds that are of one class: a spoken digit and an image of it."""

import dataclasses
from typing import TypeVar

import numpy as np

from scaling import configs
from scaling.data.errors import DataError
from scaling.data.feistel import derive_key, subkeys
from scaling.data.images import OpenImages
from scaling.data.info import DataContext, DataInfo, Opened, Opens
from scaling.data.loader import WEIGHTS, Batch, Dataset, Spec, spec_of
from scaling.data.sources import SOURCES
from scaling.data.sources.tables import ordered
from scaling.experiment import Source

T = TypeVar("T")
SIDES = ("first", "second")
CLASSES = "name a source of images, labelled text or utterances"


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Every example of one source, with one of another source that is of the same class.

    Images and labelled texts have classes by name; of utterances the text is the class. The partner
    of an example is drawn from its class anew at every place of the run, a function of (data seed,
    place); held-out examples always have the same one. Both sources hold out what they would hold out
    alone, and a partner is from the same side.

    A batch has the keys of both, after "first_" and "second_", and `labels`, the class.

    Attributes:
      first: where an example for each pair comes from.
      second: where partners come from. Classes that `first` does not have are never drawn.
    """

    first: Source
    second: Source

    @property
    def reads(self) -> tuple[str, ...]:
        """Keys of sections `data` and `data.text` that it uses."""
        return tuple(key for side in SIDES for key in getattr(self._source(side), "reads", ()))

    def describe(self, context: DataContext) -> DataInfo:
        """What both say of themselves, as facts "first" and "second"."""
        return _info({side: self._source(side).describe(context) for side in SIDES})

    def open(self, context: DataContext) -> Opened:
        """Training and held-out pairs.

        Raises:
          DataError: a source cannot be read or has no classes, one alone holds examples out, or an
            example has no partner.
        """
        opened = {side: self._source(side).open(context) for side in SIDES}
        parts = {side: {**o.train, **o.evals} for side, o in opened.items()}
        first, second = parts.values()
        if first.keys() != second.keys():
            raise DataError(
                "data.source: one of `first` and `second` holds examples out; name held-out examples of "
                "both or of neither"
            )
        infos = {side: o.info for side, o in opened.items()}
        names = {
            split: [_classes(part[split], infos[side]) for side, part in parts.items()]
            for split in first
        }
        known = ordered(name for of_first, _ in names.values() for name in of_first)
        number = {name: place for place, name in enumerate(known)}
        pairs = {
            split: Paired(
                (first[split], second[split]),
                [np.array([number.get(x, -1) for x in side], np.int32) for side in names[split]],
                known,
                derive_key(context.seed if split == "train" else 0, "pairs"),
            )
            for split in first
        }
        artefacts = {
            f"{side}_{key}": x for side, o in opened.items() for key, x in o.artefacts.items()
        }
        info = dataclasses.replace(_info(infos), num_classes=len(known), class_names=known)
        return Opened(info, {"train": pairs.pop("train")}, pairs, artefacts=artefacts)

    def _source(self, side: str) -> Opens:
        """A side; its datasets have `labels()`, the class of each example, or `texts()`, its name."""
        section = getattr(self, side)
        source = configs.build(section, SOURCES)
        if hasattr(source, "open"):
            return source
        if source.kind != "images":
            raise DataError(
                f"data.source.{side}: {section.name} gives {source.kind}, without classes; {CLASSES}"
            )
        return OpenImages(source, reads=("eval_fraction", "limit"))


class Paired:
    """The examples of a dataset, each with one of another dataset and of its class."""

    def __init__(
        self,
        halves: tuple[Dataset, Dataset],
        classes: list[np.ndarray],
        names: tuple[str, ...],
        key: int,
    ) -> None:
        """Pairs two datasets; DataError if there is no partner of a class.

        Args:
          classes: int32, those of their examples; -1 for one that `names` lacks.
          key: of the draw.
        """
        self._first, self._second = halves
        self._classes, self._key = classes[0], key
        self._by_class = np.argsort(classes[1], kind="stable")
        counts = np.bincount(classes[1] + 1, minlength=len(names) + 1)
        self._counts, self._start = counts[1:], np.cumsum(counts)[:-1]
        alone = np.setdiff1d(self._classes, np.flatnonzero(self._counts))
        if len(alone):
            raise DataError(
                f"data.source.second: has no example of the class {names[alone[0]]!r} for those of "
                "data.source.first; leave the class out, or correct its name"
            )
        self.spec = pair_spec(self._first.spec, self._second.spec)

    def __len__(self) -> int:
        return len(self._first)

    def gather(self, indices: np.ndarray, positions: np.ndarray | None = None) -> Batch:
        """{first_KEY, second_KEY: what both have, labels: int32[n]}."""
        positions = indices if positions is None else positions
        class_n = self._classes[indices]
        draw_n = subkeys(self._key, positions) % self._counts[class_n].astype(np.uint64)
        partners = self._by_class[self._start[class_n] + draw_n.astype(np.int64)]
        first = self._first.gather(indices, positions)
        second = self._second.gather(partners, positions)
        return _side_by_side(first, second) | {"labels": class_n}


def pair_spec(first: Spec, second: Spec) -> Spec:
    """Shapes and dtypes of a pair of examples with these."""
    return _side_by_side(first, second) | spec_of("int32", (), "labels")


def _side_by_side(first: dict[str, T], second: dict[str, T]) -> dict[str, T]:
    """What both have under each key, but the weights, after the name of the side."""
    halves = zip(SIDES, (first, second), strict=True)
    return {f"{side}_{k}": x for side, half in halves for k, x in half.items() if k != WEIGHTS}


def _info(infos: dict[str, DataInfo]) -> DataInfo:
    # Bytes of tokens are for a likelihood of text.
    facts = {
        side: dataclasses.replace(info, token_bytes=None).to_json() for side, info in infos.items()
    }
    spec = pair_spec(infos["first"].spec, infos["second"].spec)
    return DataInfo(kind="pairs", unit="pairs", spec=spec, facts=facts)


def _classes(dataset: Dataset, info: DataInfo) -> list[str]:
    """The name of the class of each example."""
    if hasattr(dataset, "texts"):
        texts: list[str] = dataset.texts()
        return texts
    if not hasattr(dataset, "labels"):
        raise DataError(f"data.source: examples of {info.kind} have no classes; {CLASSES}")
    names = info.class_names or tuple(str(k) for k in range(info.num_classes or 0))
    return [names[label] for label in dataset.labels()]
