"""What a cell will cost, from its config alone: parameters, units, FLOPs, bytes of checkpoints.

Everything is counted on abstract arrays: no parameters are made and no backend is started.
"""

import dataclasses
import json
import math
from typing import TYPE_CHECKING

from scaling import configs
from scaling.configs import ConfigError

if TYPE_CHECKING:
    from scaling.experiment import Experiment


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
      objective: the metric that stands for the run, column `loss` of the table.
    """

    params: int
    unit: str
    units: int
    step_units: int
    unit_flops: float
    flops: float
    kept_bytes: int
    objective: str = "loss"


_counted: dict[str, Cost] = {}


def measure(config: "Experiment") -> Cost:
    """The cost of a resolved config.

    Raises:
      ConfigError: data, task and model do not go together, or the optimizer does not fit them.
    """
    step, keep, steps = of_one_step(config), config.checkpoint, config.train.steps
    saved = math.ceil(steps / keep.every) if keep.every else 1
    return dataclasses.replace(
        step,
        units=steps * step.step_units,
        flops=step.unit_flops * steps * step.step_units,
        kept_bytes=step.kept_bytes * min(saved, keep.keep_last + keep.keep_best),
    )


def of_one_step(config: "Experiment") -> Cost:
    """The cost of a run of one step with one checkpoint, so `kept_bytes` is the size of its state.

    Counted once for cells that differ in seed, length or rates: a grid has many of those.

    Raises:
      ConfigError: see `measure`.
    """
    plain = json.loads(configs.to_json(config))
    for section in ("name", "seed", "checkpoint", "track", "eval"):
        del plain[section]
    del plain["train"]["steps"]
    plain["optim"] = {k: v for k, v in plain["optim"].items() if not isinstance(v, float)}
    key = json.dumps(plain, sort_keys=True)
    if key not in _counted:
        try:
            _counted[key] = _count(config)
        except ConfigError:
            raise
        except ValueError as error:
            raise ConfigError("model", str(error)) from error
    return _counted[key]


def _count(config: "Experiment") -> Cost:
    import jax

    from scaling import data, parallel
    from scaling.optim.build import build_optimizer
    from scaling.tasks.base import build_task
    from scaling.tasks.keys import abstract_key

    task = build_task(config, data.describe(config), "cpu")
    boxed = jax.eval_shape(task.init, abstract_key())
    names = jax.tree.map(
        lambda x: tuple(x.names) if hasattr(x, "names") else None,
        boxed["params"],
        is_leaf=lambda x: hasattr(x, "names"),
    )
    # The size of the state does not depend on the length: every schedule fits into this one.
    optimizer = build_optimizer(config.optim, 10**9, names)
    variables = parallel.unbox(boxed)
    trained = optimizer.trained(variables["params"])
    state = [variables, jax.eval_shape(optimizer.init, trained)]
    if config.train.ema_decay is not None:
        state.append(trained)
    step_units = config.train.batch_size * task.units_per_example
    return Cost(
        params=task.params.total,
        unit=task.unit,
        units=step_units,
        step_units=step_units,
        unit_flops=task.flops.exact,
        flops=task.flops.exact * step_units,
        kept_bytes=sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state)),
        objective=task.objective,
    )
