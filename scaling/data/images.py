"""Images: decoded once into arrays on disk, memory-mapped, handed out as bytes.

Batches hold uint8, 0 to 255, and the task turns them into floating point on the device: that is a
quarter of the bytes to send.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Protocol

import numpy as np

from scaling import configs
from scaling.data.cache import Entry, cached, key_of
from scaling.data.documents import split_rows
from scaling.data.errors import DataError
from scaling.data.info import DataContext, DataInfo, Opened
from scaling.data.loader import Classified, Spec, spec_of
from scaling.data.npy import NpyWriter
from scaling.data.sources import SOURCES


class ImageSource(Protocol):
    """Labelled images of one shape."""

    kind: ClassVar[str]

    def describe(self) -> DataInfo:
        """Shape and classes."""
        ...

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(uint8[n, H, W, C], int32[n]) blocks, always in the same order."""
        ...

    def fingerprint(self, cache: pathlib.Path) -> str:
        """Stands for the contents."""
        ...

    def held_out(self) -> "ImageSource | None":
        """The evaluation images that the source names itself, if it does."""
        ...

    def refuse_overlap(self, other: "ImageSource") -> None:
        """Raises DataError if an image is in both sources."""
        ...


def images_of(entry: Entry, rows: np.ndarray | None = None) -> Classified:
    """The images of a cache entry, or those that `rows` lists: {images: uint8[n, H, W, C], labels}."""
    names = ("images", "labels")
    return Classified({n: np.load(entry.path / f"{n}.npy", mmap_mode="r") for n in names}, rows)


def image_spec(shape: tuple[int, ...]) -> Spec:
    """Shapes and dtypes of an example."""
    return spec_of("uint8", tuple(shape), "images") | spec_of("int32", (), "labels")


def image_arrays(source: ImageSource, cache: pathlib.Path) -> Entry:
    """The decoded images of a source, from the cache or made now: `images.npy` (uint8[n, H, W, C]) and
    `labels.npy` (int32[n]).
    """
    shape, _ = source.describe().spec["images"]

    def build(work: pathlib.Path) -> Mapping[str, Any]:
        with (
            NpyWriter(work / "images.npy", np.dtype(np.uint8), shape) as images,
            NpyWriter(work / "labels.npy", np.dtype(np.int32)) as labels,
        ):
            for image_block, label_block in source.blocks():
                images.write(image_block)
                labels.write(label_block)
        if not labels.length:
            raise DataError(f"there is no image in {source}")
        return {"examples": labels.length}

    return cached(cache, f"images-{key_of({'images': source.fingerprint(cache)})}", build)


@dataclasses.dataclass(frozen=True)
class OpenImages:
    """Opens a source of images: those of another are held out, or `data.eval_fraction` of its own."""

    source: ImageSource
    reads: tuple[str, ...] = ("eval_source", "eval_fraction", "limit")

    def describe(self, context: DataContext) -> DataInfo:
        """Shape and classes."""
        return self.source.describe()

    def open(self, context: DataContext) -> Opened:
        """Training and held-out images."""
        section, source, held_out = context.section, self.source, self.source.held_out()
        if section.eval_source is not None:
            held_out = configs.build(section.eval_source, SOURCES)
            if held_out.kind != "images" or held_out.describe().spec != source.describe().spec:
                raise DataError(
                    "data.eval_source: its images differ in kind or shape from those of data.source; "
                    "name one with images of the same shape"
                )
            source.refuse_overlap(held_out)
        entry = image_arrays(source, context.cache)
        fraction = section.eval_fraction if held_out is None else 0.0
        train, held_rows = split_rows(entry.meta["examples"], fraction)
        evals = {}
        if held_out is not None:
            evals = {"eval": images_of(image_arrays(held_out, context.cache))}
        elif fraction:
            evals = {"eval": images_of(entry, held_rows)}
        train_images = images_of(entry, train[: section.limit])
        return Opened(source.describe(), {"train": train_images}, evals)
