"""What the members of a population may differ in, read off their configs. Imports no JAX.

The program of a population takes some numbers as arrays and never sees others; everything else is
compiled in, and members must have it in common. Numbers that are absent (None) or switched off (a
zero of the task's) change the program, so they count as compiled in.
"""

import hashlib
import json
from typing import Any

from scaling import configs
from scaling.configs import dump
from scaling.configs.component import marked
from scaling.configs.types import PerMember, RuntimeNumber
from scaling.experiment import Experiment
from scaling.parallel.axes import axes_with


def numbers(config: Experiment) -> dict[str, float]:
    """What the program of a population takes as arrays: {name: this config's value}."""
    return {name: value for name, (_, value) in _numbers(config).items()}


def _numbers(config: Experiment) -> dict[str, tuple[str, float]]:
    """{name of a run-time number: (its path in the config, its value)}."""
    values = _floats("optim", config.optim, "")
    for name, entry in (config.optim.get("groups") or {}).items():
        values |= _floats(f"optim.groups.{name}.optimizer", entry.optimizer, f"{name}.")
    path, section = "task", config.task
    while section is not None:
        for key in marked(configs.component(section, "scaling.tasks:TASKS"), RuntimeNumber):
            value = section.get(key)
            if isinstance(value, float) and value and key not in values:
                values[key] = (f"{path}.{key}", value)
        path, section = f"{path}.over", section.get("over")
    return values


def _floats(path: str, section: Any, prefix: str) -> dict[str, tuple[str, float]]:
    return {
        prefix + key: (f"{path}.{key}", value)
        for key, value in section.items()
        if isinstance(value, float)
    }


def common(config: Experiment) -> dict[str, Any]:
    """The config as nested dictionaries, of what members must have in common."""
    plain = json.loads(configs.to_json(dump.without(config, PerMember)))
    for path, _ in _numbers(config).values():
        section, last = _section(plain, path)
        section[last] = "an array"
    return plain


def _section(plain: dict[str, Any], path: str) -> tuple[dict[str, Any], str]:
    *parents, last = path.split(".")
    section: Any = plain
    for part in parents:
        section = section.get(part) or {}
    return section, last


def initial(config: Experiment) -> Any:
    """What the initial parameters depend on beside the seed and what members have in common."""
    return config.model.get("init_scale")


def data_seed(config: Experiment) -> int:
    """The seed of the order of the training data."""
    return config.seed if config.data.seed is None else config.data.seed


def population_key(config: Experiment) -> str:
    """16 hex digits that configs share which may train together.

    A member of a population lives on one device, so a config that splits its model over several
    shares its key with no other.
    """
    shared = common(config)
    if any(getattr(config.mesh, axis) != 1 for axis in axes_with("parameters")):
        shared["alone"] = configs.fingerprint(config)
    text = json.dumps(shared, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
