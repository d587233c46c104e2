"""`python -m scaling.plan`: know before you pay, and learn afterwards how well you knew.

    argv -> cli.read -> one job of JOBS; without one of their flags, a plan:
    config, topology -> planning.topology -> planning.compile -> planning.report

Exit codes: 0 done (of a plan: it fits); 1 it does not fit, or something failed; 2 bad usage or
config. Needs no accelerator: the TPU compiler comes with the extra `tpu`.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from scaling import cli, configs
from scaling.cli import Option
from scaling.configs import ConfigError
from scaling.planning import doors_forecast, doors_search
from scaling.track import files

EXIT_DOES_NOT_FIT = 1

USAGE = """\
Plan a run, forecast it, and grade the forecast when it is over.

  python -m scaling.plan --config=experiments/llama.py:7b --topology=v5e-256
  python -m scaling.plan --config=experiments/llama.py:70b --topology=v5p:4x8x8 --slices=2
  python -m scaling.plan --config=experiments/quickstart.py --topology=cpu-8 --json=plan.json
  python -m scaling.plan --config=experiments/llama.py:7b --topology=v5e-64 --search
  python -m scaling.plan --config=experiments/llama.py:7b --topology=v5e-256 \\
      --budget=50000h --fit=runs/fit
  python -m scaling.plan --config=experiments/quickstart.py --forecast=runs/fit --workdir=runs/big
  python -m scaling.plan --grade=runs/big
  python -m scaling.plan --scoreboard=runs"""

PLAN_OPTIONS = (
    Option("topology", "v5e-256, v5p-128, v5p:4x4x8, v6e-64, v4-32, v7x-128, cpu-8, gpu.", "NAME"),
    Option("slices", "Slices of that topology, joined by the data-centre network.", "N", "integer"),
    Option("json", "Also write the report as JSON.", "FILE"),
    Option(
        "effort", "Of the compiler: default, or least (quicker, nearly the same program).", "EFFORT"
    ),
    Option("hlo", "Also write the compiled program as text.", "FILE"),
)

OPTIONS = (
    cli.CONFIG,
    cli.WORKDIR,
    *PLAN_OPTIONS,
    *doors_search.OPTIONS,
    *doors_forecast.OPTIONS,
)

# The flag that asks for a job, what it does, and the flags that it understands beside its own.
Job = Callable[[Mapping[str, Any], Sequence[str]], int]
JOBS: dict[str, tuple[Job, tuple[str, ...]]] = {
    "forecast": (
        doors_forecast.run_forecast,
        ("config", "workdir", "law", "at", "count", "flops", "plan", "price"),
    ),
    "grade": (lambda values, _: doors_forecast.run_grade(values), ()),
    "scoreboard": (lambda values, _: doors_forecast.run_scoreboard(values), ()),
    "sweep": (
        lambda values, _: doors_search.run_sweep(target(values), values),
        ("topology", "slices", "jobs", "hardware"),
    ),
    "search": (
        lambda values, overrides: search(values, overrides),
        ("config", "topology", "slices", "json", "compiles", "jobs", "hardware"),
    ),
    # Last: the others take the topology as a flag of theirs.
    "topology": (
        lambda values, overrides: plan(values, overrides),
        ("config", "slices", "json", "hlo", "price", "hardware", "budget", "fit", "effort"),
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """The front door; returns the exit code."""
    return cli.run(door, sys.argv[1:] if argv is None else argv)


def door(argv: Sequence[str]) -> int:
    """Does what the command line says.

    Raises:
      ConfigError: the command line or the config is wrong.
    """
    values, overrides = cli.read(argv, OPTIONS, USAGE)
    asked = [name for name in JOBS if name in values]
    if not asked:
        if "config" in values:
            target(values)  # says which topologies there are
        raise ConfigError(
            "scaling.plan", "nothing was asked for",
            "give one of " + ", ".join(f"--{name}" for name in JOBS),
        )  # fmt: skip
    job, understood = JOBS[asked[0]]
    for name in (*values, *(["config"] if overrides else [])):
        if name not in (asked[0], *understood):
            raise ConfigError(f"--{name}", f"does not go with --{asked[0]}", "leave it out")
    return job(values, overrides)


def load(values: Mapping[str, Any], overrides: Sequence[str]) -> Any:
    """The resolved config that `--config` and the overrides name.

    Raises:
      ConfigError: it is missing or wrong.
    """
    if "config" not in values:
        raise ConfigError("--config", "is required", "write --config=FILE[:ARG]")
    return configs.load_resolved(values["config"], overrides)


def target(values: Mapping[str, Any]) -> Any:
    """The hardware that `--topology` and `--slices` name, with the process made ready for it.

    Raises:
      ConfigError: it is missing, unknown, or its compiler is not installed.
    """
    from scaling.planning import topology

    if "topology" not in values:
        raise ConfigError("--topology", "is required", topology.listing())
    found = topology.parse(values["topology"], values.get("slices", 1))
    topology.prepare(found)
    return found


def dollars(values: Mapping[str, Any]) -> float | None:
    """The price of `--price`.

    Raises:
      ConfigError: it is no positive number.
    """
    if "price" not in values:
        return None
    try:
        price = float(values["price"])
    except ValueError:
        price = -1.0
    if not 0 <= price < float("inf"):
        raise ConfigError("--price", f"{values['price']!r} is no price", "give dollars, as 1.2")
    return price


def plan(values: Mapping[str, Any], overrides: Sequence[str]) -> int:
    """Compiles one config for one target and reports; with a budget, says what it buys."""
    config, hardware = load(values, overrides), target(values)
    price, changes = dollars(values), doors_search.hardware_changes(values)
    if ("budget" in values) != ("fit" in values):
        given, lacking = ("budget", "fit") if "budget" in values else ("fit", "budget")
        raise ConfigError(f"--{lacking}", f"is required with --{given}", "give both")
    from scaling.planning import compile as compiling
    from scaling.planning import cost, report
    from scaling.track import compile_cache

    if hardware.platform != "tpu":
        # A run of the same config, code, compiler and devices on this machine finds the step in the
        # cache that it uses itself, whose key is all of these; anything else it compiles anew.
        note = compile_cache.enable()
        if note:
            print(note, file=sys.stderr)
    effort = values.get("effort", "default")
    if effort not in ("default", "least"):
        raise ConfigError("--effort", f"{effort!r} is none", "give default or least")
    text_path = pathlib.Path(values["hlo"]) if "hlo" in values else None
    found = compiling.compile_plan(config, hardware, text_path, changes, effort)
    paid = cost.cost(found, price)
    print(report.text(found, paid))
    if "json" in values:
        data = compiling.to_json(found)
        data["cost"] = None if paid is None else dataclasses.asdict(paid)
        files.write_json(values["json"], data)
    if "budget" in values:
        return doors_search.run_budget(found, values, price)
    return 0 if found.fits else EXIT_DOES_NOT_FIT


def search(values: Mapping[str, Any], overrides: Sequence[str]) -> int:
    """Searches for the settings that fit and are fastest."""
    return doors_search.run_search(load(values, overrides), target(values), values)


if __name__ == "__main__":
    sys.exit(main())
