"""Any data set of TensorFlow Datasets by name, read with `as_data_source`: without TensorFlow.

The set must be prepared in the array_record format. A prepared folder is found by its path, so
nothing is asked of the network, and sets whose own code needs TensorFlow can still be read.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from scaling.configs.types import LocalPath
from scaling.data.cache import digest, file_hash
from scaling.data.errors import DataError
from scaling.data.images import image_spec
from scaling.data.info import DataInfo
from scaling.track.paths import expand, tfds_root

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

_BLOCK = 1024  # records a call: one call a record is several times slower


@dataclasses.dataclass(frozen=True)
class Tfds:
    """A prepared set: labelled images if it has images, else text.

    Attributes:
      dataset: `name`, `name/config` or `name:1.0.0`; without a version the newest prepared one.
      split: what to train on; sub-splits such as `train[:90%]` work.
      eval_split: what to evaluate on; None means that `data.eval_fraction` of `split` is held out.
      data_dir: folder of prepared sets; None means $TFDS_DATA_DIR, else ~/tensorflow_datasets.
      download: fetch and prepare the set if it is not there (needs the network, and TensorFlow for
        most of the library's sets).
      feature: the text or image feature; None means `image` or `text`, or the only one there is.
      label: the class label of images; None means `label`, or the only one there is.
    """

    dataset: str
    split: str = "train"
    eval_split: str | None = None
    data_dir: LocalPath | None = None
    download: bool = False
    feature: str | None = None
    label: str | None = None

    @property
    def kind(self) -> str:
        """`images` or `text`."""
        return "images" if self._types[self._feature] == "Image" else "text"

    def describe(self) -> DataInfo:
        """Image shape and classes."""
        features = self._builder.info.features
        shape, label = features[self._feature].shape, features[self._label]
        if None in shape:
            shape = self._records[0][self._feature].shape
        return DataInfo(
            kind="images",
            unit="examples",
            spec=image_spec(shape),
            num_classes=label.num_classes,
            class_names=tuple(label.names) if label.names else None,
            image_shape=tuple(shape),
        )

    def documents(self) -> Iterator[str]:
        """The texts in the order of the records."""
        key = self._feature
        for number, record in enumerate(self._read()):
            text = record[key]
            if isinstance(text, bytes):
                try:
                    text = text.decode()
                except UnicodeDecodeError as error:
                    raise DataError(
                        f"{self._folder}: {key!r} of record {number} of split {self.split!r} is "
                        f"not UTF-8: {error}"
                    ) from error
            yield text

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Each image with its label, in the order of the records."""
        shape = self.describe().image_shape
        for number, record in enumerate(self._read()):
            image = record[self._feature]
            if image.shape != shape or image.dtype != np.uint8:
                raise DataError(
                    f"{self._folder}: record {number} of split {self.split!r} is "
                    f"{image.dtype}{list(image.shape)}, not uint8{list(shape or ())}: images must "
                    "have one shape; prepare a resized set"
                )
            yield image[None], np.array([record[self._label]], np.int32)

    def fingerprint(self, cache: pathlib.Path) -> str:
        """A hash of the record files of the split, and of what is read of them."""
        keys = [self._feature] + ([self._label] if self.kind == "images" else [])
        ranges = [[file_hash(path, cache), start, stop] for path, start, stop in self._ranges()]
        return digest([ranges, keys])

    def held_out(self) -> "Tfds | None":
        """The source of `eval_split`, if any; DataError if the two splits share records."""
        if self.eval_split is None:
            return None
        other = dataclasses.replace(self, split=self.eval_split, eval_split=None)
        self.refuse_overlap(other)
        return other

    def refuse_overlap(self, other: "Tfds") -> None:
        """Raises DataError if a record is in both."""
        for path, start, stop in self._ranges():
            for other_path, other_start, other_stop in other._ranges():
                if path == other_path and start < other_stop and other_start < stop:
                    raise DataError(
                        f"split {self.split!r} of {self.dataset} to train on and {other.split!r} "
                        f"to evaluate on share records of {path.name}: name splits that do not"
                    )

    def _ranges(self) -> list[tuple[pathlib.Path, int, int]]:
        """(file, first record, last record + 1) of the split."""
        ranges = []
        for one in self._split_info.file_instructions:
            taken = one.examples_in_shard - one.skip if one.take == -1 else one.take
            ranges.append((pathlib.Path(one.filename), one.skip, one.skip + taken))
        return ranges

    def _read(self) -> Iterator[dict[str, Any]]:
        records = self._records
        for start in range(0, len(records), _BLOCK):
            try:
                block = records.__getitems__(range(start, min(start + _BLOCK, len(records))))
            except Exception as error:  # array_record and PIL raise many kinds
                raise DataError(
                    f"cannot read records {start} to {start + _BLOCK} of split {self.split!r} in "
                    f"{self._folder}: {error}. Prepare the set again"
                ) from error
            yield from block

    @functools.cached_property
    def _records(self) -> "tfds.core.data_sources.BaseDataSource":
        assert self._split_info.num_examples  # raises where there is no such split
        return self._builder.as_data_source(self.split)

    @property
    def _split_info(self) -> "tfds.core.SplitInfo":
        import tensorflow_datasets as tfds

        splits = self._builder.info.splits
        try:
            info = splits[self.split]
        except (ValueError, KeyError) as error:
            reason = str(error.args[0]).splitlines()[-1]
            raise DataError(
                f"{self.dataset} has no split {self.split!r}: {reason.rstrip('.')}. It has: "
                f"{', '.join(sorted(splits))}; parts of one are train[:90%], train[100:200]"
            ) from error
        if not info.num_examples:
            raise DataError(f"split {self.split!r} of {self.dataset} is empty: choose more of it")
        # The library takes a slice that ends before it begins for a negative number of records, and
        # of -1 for all that there are.
        parts = tfds.core.ReadInstruction.from_spec(self.split).to_absolute(splits)
        if any(p.from_ is not None and p.to is not None and p.to < p.from_ for p in parts):
            raise DataError(
                f"split {self.split!r} of {self.dataset} has a part that ends before it begins: give "
                "the smaller end first"
            )
        return info

    @functools.cached_property
    def _types(self) -> dict[str, str]:
        """What each feature is: Image, Text, ClassLabel or another class of the library."""
        return {name: type(f).__name__ for name, f in self._builder.info.features.items()}

    @functools.cached_property
    def _feature(self) -> str:
        if self.feature is not None:
            if self.feature in self._types:
                return self.feature
            raise DataError(f"{self.dataset} has no feature {self.feature!r}, but {self._names()}")
        images = self._of_type("Image")
        if images:
            return self._choose(images, "image", "feature")
        return self._choose(self._of_type("Text"), "text", "feature")

    @functools.cached_property
    def _label(self) -> str:
        labels = self._of_type("ClassLabel")
        if self.label is not None and self.label not in labels:
            raise DataError(f"{self.dataset} has no class label {self.label!r}, but {labels}")
        return self.label or self._choose(labels, "label", "label")

    def _of_type(self, kind: str) -> list[str]:
        return [name for name, one in self._types.items() if one == kind]

    def _choose(self, names: list[str], usual: str, key: str) -> str:
        if usual in names:
            return usual
        if len(names) != 1:
            raise DataError(
                f"{self.dataset} has {len(names)} features that could be the {usual} "
                f"({self._names()}): name one with data.source.{key}"
            )
        return names[0]

    def _names(self) -> str:
        return ", ".join(f"{name}: {kind}" for name, kind in self._types.items())

    @functools.cached_property
    def _builder(self) -> "tfds.core.DatasetBuilder":
        import tensorflow_datasets as tfds

        folder = self._folder
        try:
            builder = tfds.builder_from_directory(folder)
        except Exception as error:
            raise DataError(f"{folder} is not a readable data set: {error}") from error
        format_name = builder.info.file_format.value
        if format_name != "array_record":
            raise DataError(
                f"{folder} is prepared as {format_name}, which cannot be read at random: prepare "
                "it again with file_format='array_record'"
            )
        return builder

    @functools.cached_property
    def _folder(self) -> pathlib.Path:
        try:
            root = expand(self.data_dir, "data.source.data_dir") if self.data_dir else tfds_root()
        except RuntimeError as error:
            raise DataError(str(error)) from error
        folder = _prepared(root, self.dataset)
        if folder is None and self.download:
            _download(self.dataset, root)
            folder = _prepared(root, self.dataset)
        if folder is None:
            raise DataError(_not_prepared(root, self.dataset))
        return folder


def _prepared(root: pathlib.Path, dataset: str) -> pathlib.Path | None:
    """The folder of a prepared set, of its newest version unless one is named."""
    name, _, version = dataset.partition(":")
    folders = [path.parent for path in (root / name).glob("*/dataset_info.json")]
    if version:
        folders = [folder for folder in folders if folder.name == version]
    numbers = {f: tuple(int(n) for n in f.name.split(".") if n.isdigit()) for f in folders}
    return max(folders, key=numbers.__getitem__, default=None)


def _not_prepared(root: pathlib.Path, dataset: str) -> str:
    files = [*root.glob("*/*/dataset_info.json"), *root.glob("*/*/*/dataset_info.json")]
    there = sorted(str(path.parent.parent.relative_to(root)) for path in files)
    if not root.is_dir():
        holds = "that folder does not exist"
    else:
        holds = f"prepared there: {', '.join(there) or 'nothing'}"
    return (
        f"{dataset} is not prepared in {root} ({holds}). Name another folder with "
        "data.source.data_dir=DIR or TFDS_DATA_DIR=DIR, or set data.source.download=True"
    )


def _download(dataset: str, root: pathlib.Path) -> None:
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(dataset, data_dir=root, file_format="array_record")
        builder.download_and_prepare()
    except Exception as error:  # network, TensorFlow missing, unknown name, checksums
        raise DataError(
            f"{dataset} could not be prepared in {root}: {type(error).__name__}: {error}. Most of "
            "the library's sets need the network and TensorFlow for this step (pip install "
            "tensorflow-cpu), once; copying a prepared folder works too"
        ) from error
