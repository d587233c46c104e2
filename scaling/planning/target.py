"""The run that is forecast, in the variables that laws speak of, from its config alone."""

import dataclasses

from scaling import configs, data
from scaling.experiment import Experiment
from scaling.tasks.base import build_task
from scaling.tasks.flops import ParamCounts


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """A run to come.

    Attributes:
      variables: value by the name under which laws and run tables know it.
      conventions: what each of them counts.
      unit: what it is trained on, such as "tokens".
      objective: the metric that is forecast under the name `loss`; as in summary.json.
      units_per_step: of them in one update.
      steps: updates in the whole run, if it neither stops early nor runs out of data.
      step_flops: model FLOPs of one update, `exact` (all products of matrices, whole attention).
    """

    config: Experiment
    fingerprint: str
    variables: dict[str, float]
    conventions: dict[str, str]
    params: ParamCounts
    unit: str
    objective: str
    units_per_step: int
    steps: int
    step_flops: float


def describe(config: Experiment, count: str = "total", flops: str = "six_nd") -> PlannedRun:
    """What a run of `config` is to a law; allocates nothing and starts no backend.

    `count` and `flops` name the counts of `tasks.flops` that the law's table means by `params`, `flops`.
    """
    task = build_task(config, data.describe(config), "cpu")
    per_step, steps = config.train.batch_size * task.units_per_example, config.train.steps
    units = steps * per_step
    variables = {
        "params": float(getattr(task.params, count)),
        "tokens": float(units),
        "flops": float(getattr(task.flops, flops) * units),
        "steps": float(steps),
        "batch": float(per_step),
    }
    conventions = {
        "params": f"{count} parameters",
        "tokens": f"{task.unit} trained on, repeats included",
        "flops": f"{flops}, forward and backward",
    }
    return PlannedRun(
        config=config,
        fingerprint=configs.fingerprint(config),
        variables=variables,
        conventions=conventions,
        params=task.params,
        unit=task.unit,
        objective=task.objective,
        units_per_step=per_step,
        steps=steps,
        step_flops=task.flops.exact * per_step,
    )
