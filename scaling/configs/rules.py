"""Checks across keys and sections. One small function each, listed in `RULES`.

A rule looks only at keys that are there, so that it holds for components of the user's own too: a
model without `num_heads` has no heads to divide. `validate` runs before anything starts.
"""

from collections.abc import Callable
from typing import Any

from scaling.configs import signature
from scaling.configs.dump import get
from scaling.configs.errors import ConfigError

Rule = Callable[[Any], None]


def validate(config: Any) -> None:
    """Hold a resolved config to every rule.

    Raises:
      ConfigError: the first rule that it breaks.
    """
    for rule in all_rules():
        rule(config)


def all_rules() -> list[Rule]:
    """The rules here and those that other packages own."""
    return [*RULES, *(signature.import_from(path) for path in OWNED)]


def one_source_of_data(config: Any) -> None:
    """`data.source` or `data.mixture`, not both and not neither."""
    data = get(config, "data") or {}
    if "source" not in data or "mixture" not in data:
        return
    if data["source"] is None and not data["mixture"]:
        raise ConfigError(
            "data.source",
            "is not given, and data.mixture neither",
            "choose one: --config.data.source=stdlib",
        )
    if data["source"] is not None and data["mixture"]:
        raise ConfigError(
            "data.mixture",
            "and data.source are both given, and only one can be read",
            "drop one: --config.data.source=None or --config.data.mixture=None",
        )


def schedule_fits_run(config: Any) -> None:
    """Warm-up and decay end within the run."""
    steps = get(config, "train.steps")
    schedule = get(config, "optim.schedule")
    if steps is None or not schedule:
        return
    lengths = {part: _schedule_length(schedule, part, steps) for part in ("warmup", "decay")}
    if sum(lengths.values()) > steps:
        shown = " + ".join(f"{part} {count}" for part, count in lengths.items() if count)
        part = max(lengths, key=lambda name: lengths[name])
        key = f"{part}_steps" if schedule.get(f"{part}_steps") is not None else f"{part}_fraction"
        raise ConfigError(
            f"optim.schedule.{key}",
            f"{shown} steps are more than train.steps={steps}",
            "shorten them, or lengthen the run",
        )


def schedule_says_lengths_once(config: Any) -> None:
    """A length in steps wins over the fraction, so a fraction that someone set would be ignored."""
    schedule = get(config, "optim.schedule")
    if not schedule:
        return
    params: dict[str, signature.Param] | None = None
    for part in ("warmup", "decay"):
        steps, fraction = schedule.get(f"{part}_steps"), schedule.get(f"{part}_fraction")
        if steps is None or fraction is None:
            continue
        if params is None:
            table = signature.import_from("scaling.optim:SCHEDULES")
            found = signature.find_component(schedule["name"], table, "optim.schedule.name")
            params = signature.parameters(found)
        if fraction != params[f"{part}_fraction"].default:
            raise ConfigError(
                f"optim.schedule.{part}_fraction",
                f"is {fraction}, and {part}_steps={steps} says otherwise",
                f"drop one of them: --config.optim.schedule.{part}_steps=None",
            )


def evaluations_serve_their_purpose(config: Any) -> None:
    """What compares evaluations needs several of them."""
    every = (get(config, "eval") or {}).get("every")
    if every != 0:
        return
    for key in ("eval.patience", "checkpoint.keep_best"):
        if get(config, key):
            raise ConfigError(
                key,
                f"is {get(config, key)}, and with eval.every=0 there is one evaluation, the last",
                "give --config.eval.every=N",
            )


def the_best_are_evaluated(config: Any) -> None:
    """`checkpoint.keep_best` ranks the checkpoints of steps that are evaluated."""
    every, scored = get(config, "checkpoint.every"), get(config, "eval.every")
    if get(config, "checkpoint.keep_best") and every and scored and every % scored:
        raise ConfigError(
            "checkpoint.keep_best",
            f"ranks checkpoints by their evaluation, and with checkpoint.every={every} and "
            f"eval.every={scored} some have none",
            f"give --config.checkpoint.every={scored} or another multiple of it",
        )


def kept_steps_come(config: Any) -> None:
    """`checkpoint.keep_steps` are steps of the run."""
    steps = get(config, "train.steps")
    late = [step for step in get(config, "checkpoint.keep_steps") or () if steps and step > steps]
    if late:
        raise ConfigError(
            "checkpoint.keep_steps",
            f"{late[0]} is after the last step, train.steps={steps}",
            "drop it, or lengthen the run",
        )


def early_stopping_is_whole(config: Any) -> None:
    """`eval.min_delta` means something only with `eval.patience`."""
    if get(config, "eval.min_delta") and "patience" in config.eval and not config.eval.patience:
        raise ConfigError(
            "eval.min_delta",
            f"is {config.eval.min_delta}, and without eval.patience nothing stops early",
            "give --config.eval.patience=N too, or drop it",
        )


def rollback_has_a_checkpoint(config: Any) -> None:
    """`rollback` returns to a checkpoint of the run, so the run has to write some."""
    if get(config, "train.on_bad_step") == "rollback" and get(config, "checkpoint.every") == 0:
        raise ConfigError(
            "train.on_bad_step",
            "is 'rollback', and with checkpoint.every=0 there is no checkpoint to return to",
            "give --config.checkpoint.every=N, or --config.train.on_bad_step=skip",
        )


def init_from_is_whole(config: Any) -> None:
    """`train.init_from_map` means something only with `train.init_from`."""
    if get(config, "train.init_from_map") and get(config, "train.init_from") is None:
        raise ConfigError(
            "train.init_from_map",
            "is given, and train.init_from is not",
            "give --config.train.init_from=RUN too, or drop the map",
        )


# Rules that stand where their subject is, by path as in the schema.
OWNED = (
    "scaling.models.dims:heads_divide",
    "scaling.parallel.checks:mesh_has_sizes",
    "scaling.parallel.checks:mesh_rules_name_axes",
    "scaling.parallel.checks:batch_divides",
    "scaling.parallel.checks:heads_divide_over_devices",
)

RULES: tuple[Rule, ...] = (
    one_source_of_data,
    schedule_fits_run,
    schedule_says_lengths_once,
    evaluations_serve_their_purpose,
    the_best_are_evaluated,
    kept_steps_come,
    early_stopping_is_whole,
    rollback_has_a_checkpoint,
    init_from_is_whole,
)


def _schedule_length(schedule: Any, part: str, steps: int) -> int:
    """Steps of the warm-up or the decay, stated in steps or as a fraction of the run."""
    stated = schedule.get(f"{part}_steps")
    if stated is not None:
        return int(stated)
    return round((schedule.get(f"{part}_fraction") or 0.0) * steps)
