"""Small components of every kind, so that the tests of configs need nothing but configs."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from scaling.configs.component import Component, Family
from scaling.configs.types import (
    NonNegativeFloat,
    NotInFingerprint,
    PositiveFloat,
    PositiveInt,
    Probability,
    Range,
)


@dataclasses.dataclass(frozen=True)
class Guard:
    factor: PositiveFloat = 10.0
    window: PositiveInt = 100


@dataclasses.dataclass(frozen=True)
class Train:
    steps: PositiveInt = 1000
    batch_size: PositiveInt = 32
    accumulate: PositiveInt = 1
    ema: Probability | None = None
    bad: Literal["stop", "skip", "rollback"] = "stop"
    guard: Guard = Guard(factor=5.0)
    second_guard: Guard | None = None
    rename: tuple[tuple[str, str], ...] = ()
    begin: str | None = None
    profile: bool = False
    cache: Annotated[str, NotInFingerprint()] = "here"


@dataclasses.dataclass
class Transformer:
    width: PositiveInt
    vocab_size: int  # external
    num_layers: PositiveInt = 2
    dropout: Annotated[float, Range(0, below=1)] = 0.0
    head_dim: PositiveInt | None = None
    window: tuple[int, int] = (1, 1)
    widths: tuple[int, ...] = ()
    mlp: Literal["gelu", "swiglu"] = "gelu"
    scale: int | float | None = None
    init: Callable[..., Any] = print
    anything: Any = None
    logits_cap: float = float("inf")


@dataclasses.dataclass
class MLP:
    widths: tuple[int, ...] = (128, 128)
    activation: str = "relu"
    vocab_size: int = 0


def adamw(learning_rate: PositiveFloat, b1: Probability = 0.9, b2: Probability = 0.999) -> str:
    return f"adamw {learning_rate} {b1} {b2}"


def lion(
    learning_rate: PositiveFloat, b1: Probability = 0.95, decay: NonNegativeFloat = 0.1
) -> str:
    return f"lion {learning_rate} {b1} {decay}"


def sgd(learning_rate: PositiveFloat = 0.1, momentum: float = 0, *, nesterov: bool = False) -> str:
    return f"sgd {learning_rate} {momentum} {nesterov}"


def constant(step: int, peak: float) -> float:
    return peak


def cosine(step: int, peak: float, warmup: int = 10, final: float = 0.0) -> float:
    return peak * (step < warmup) + final


def files(paths: tuple[str, ...], suffix: str = ".txt") -> None:
    pass


def zipf(exponent: PositiveFloat = 1.0, tokens: int = 1000) -> None:
    pass


@dataclasses.dataclass(frozen=True)
class Mesh:
    data: int = -1


MODELS = {"transformer": "configs.fakes:Transformer", "mlp": "configs.fakes:MLP"}
OPTIMIZERS = {
    "adamw": "configs.fakes:adamw",
    "lion": "configs.fakes:lion",
    "sgd": "configs.fakes:sgd",
}
SCHEDULES = {"constant": "configs.fakes:constant", "cosine": "configs.fakes:cosine"}
SOURCES = {"files": "configs.fakes:files", "zipf": "configs.fakes:zipf"}
Source = Annotated[Component, Family("configs.fakes:SOURCES")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    source: Source
    weight: PositiveFloat = 1.0


@dataclasses.dataclass(frozen=True)
class Data:
    batch: PositiveInt | None = None
    rules: Mapping[str, str] = dataclasses.field(default_factory=lambda: {"embed": "fsdp"})
    source: Source | None = None
    mixture: Mapping[str, Entry] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optim(Component):
    schedule: Annotated[
        Component, Family("configs.fakes:SCHEDULES", supplied=("step", "peak"), default="constant")
    ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tree:
    name: Annotated[str, NotInFingerprint()] = "experiment"
    seed: int = 0
    platform: Annotated[Literal["auto", "cpu"], NotInFingerprint()] = "auto"
    model: Annotated[Component, Family("configs.fakes:MODELS", supplied=("vocab_size",))]
    data: Data = dataclasses.field(default_factory=Data)
    optim: Annotated[Optim, Family("configs.fakes:OPTIMIZERS", default="adamw")]
    mesh: Annotated[Mesh, NotInFingerprint()] = Mesh()
    train: Train = Train()
