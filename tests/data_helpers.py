"""Helpers of the tests of `scaling.data`."""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from scaling import configs
from scaling.experiment import DataConfig, TrainConfig


@dataclasses.dataclass(frozen=True)
class Sections:
    """Those of an experiment that data needs."""

    seed: int = 0
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)


def data_config(batch_size: int = 4, seed: int = 0, **data: Any) -> Any:
    """A resolved config of the sections that data needs."""
    raw = {"seed": seed, "data": data, "train": {"batch_size": batch_size}}
    return configs.resolve(raw, Sections, check=False)


def write_documents(path: pathlib.Path, texts: list[str]) -> pathlib.Path:
    """A .jsonl file of documents."""
    import json

    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def some_texts(count: int, seed: int = 0, size: int = 60) -> list[str]:
    """Different short documents."""
    rng = np.random.default_rng(seed)
    letters = np.array(list("abcdefgh é"))
    lengths = rng.integers(1, size, count)
    return [f"{i}:" + "".join(rng.choice(letters, n)) for i, n in enumerate(lengths)]


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """File permissions count inside, also for root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
