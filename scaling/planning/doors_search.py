"""Doors of `python -m scaling.plan` that compile more than one config, and the numbers they share.

--config=X --topology=T --search            the fastest mesh, microbatch and remat that fit
--config=X --topology=T --budget=1000h --fit=FIT   what size to train, on how many tokens
--sweep=FILE --topology=T                   every cell of a sweep: which fit, and what would help
"""

import math
import pathlib
from collections.abc import Mapping
from typing import Any

from scaling import configs
from scaling.cli import Option
from scaling.configs import ConfigError
from scaling.track import files
from scaling.track.paths import cache_root

GiB = 2**30
RATES = ("flops", "bandwidth", "link", "memory", "usable")

OPTIONS = (
    Option("search", "Find mesh, microbatch and remat that fit and are fastest by the estimate."),
    Option("compiles", "With --search: compile at most so many candidates (8).", "N", "integer"),
    Option("jobs", "Compiles at a time (1; each takes a core and 1 to 2 GB).", "N", "integer"),
    Option("budget", "What size to train: 1000h (chip-hours) or 50000usd, with --fit.", "BUDGET"),
    Option("fit", "The law for --budget: a fit.json of scaling.fit.", "FIT"),
    Option("sweep", "Plan every cell of a sweep file.", "FILE"),
    Option(
        "hardware",
        "Numbers of a device in place of the table's: flops, bandwidth, link, usable, per second or "
        "bytes.",
        "KEY=VALUE,...",
    ),
)


