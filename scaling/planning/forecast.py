"""forecast.json: what a run will come to, written before it and sealed.

    target (config) + law fit + smaller runs + plan -> quantities with intervals -> RUN/forecast.json

Quantities are `loss`, `step_time`, `tokens_per_second` (or examples), `memory_peak`, `chip_hours`,
`cost`. What nothing speaks for is absent, with the reason under `absent`, never guessed.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from scaling.configs import ConfigError
from scaling.laws.discrepancy import covered, told
from scaling.laws.forecasting import Simulated, distance, simulate
from scaling.laws.law import LawError
from scaling.planning import smaller_runs
from scaling.planning.law_fit import LawFit
from scaling.planning.quantities import Machine, PlanRecord, Quantity
from scaling.planning.target import PlannedRun
from scaling.track import provenance, sealed

VERSION = 1


def build(
    target: PlannedRun,
    law: LawFit,
    at: Mapping[str, float] | None = None,
    plan: PlanRecord | None = None,
    price: float | None = None,
    graded: float = 1.0,
) -> dict[str, Any]:
    """The content of a forecast, not sealed yet.

    Args:
      law: a fitted law whose target is `loss`.
      at: values of variables of the law that a config does not tell.
      plan: what `python -m scaling.plan --json` found for the same config.
      price: money per chip-hour; overrides the plan's.
      graded: factor of earlier graded forecasts on the form's error, `discrepancy.graded_factor`.

    Raises:
      ConfigError: the law needs a variable that neither the config nor `at` gives, is not about
        the loss, or the plan is of another config.
    """
    values = _variables(target, law, dict(at or {}))
    runs = smaller_runs.find(law.runs)
    absent: dict[str, str] = {}
    try:
        simulated = simulate(law.result, values, law.draws, graded)
    except LawError as error:
        raise ConfigError("--forecast", str(error), "see python -m scaling.fit --help") from error
    quantities = {"loss": _loss(target, law, simulated)}
    measured, machine = _machine(target, runs, plan, price, absent)
    quantities |= measured
    return {
        "version": VERSION,
        "created": provenance.now(),
        "name": target.config.name,
        "fingerprint": target.fingerprint,
        "quantities": {name: one.record() for name, one in quantities.items()},
        "absent": absent,
        "variables": values,
        "conventions": target.conventions,
        "unit": target.unit,
        "steps": target.steps,
        "outside": _outside(law, values),
        "form": None if simulated.form is None else dataclasses.asdict(simulated.form),
        "public": None if simulated.form is None else covered(simulated.form.decades),
        "differs": smaller_runs.differences(runs, target),
        "warnings": list(law.result.warnings),
        "machine": dataclasses.asdict(machine),
        "law": law.record(),
        "plan": plan.origin if plan else None,
        "versions": provenance.versions(),
    }


def write(workdir: pathlib.Path, content: Mapping[str, Any]) -> pathlib.Path:
    """Seals a forecast into a run directory.

    Raises:
      ConfigError: the run has started, or the directory cannot be written to.
    """
    path = workdir / sealed.FORECAST
    if (workdir / "provenance.json").exists():
        what = f"{workdir} holds a run that has started: a forecast comes before the run"
        raise ConfigError("--workdir", what, "use another --workdir, and start the run there")
    try:
        sealed.write(path, content)
    except OSError as error:
        raise ConfigError(
            "--workdir", f"{path} cannot be written ({error})", "use another --workdir"
        ) from error
    return path


def _variables(target: PlannedRun, law: LawFit, at: dict[str, float]) -> dict[str, float]:
    """Exactly the variables of the law."""
    declared = law.result.law
    if declared.target.name != "loss":
        what = f"{declared.name} is a law of {declared.target.name}, not of the loss"
        remedy = "fit one whose target is loss (python -m scaling.fit --list)"
        raise ConfigError("--law", what, remedy)
    names = [variable.name for variable in declared.variables]
    known = {**target.variables, **at}
    missing = [name for name in names if name not in known]
    if missing:
        what = f"law {declared.name} needs {', '.join(missing)}, which a config does not tell"
        remedy = "write --at=" + ",".join(f"{name}=VALUE" for name in missing)
        raise ConfigError("--at", what, remedy)
    strange = sorted(set(at) - set(names))
    if strange:
        what = f"{strange[0]} is not a variable of law {declared.name}"
        raise ConfigError("--at", what, f"its variables are {', '.join(names)}")
    return {name: known[name] for name in names}


def _loss(target: PlannedRun, law: LawFit, simulated: Simulated) -> Quantity:
    origin = f"law {law.result.law.name} fitted to {law.result.points} points of {law.runs}"
    unit = target.objective
    if unit == "loss":
        unit = f"nats per {target.unit.removesuffix('s')}"
    return Quantity.from_draws(simulated.value, simulated.runs, law.draws, unit, origin)


def _outside(law: LawFit, values: dict[str, float]) -> dict[str, float]:
    """Factors by which the run leaves the data: variables, 6ND compute, tokens per parameter."""
    factors = distance(law.result, values)
    if {"params", "tokens"} <= set(law.result.ranges) and "compute 6ND" in factors:
        factors["FLOPs"] = factors.pop("compute 6ND")
    return factors


def _machine(
    target: PlannedRun,
    runs: list[smaller_runs.SmallRun],
    plan: PlanRecord | None,
    price: float | None,
    absent: dict[str, str],
) -> tuple[dict[str, Quantity], Machine]:
    """Time, memory and cost; what nothing speaks for goes into `absent` with the reason."""
    quantities, machine = dict[str, Quantity](), Machine()
    if plan is not None:
        plan.check(target.fingerprint)
        quantities, machine = dict(plan.quantities), plan.machine
    if price is not None:
        machine = dataclasses.replace(machine, price=price)
    if "memory_peak" not in quantities:
        absent["memory_peak"] = "no plan was given, and memory of other sizes says little of it"
    if "step_time" not in quantities:
        measured = smaller_runs.step_time(runs, target)
        if isinstance(measured, str):
            absent["step_time"] = measured
        else:
            quantities["step_time"], device = measured
            machine = dataclasses.replace(machine, device=device, chips=device.count)
    follows = _from_step_time(quantities.get("step_time"), target, machine)
    for name in (f"{target.unit}_per_second", "chip_hours", "cost"):
        if name in follows:
            quantities[name] = follows[name]
        elif name == "cost" and "step_time" in quantities:
            absent[name] = "no price was given"
        else:
            absent[name] = "it follows from the step time, which is absent"
    return quantities, machine


def _from_step_time(
    step: Quantity | None, target: PlannedRun, machine: Machine
) -> dict[str, Quantity]:
    """Rate, chip-hours and cost of stepping: compiling, evaluating and saving are left out."""
    if step is None or machine.chips is None:
        return {}
    hours, price = target.steps * machine.chips / 3600, machine.price
    quantities = {
        f"{target.unit}_per_second": step.through(
            lambda t: target.units_per_step / t, f"{target.unit}/s", "from step_time"
        ),
        "chip_hours": step.through(
            lambda t: t * hours, "chip-hours", f"{target.steps} x step_time x {machine.chips} chips"
        ),
    }
    if price is not None:
        quantities["cost"] = step.through(
            lambda t: t * hours * price, machine.currency, f"chip_hours x {price:g}"
        )
    return quantities


def describe(content: Mapping[str, Any]) -> str:
    """A forecast in lines for the terminal."""
    lines = [f"forecast of {content['name']} (run {content['fingerprint']})"]
    low, high = content["quantities"]["loss"]["interval95"]
    lines.append(f"  loss in [{low:.5g}, {high:.5g}] at 95 %")
    lines += [
        f"  {text}" for text in told(content["form"], content["public"], content["law"]["name"])
    ]
    for name, one in content["quantities"].items():
        line = f"  {name:18s} {one['value']:<10.5g} {one['unit']:16s}"
        for level in ("50", "95"):
            ends = one[f"interval{level}"]
            line += f"  {level} % [{ends[0]:.5g}, {ends[1]:.5g}]" if ends else ""
        line += "  range [{:.5g}, {:.5g}]".format(*one["range"]) if "range" in one else ""
        lines += [line, f"  {'':18s} {one['source']}"]
    lines += [f"  {name:18s} absent: {why}" for name, why in content["absent"].items()]
    conventions = {k: v for k, v in content["conventions"].items() if k in content["variables"]}
    lines.append("  the law's " + "; ".join(f"{k}: {v}" for k, v in conventions.items()))
    where = ", ".join(f"{name} x{factor:.3g}" for name, factor in content["outside"].items())
    inside = "  inside the range of the data in every variable"
    lines.append(f"  extrapolates: {where} beyond the data" if where else inside)
    lines += [f"  differs from the smaller runs: {text}" for text in content["differs"]]
    lines += [f"  warning: {text}" for text in content["warnings"]]
    return "\n".join(lines)
