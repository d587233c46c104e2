"""What the members of a population may differ in, read off their configs. Imports no JAX.

The program of a population takes some numbers as arrays and never sees others; everything else is
compiled in, and members must have it in common. Numbers that are absent (None) or switched off (a
zero of the task's) change the program, so they count as compiled in.
"""

import hashlib
import json
from typing import Any

from scaling import configs

# Numbers of section `task` that the step takes as arrays where they are not zero.
TASK_NUMBERS = ("label_smoothing", "z_loss")
# Sections and keys that the program does not see: settings without effect on the result, what is
# read on the host, and what only the initial parameters depend on.
OUTSIDE = (
    *("name", "seed", "checkpoint", "track", "mesh", "data.seed", "data.prefetch", "data.workers"),
    *("train.diverged_exit", "train.init_from", "train.init_from_map", "model.init_scale"),
)


def numbers(config: Any) -> dict[str, float]:
    """What the program of a population takes as arrays: {name: this config's value}."""
    found = {key: value for key, value in config.optim.items() if isinstance(value, float)}
    for key in TASK_NUMBERS:
        value = config.task.get(key)
        if isinstance(value, float) and value:
            found[key] = value
    return found


def common(config: Any) -> dict[str, Any]:
    """The config as nested dictionaries, of what members must have in common."""
    plain = json.loads(configs.to_json(config))
    for path in OUTSIDE:
        *parents, last = path.split(".")
        section: Any = plain
        for part in parents:
            section = section.get(part) or {}
        section.pop(last, None)
    for key in numbers(config):
        section = plain["task"] if key in TASK_NUMBERS else plain["optim"]
        section[key] = "an array"
    return plain


def initial(config: Any) -> Any:
    """What the initial parameters depend on beside the seed and what members have in common."""
    return config.model.get("init_scale")


def data_seed(config: Any) -> int:
    """The seed of the order of the training data."""
    return config.seed if config.data.seed is None else config.data.seed


def population_key(config: Any) -> str:
    """16 hex digits that configs share which may train together.

    A member of a population lives on one device, so a config that splits its model over several
    shares its key with no other.
    """
    shared = common(config)
    if config.mesh.fsdp != 1 or config.mesh.tensor != 1:
        shared["alone"] = configs.fingerprint(config)
    text = json.dumps(shared, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
