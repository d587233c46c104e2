"""What a cell will cost, from its config alone: parameters, units, FLOPs, bytes kept."""

import dataclasses
import functools
import math
from typing import Any

from scaling import configs
from scaling.configs import ConfigError

# float32 arrays as large as the parameters that an optimizer keeps, at most (optim/optimizers.py).
SLOTS = {"adamw": 2, "muon": 2, "adafactor": 1, "lion": 1, "sgd": 1}


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one run.

    Attributes:
      params: total parameters.
      unit: "tokens" or "examples".
      units: that the run trains on.
      step_units: units in one step.
      unit_flops: exact FLOPs of one unit, forward and backward.
      flops: exact FLOPs of the run.
      kept_bytes: of the checkpoints that stay, about.
    """

    params: int
    unit: str
    units: int
    step_units: int
    unit_flops: float
    flops: float
    kept_bytes: int


def measure(config: Any) -> Cost:
    """The cost of a resolved config. Builds no parameters and starts no backend.

    Raises:
      ConfigError: data, task and model do not go together, or the model does not say its cost.
    """
    # What a run costs does not depend on its seed or learning rate, and a grid asks often.
    return _measure(configs.to_json(config))


@functools.lru_cache(maxsize=4096)
def _measure(text: str) -> Cost:
    from scaling import data
    from scaling.tasks.base import build_task

    config = configs.from_json(text)
    try:
        task = build_task(config, data.describe(config), "cpu")
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError("model", str(error)) from error
    step_units = config.train.batch_size * task.units_per_example
    units = config.train.steps * step_units
    return Cost(
        params=task.params.total,
        unit=task.unit,
        units=units,
        step_units=step_units,
        unit_flops=task.flops.exact,
        flops=task.flops.exact * units,
        kept_bytes=_kept(config, task.params.total),
    )


def _kept(config: Any, params: int) -> int:
    """Checkpoints that stay, times the state in float32."""
    copies = 1 + SLOTS.get(config.optim.name, 2) + (config.train.ema_decay is not None)
    keep = config.checkpoint
    written = math.ceil(config.train.steps / keep.every) if keep.every else 1
    return 4 * params * copies * min(written, keep.keep_last + keep.keep_best)
