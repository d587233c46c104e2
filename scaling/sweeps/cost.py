"""What a cell will cost, from its config alone: parameters, units, FLOPs, bytes of checkpoints.

Everything is counted on abstract arrays: no parameters are made and no backend is started.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

from scaling import configs

if TYPE_CHECKING:
    import numpy as np

    from scaling.data.loader import Batch, Spec
    from scaling.experiment import Experiment
    from scaling.tasks.base import Task

HeldOut: TypeAlias = Mapping[str, int]  # held-out examples by split


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one run.

    Attributes:
      unit: "tokens" or "examples".
      units: that the run trains on.
      unit_flops: exact FLOPs of one unit, forward and backward.
      kept_bytes: of the checkpoints that stay, about.
      objective: the metric that stands for the run, column `loss` of the table.
      eval_flops: of all its evaluations (forward, each counted as a pass of the model); None where
        nobody has counted the held-out examples yet.
      whole_flops: the same of one pass over all held-out examples.
    """

    params: int
    unit: str
    units: int
    step_units: int
    unit_flops: float
    flops: float
    kept_bytes: int
    objective: str = "loss"
    eval_flops: float | None = None
    whole_flops: float | None = None


_counted: dict[str, tuple[Cost, "Task"]] = {}


def measure(config: "Experiment", held_out: HeldOut | None = None) -> Cost:
    """The cost of a resolved config; `held_out` says how many examples are, if that is known.

    Raises:
      ConfigError: data, task and model do not go together, or the optimizer does not fit them.
    """
    step, keep, steps = of_one_step(config), config.checkpoint, config.train.steps
    saved = math.ceil(steps / keep.every) if keep.every else 1
    eval_flops = whole_flops = None
    if held_out is not None:
        task = _count(config)[1]
        each = task.flops.forward * task.units_per_example
        eval_flops = each * _evaluated(config, task, held_out)
        whole_flops = each * sum(held_out.values())
    return dataclasses.replace(
        step,
        units=steps * step.step_units,
        flops=step.unit_flops * steps * step.step_units,
        kept_bytes=step.kept_bytes * min(saved, keep.keep_last + keep.keep_best),
        eval_flops=eval_flops,
        whole_flops=whole_flops,
    )


def data_key(config: "Experiment") -> str:
    """Configs that share it hold out the same number of examples."""
    section = configs.plain(config)["data"]
    idle = ("limit", "on_end", "seed", "prefetch", "workers")
    return json.dumps({k: v for k, v in section.items() if k not in idle}, sort_keys=True)


class _Counted:
    """Examples of which only the number is known."""

    def __init__(self, count: int) -> None:
        self.spec: Spec = {}
        self._count = count

    def __len__(self) -> int:
        return self._count

    def gather(self, indices: "np.ndarray", positions: "np.ndarray") -> "Batch":
        raise NotImplementedError("only their number is known")


def _evaluated(config: "Experiment", task: "Task", held_out: HeldOut) -> int:
    """Examples that all evaluations of a run take, padding and repeats included."""
    from scaling.data.loader import EvalSet
    from scaling.train.evaluate import schedule

    sets = {split: EvalSet(_Counted(count)) for split, count in held_out.items()}
    total = 0
    for job in schedule(config, task, sets):
        between = (config.train.steps - 1) // job.every if job.every else 0
        batches = between * len(job.chosen(last=False)) + len(job.chosen(last=True))
        total += batches * job.batch_size
    return total


def of_one_step(config: "Experiment") -> Cost:
    """The cost of a run of one step with one checkpoint, so `kept_bytes` is the size of its state.

    Counted once for cells that differ in seed, length or rates: a grid has many of those.
    """
    return _count(config)[0]


def _count(config: "Experiment") -> tuple[Cost, "Task"]:
    plain = json.loads(configs.to_json(config))
    for section in ("name", "seed", "checkpoint", "track", "eval"):
        del plain[section]
    del plain["train"]["steps"]
    plain["optim"] = {k: v for k, v in plain["optim"].items() if not isinstance(v, float)}
    key = json.dumps(plain, sort_keys=True)
    if key not in _counted:
        _counted[key] = _of_shapes(config)
    return _counted[key]


def _of_shapes(config: "Experiment") -> tuple[Cost, "Task"]:
    import jax

    from scaling import parallel
    from scaling.train.program import build_abstract

    # The size of the state does not depend on the length: every schedule fits into this one.
    task, optimizer = build_abstract(config, 10**9)
    variables = parallel.unbox(task.boxed)
    trained = optimizer.trained(variables["params"])
    state = [variables, jax.eval_shape(optimizer.init, trained)]
    if config.train.ema_decay is not None:
        state.append(trained)
    step_units = config.train.batch_size * task.units_per_example
    cost = Cost(
        params=task.params.total,
        unit=task.unit,
        units=step_units,
        step_units=step_units,
        unit_flops=task.flops.exact,
        flops=task.flops.exact * step_units,
        kept_bytes=sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state)),
        objective=task.objective,
    )
    return cost, task
