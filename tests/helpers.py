"""Small helpers shared by tests."""

import os
import pathlib
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from scaling import configs
from scaling.data import DataInfo
from scaling.experiment import Experiment
from scaling.tasks.base import Context

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Real data lives beside the checkout, not in it: see the README's section on data for tests.
SHARED = pathlib.Path(os.environ.get("SCALING_SHARED", ROOT.parent / "shared"))


def shared(*parts: str) -> pathlib.Path:
    """Path below the shared data folder; skips the test, with the reason, where it is absent."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        if os.environ.get("CI"):
            raise FileNotFoundError(f"CI must have {path}")
        pytest.skip(f"{path} is not on this machine")
    return path


def quick(cases: Iterable[object], *kept: object) -> list[object]:
    """Cases of a parametrised test: all of them by --slow, by default those that are kept."""
    return [case if case in kept else pytest.param(case, marks=pytest.mark.slow) for case in cases]


def tiny_language_model(**overrides: object) -> Experiment:
    """A resolved config small enough for any test; keys are dotted paths."""
    config = ConfigDict(
        {
            "name": "tiny",
            "task": {"name": "language_model"},
            "data": {
                "source": {"name": "stdlib"},
                "text": {"tokenizer": {"name": "bytes"}, "seq_len": 16},
            },
            "model": {
                "name": "transformer",
                "num_layers": 2,
                "model_dim": 32,
                "num_heads": 4,
                "vocab_size": 64,
            },
            "optim": {
                "name": "adamw",
                "learning_rate": 1e-2,
                "schedule": {"name": "constant", "warmup_steps": 2},
            },
            "train": {"steps": 5, "batch_size": 16},
        }
    )
    return resolved(config, overrides)


def tiny_images(**overrides: object) -> Experiment:
    """The same for images: the CNN with batch statistics."""
    config = ConfigDict(
        {
            "name": "tiny_images",
            "task": {"name": "classification"},
            "data": {"source": {"name": "tfds", "dataset": "mnist"}},
            "model": {"name": "cnn", "channels": (4, 8), "batch_norm_group": 8},
            "optim": {"name": "adamw", "learning_rate": 1e-2, "schedule": {"name": "constant"}},
            "train": {"steps": 5, "batch_size": 32},
        }
    )
    return resolved(config, overrides)


def resolved(config: ConfigDict, overrides: dict[str, object]) -> Experiment:
    """Sets dotted keys, then resolves and validates as the front door does."""
    return configs.resolve(configs.with_values(config, overrides))


TEXT_SPEC = {
    "inputs": ((16,), np.int32),
    "targets": ((16,), np.int32),
    "weights": ((16,), np.float32),
}
IMAGE_SPEC = {
    "images": ((8, 8, 1), np.uint8),
    "labels": ((), np.int32),
    "weights": ((), np.float32),
}
TEXT_INFO = DataInfo("text", "tokens", TEXT_SPEC, vocab_size=64)
IMAGE_INFO = DataInfo(
    "images",
    "examples",
    IMAGE_SPEC,
    num_classes=10,
    class_names=tuple("0123456789"),
    image_shape=(8, 8, 1),
)


def context(train: bool, seed: int = 0) -> Context:
    """A call of a task's functions at step 0."""
    return Context(jax.random.key(seed), jnp.int32(0), train)


def text_batch(seed: int, rows: int = 16) -> dict[str, np.ndarray]:
    """Random tokens with a ragged mask: rows keep different numbers of targets."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 64, (rows, 17), dtype=np.int32)
    lengths = rng.integers(1, 17, rows)
    weights = (np.arange(16) < lengths[:, None]).astype(np.float32)
    return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "weights": weights}


def image_batch(seed: int, rows: int = 32) -> dict[str, np.ndarray]:
    """Random pictures and labels."""
    rng = np.random.default_rng(seed)
    return {
        "images": rng.integers(0, 256, (rows, 8, 8, 1), dtype=np.uint8),
        "labels": rng.integers(0, 10, rows, dtype=np.int32),
        "weights": np.ones(rows, np.float32),
    }
