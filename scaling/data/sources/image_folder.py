"""Your own images: one folder for each class, as `ROOT/train/cat/1.jpg`."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np

from scaling.configs.types import LocalPath, PositiveInt
from scaling.data.cache import digest, stamp
from scaling.data.errors import DataError
from scaling.data.images import image_spec
from scaling.data.info import DataInfo
from scaling.track.paths import expand

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")


@dataclasses.dataclass(frozen=True)
class ImageFolder:
    """Images in class folders; classes and files in the order of their names.

    Attributes:
      path: folder with one folder for each class; images may lie deeper in it. Hidden files are left
        out.
      eval_path: the same for held-out images, with the same classes or some of them; None means that
        `data.eval_fraction` of `path` is held out.
      size: (height, width) to which each image is resized (bilinear), whatever its shape; None takes
        that of the first image, and then all must have it.
      mode: `RGB` or `L` (grey).
      classes: names of the folders in the order of their labels; None takes all, by name.
    """

    kind: ClassVar[str] = "images"

    path: LocalPath
    eval_path: LocalPath | None = None
    size: tuple[PositiveInt, PositiveInt] | None = None
    mode: Literal["RGB", "L"] = "RGB"
    classes: tuple[str, ...] | None = None

    def describe(self) -> DataInfo:
        """Image shape and classes."""
        return DataInfo(
            kind="images",
            unit="examples",
            spec=image_spec(self._shape),
            num_classes=len(self._classes),
            class_names=self._classes,
            image_shape=self._shape,
        )

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Each image with its label, class by class."""
        for path, label in self._files:
            image = self._read(path)
            if image.shape != self._shape:
                raise DataError(
                    f"{path} has the shape {list(image.shape)}, and the first image "
                    f"{list(self._shape)}: give data.source.size=(height,width) to resize all"
                )
            yield image[None], np.array([label], np.int32)

    def fingerprint(self, cache: pathlib.Path) -> str:
        """A hash of every file's name, label and `stamp`, and of how it is read.

        Not of the contents: a million files would be read at each start. A copy with new times is
        decoded again, into equal arrays.
        """
        del cache
        try:
            files = [
                [str(path.relative_to(self._root)), label, *stamp(path)]
                for path, label in self._files
            ]
        except OSError as error:
            raise DataError(f"cannot read {error.filename}: {error.strerror}") from error
        return digest([str(self._root.resolve()), files, self._classes, self.size, self.mode])

    def held_out(self) -> "ImageFolder | None":
        """The source of `eval_path`, if any, its labels those of `path`; it may share no file."""
        if self.eval_path is None:
            return None
        height, width, _ = self._shape
        other = dataclasses.replace(
            self, path=self.eval_path, eval_path=None, size=(height, width), classes=self._classes
        )
        self.refuse_overlap(other)
        return other

    def refuse_overlap(self, other: "ImageFolder") -> None:
        """Raises DataError if a file is in both."""
        both = {path.resolve() for path, _ in self._files} & {
            path.resolve() for path, _ in other._files
        }
        if both:
            raise DataError(
                f"{min(both)} is among the images to train on and among those to evaluate on: name "
                "folders that share none"
            )

    @functools.cached_property
    def _shape(self) -> tuple[int, int, int]:
        height, width = self.size or self._read(self._files[0][0]).shape[:2]
        return height, width, 3 if self.mode == "RGB" else 1

    @functools.cached_property
    def _root(self) -> pathlib.Path:
        try:
            root = expand(self.path, "data.source.path")
        except RuntimeError as error:
            raise DataError(str(error)) from error
        if not root.is_dir():
            raise DataError(
                f"{root} is not a folder: data.source.path names one with class folders"
            )
        return root

    @functools.cached_property
    def _classes(self) -> tuple[str, ...]:
        folders = sorted(p.name for p in self._root.iterdir() if p.is_dir() and not _hidden(p))
        if not folders:
            raise DataError(
                f"{self._root} has no class folders: put each class's images in its own"
            )
        strange = sorted(set(folders) - set(self.classes or folders))
        if strange:
            raise DataError(
                f"{self._root / strange[0]} is not one of the classes {', '.join(self.classes or ())}: "
                "move the folder, or name it in data.source.classes"
            )
        return self.classes or tuple(folders)

    @functools.cached_property
    def _files(self) -> list[tuple[pathlib.Path, int]]:
        """Every image with its label, class by class."""
        files = []
        for label, name in enumerate(self._classes):
            paths = sorted(
                path
                for path in (self._root / name).rglob("*")
                if path.is_file() and not _hidden(path)
            )
            for path in paths:
                if path.suffix.lower() not in SUFFIXES:
                    raise DataError(
                        f"{path} is not an image by its name: known are {', '.join(SUFFIXES)}; move it"
                    )
            if not paths and self.classes is None:
                raise DataError(f"{self._root / name} holds no images: fill it or remove it")
            files += [(path, label) for path in paths]
        if not files:
            raise DataError(f"{self._root} holds no images of {', '.join(self._classes)}")
        return files

    def _read(self, path: pathlib.Path) -> np.ndarray:
        """uint8[H, W, C]."""
        from PIL import Image

        try:
            with Image.open(path) as file:
                image = file.convert(self.mode)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise DataError(
                f"{path} cannot be read as an image: {error}. Mend or move it"
            ) from error
        if self.size is not None:
            image = image.resize(self.size[::-1], Image.Resampling.BILINEAR)
        pixels = np.asarray(image, np.uint8)
        return pixels if pixels.ndim == 3 else pixels[..., None]


def _hidden(path: pathlib.Path) -> bool:
    return path.name.startswith(".")