def hardware_changes(values: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of `--hardware`.

    Raises:
      ConfigError: an unknown key or no number.
    """
    found: dict[str, float] = {}
    for part in filter(None, (values.get("hardware") or "").split(",")):
        key, _, text = part.partition("=")
        if key not in RATES:
            raise ConfigError("--hardware", f"{key!r} is no number of a device", f"give {RATES}")
        try:
            found[key] = float(text)
        except ValueError:
            raise ConfigError("--hardware", f"{part!r} is no number", "write flops=1e15") from None
        if not 0 < found[key] < math.inf:
            raise ConfigError("--hardware", f"{part} makes no sense", "give positive numbers")
    return found


def cache_folder() -> pathlib.Path:
    """Where reports of compiles are kept: plans/ in the cache."""
    return cache_root() / "plans"


def run_search(config: Any, target: Any, values: Mapping[str, Any]) -> int:
    """Searches and prints what it tried and the lines to paste; 0 if something fits, else 1."""
    from scaling.planning import report
    from scaling.planning import search as searching

    limit, rates = device_numbers(target, hardware_changes(values))
    found = searching.search(
        config,
        target,
        limit=limit,
        rates=rates,
        most=_positive(values, "compiles", 8),
        jobs=_positive(values, "jobs", 1),
        cache=cache_folder(),
        numbers=values.get("hardware") or "",
        say=lambda line: print(line, flush=True),
    )
    rows = [(one.candidate.label(), *cells(one)) for one in found.tried]
    header = ("settings", "peak GiB", "FLOPs/model", "step s, low", "high", "wire GB")
    print("\n" + report.table(header, rows))
    print(f"{found.pruned} could not fit by the closed form, {found.left} were not compiled")
    if found.best is None:
        print("nothing fits: take more chips, a smaller batch or a smaller model")
    else:
        print("\nfastest that fits, by the estimate:")
        print("\n".join("  " + line for line in found.best.candidate.lines()))
    if "json" in values:
        data = {
            "best": found.best.candidate.changes if found.best else None,
            "tried": [
                {"changes": one.candidate.changes, "report": one.report, "error": one.error}
                for one in found.tried
            ],
            "pruned": found.pruned,
            "left": found.left,
        }
        files.write_json(values["json"], data)
    return 0 if found.best else 1


def cells(one: Any) -> tuple[str, ...]:
    """Peak, FLOP ratio, step time and wire bytes of a compiled candidate, as text."""
    report = one.report
    if report is None:
        return ("failed", "", "", "", "")
    if not report["fits"]:
        required = (report.get("overflow") or {}).get("required")
        required = required or (report.get("memory") or {}).get("peak")
        return (f"{required / GiB:.2f} !" if required else "too much", "", "", "", "")
    estimate = report.get("estimate") or {}
    wire = sum(traffic["wire_bytes"] for traffic in report["traffic"]) / 1e9
    times = [f"{estimate[end]:.3g}" if estimate else "-" for end in ("low", "high")]
    overhead = f"{report['overhead']:.3f}" if report["overhead"] else "-"
    return (f"{report['memory']['peak'] / GiB:.2f}", overhead, *times, f"{wire:.1f}")


def device_numbers(target: Any, changes: dict[str, float]) -> tuple[float | None, Any]:
    """(bytes that a device may use, peak rates for the closed form) of a target."""
    from scaling.planning import topology
    from scaling.planning.closed_form import Rates
    from scaling.track import hardware

    kind = topology.FAMILIES[target.family].kind if target.family else ""
    if target.platform == "gpu":
        kind = topology.devices(target)[0].device_kind
    device = hardware.override(kind, changes)
    if device is None:
        return changes.get("usable"), Rates()
    link = device.link / 2 if device.link else device.bandwidth / 10
    limit = device.usable or device.memory or None
    return limit, Rates(device.flops, device.bandwidth, link)


def run_sweep(target: Any, values: Mapping[str, Any]) -> int:
    """Plans every cell of a sweep; 0 if all fit, else 1."""
    from scaling.planning import report
    from scaling.planning import search as searching
    from scaling.planning.closed_form import Sketch
    from scaling.sweeps import design

    sweep_cells, warnings = design.cells(design.load_sweep(values["sweep"]))
    for warning in warnings:
        print(warning)
    limit, rates = device_numbers(target, hardware_changes(values))
    chosen = [
        searching.Candidate(dict(cell.axes), cell.config, Sketch(0.0, 0.0)) for cell in sweep_cells
    ]
    jobs = _positive(values, "jobs", 1)
    done = []
    folder = cache_folder()
    numbers = values.get("hardware") or ""
    for one in searching.compile_all(
        chosen, target, jobs=jobs, cache=folder, effort="default", numbers=numbers
    ):
        done.append(one)
        print(f"[{len(done)}/{len(chosen)}] {searching.describe(one)}", flush=True)
    rows = []
    for one in done:
        helps = "" if one.fits else remedy(one.candidate.config, target, limit, rates)
        rows.append((one.candidate.label(), *cells(one), helps))
    header = ("cell", "peak GiB", "FLOPs/model", "step s, low", "high", "wire GB", "would fit with")
    print("\n" + report.table(header, rows))
    return 0 if all(one.fits for one in done) else 1


def remedy(config: Any, target: Any, limit: float | None, rates: Any) -> str:
    """The fastest settings that fit by the closed form, as overrides; not compiled."""
    from scaling.planning import search as searching

    options = searching.candidates(config, target, rates)
    fitting = [one for one in options if limit is None or 1.2 * one.sketch.bytes <= limit]
    if not fitting:
        return "more chips"
    best = min(fitting, key=lambda one: one.sketch.seconds)
    same = {key: configs.get(config, key) for key in best.changes}
    return " ".join(f"{k}={v}" for k, v in best.changes.items() if same[k] != v) or "more chips"


def run_budget(plan: Any, values: Mapping[str, Any], price: float | None) -> int:
    """Prints the model size and tokens that a budget buys, at both ends of the step time.

    Args:
      plan: of a config like the one to train, on the hardware to pay for: gives the FLOP/s.
      values: flags: `budget`, `fit`.
      price: dollars of a chip-hour, if not the table's.
    """
    from scaling.laws import allocation
    from scaling.planning import cost as costs
    from scaling.planning import law_fit, report

    hours = chip_hours(values["budget"], costs.price_of(plan.target, price))
    if plan.estimate is None:
        raise ConfigError(
            "--budget", f"needs the speed of {plan.device_kind}, which is not known",
            "give --hardware=flops=...,bandwidth=...,link=...",
        )  # fmt: skip
    # The law counts FLOPs as its table does, so the rate is of 6 N D: tokens and parameters alone.
    per_step = 6.0 * plan.params * plan.tokens
    seconds = hours * 3600 / plan.target.chips
    budgets = [per_step * seconds / time for time in (plan.estimate.high, plan.estimate.low)]
    law = law_fit.load(values["fit"], None)
    rows = []
    for label, best in zip(
        ("nothing overlapped", "all overlapped"),
        allocation.optimum(law.result, budgets, law.draws),
        strict=True,
    ):
        ranges = best.intervals or {}
        params, tokens, loss = (
            f"{getattr(best, name):.3g} [{ranges[name][0]:.3g}, {ranges[name][1]:.3g}]"
            for name in ("params", "tokens", "loss")
        )
        rows.append((label, f"{best.flops:.3g}", params, tokens, loss, "; ".join(best.warnings)))
    print(f"\n{hours:,.0f} chip-hours of {plan.target.name} under {law.result.law.name}, 95 %:")
    header = ("step time", "FLOPs (6ND)", "parameters", "tokens", "loss", "")
    print(report.table(header, rows))
    return 0


def chip_hours(budget: str, price: Any) -> float:
    """Chip-hours of "1000h" or of "50000usd" at a price.

    Raises:
      ConfigError: it is neither, or money without a price.
    """
    text = budget.lower().replace(",", "").strip()
    for unit in ("usd", "$", "h"):
        if text.endswith(unit):
            try:
                amount = float(text.removesuffix(unit))
            except ValueError:
                break
            if not 0 < amount < math.inf:
                break
            if unit == "h":
                return amount
            if price is None:
                raise ConfigError(
                    "--budget", f"{budget} is money, and no price is known for this hardware",
                    "give --price=DOLLARS of a chip-hour",
                )  # fmt: skip
            return amount / price.dollars
    raise ConfigError("--budget", f"{budget!r} is no budget", "write 1000h or 50000usd")


def _positive(values: Mapping[str, Any], flag: str, default: int) -> int:
    number = values.get(flag, default)
    if number < 1:
        raise ConfigError(f"--{flag}", f"{number} is none", "give at least 1")
    return int(number)
