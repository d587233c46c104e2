"""Optimizers, schedules, and how they become one update with run-time hyper-parameters."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scaling.optim.build import Optimizer, build_optimizer

OPTIMIZERS: dict[str, str] = {
    "adamw": "scaling.optim.optimizers:AdamW",
    "muon": "scaling.optim.optimizers:Muon",
    "adafactor": "scaling.optim.optimizers:Adafactor",
    "lion": "scaling.optim.optimizers:Lion",
    "sgd": "scaling.optim.optimizers:Sgd",
    "frozen": "scaling.optim.optimizers:Frozen",
}

SCHEDULES: dict[str, str] = {
    "constant": "scaling.optim.schedules:constant",
    "cosine": "scaling.optim.schedules:cosine",
    "linear": "scaling.optim.schedules:linear",
    "wsd": "scaling.optim.schedules:wsd",
    "inverse_sqrt": "scaling.optim.schedules:inverse_sqrt",
}

# Parameters that the code supplies, not the config.
EXTERNAL = {"OPTIMIZERS": (), "SCHEDULES": ("step", "peak", "total_steps")}

__all__ = ["EXTERNAL", "OPTIMIZERS", "SCHEDULES", "Optimizer", "build_optimizer"]


def __getattr__(name: str) -> Any:
    if name not in ("Optimizer", "build_optimizer"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("scaling.optim.build"), name)
