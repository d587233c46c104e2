"""Evaluations by name: what an entry of `eval.also` runs."""

from scaling.configs import ConfigError, component
from scaling.configs.values import options
from scaling.experiment import EvaluationEntry
from scaling.tasks.base import Evaluation, Task

# Evaluations that a task need not bring itself: functions (task, *, option=default) -> Evaluation.
# The key of a ConfigError that one raises is below the entry: "options.NAME".
EVALUATIONS: dict[str, str] = {
    "adversarial": "scaling.tasks.adversarial:adversarial",
    "frechet": "scaling.train.frechet:frechet",
    "roc": "scaling.tasks.roc:roc",
}


def named(task: Task, entry: EvaluationEntry, name: str) -> Evaluation:
    """The evaluation of an entry of `eval.also`, with its options.

    The entry, or its own name where it names none, says which: one of the task's own evaluations,
    or of `EVALUATIONS`, or "package.module:name".

    Raises:
      ConfigError: there is none of that name, or it takes no such option.
    """
    key, chosen = f"eval.also.{name}", entry.evaluation or name
    if chosen in task.evaluations:
        if entry.options:
            what = f"{chosen!r} belongs to the task and takes none"
            raise ConfigError(f"{key}.options", what, "leave them out; the keys of `task` set it")
        return task.evaluations[chosen]
    if ":" not in chosen and chosen not in EVALUATIONS:
        known = ", ".join([*task.evaluations, *EVALUATIONS])
        what = f"this task has no evaluation {chosen!r}"
        raise ConfigError(f"{key}.evaluation", what, f"it has: {known}")
    make = component({"name": chosen}, EVALUATIONS)
    stated = options(make, entry.options, f"{key}.options")
    try:
        made = make(task, **stated)
    except ConfigError as error:
        raise ConfigError(f"{key}.{error.key}", error.reason, error.remedy) from error
    if not isinstance(made, Evaluation):
        raise ConfigError(
            f"{key}.evaluation",
            f"{chosen} returned {type(made).__name__}",
            "return a tasks.base.Evaluation",
        )
    return made
