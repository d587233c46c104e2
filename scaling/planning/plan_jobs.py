"""What `python -m scaling.plan` does for a topology: plan one config, search, plan a sweep.

Imports JAX, whose environment `topology.prepare` has made ready before.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Callable, Sequence

from scaling import configs
from scaling.configs import ConfigError
from scaling.laws import allocation
from scaling.planning import compile as compiling
from scaling.planning import cost, law_fit, report
from scaling.planning import search as searching
from scaling.planning.arguments import Values
from scaling.planning.topology import Target
from scaling.sweeps import design
from scaling.track import compile_cache, files
from scaling.track.paths import cache_root
from scaling.track.progress import aligned

DOES_NOT_FIT = 1


def plan(target: Target, values: Values, overrides: Sequence[str]) -> int:
    """Compiles one config for one target and reports; with a budget, says what it buys."""
    config = configs.load_resolved(values["config"], overrides)
    if target.platform != "tpu":
        # A run of the same config, code, compiler and devices on this machine finds the step in the
        # cache that it uses itself, whose key is all of these; anything else it compiles anew.
        note = compile_cache.enable()
        if note:
            print(note, file=sys.stderr)
    text_path = pathlib.Path(values["hlo"]) if "hlo" in values else None
    effort = values.get("effort", "default")
    compiled = compiling.compile_plan(config, target, text_path, values.get("hardware"), effort)
    paid = cost.cost(compiled, values.get("price"))
    print(report.text(compiled, paid))
    if "json" in values:
        data = compiling.to_json(compiled)
        data["cost"] = None if paid is None else dataclasses.asdict(paid)
        files.write_json(values["json"], data)
    if "budget" in values:
        return _budget(compiled, values)
    return 0 if compiled.fits else DOES_NOT_FIT


def _budget(compiled: compiling.Plan, values: Values) -> int:
    """Prints the model size and tokens that a budget buys, at both ends of the step time.

    `compiled` is a plan of a config like the one to train, on the hardware to pay for: gives the FLOP/s.
    """
    hours = cost.chip_hours(values["budget"], cost.price_of(compiled.target, values.get("price")))
    if compiled.estimate is None:
        what = f"needs the speed of {compiled.device_kind}, which is not known"
        raise ConfigError("--budget", what, "give --hardware=flops=...,bandwidth=...,link=...")
    # The law counts FLOPs as its table does, so the rate is of 6 N D: tokens and parameters alone.
    per_step = 6.0 * compiled.params * compiled.tokens
    seconds = hours * 3600 / compiled.target.chips
    ends = (compiled.estimate.high, compiled.estimate.low)
    law = law_fit.load(values["fit"], None)
    best = allocation.optimum(law.result, [per_step * seconds / end for end in ends], law.draws)
    rows = []
    for label, one in zip(("nothing overlapped", "all overlapped"), best, strict=True):
        ranges = one.intervals or {}
        numbers = (
            f"{getattr(one, name):.3g} [{ranges[name][0]:.3g}, {ranges[name][1]:.3g}]"
            for name in ("params", "tokens", "loss")
        )
        rows.append((label, f"{one.flops:.3g}", *numbers, "; ".join(one.warnings)))
    print(f"\n{hours:,.0f} chip-hours of {compiled.target.name} under {law.result.law.name}, 95 %:")
    header = ("step time", "FLOPs (6ND)", "parameters", "tokens", "loss", "")
    print(aligned([header, *rows], left=(0,)))
    return 0


def search(target: Target, values: Values, overrides: Sequence[str]) -> int:
    """Searches for the fastest settings that fit, prints what it tried and the lines to paste."""
    result = searching.search(
        configs.load_resolved(values["config"], overrides),
        target,
        changes=values.get("hardware", {}),
        most=values.get("compiles", 8),
        jobs=values.get("jobs", 1),
        cache=cache_root() / "plans",
        say=lambda line: print(line, flush=True),
    )
    rows = [(one.candidate.label(), *one.cells()) for one in result.tried]
    header = ("settings", *searching.HEADER)
    print("\n" + aligned([header, *rows], left=(0,)))
    print(f"{result.pruned} could not fit by the lower bound, {result.left} were not compiled")
    if result.best is None:
        print("nothing fits: take more chips, a smaller batch or a smaller model")
    else:
        print("\nfastest that fits, by the estimate:")
        print("\n".join("  " + line for line in result.best.candidate.lines()))
    if "json" in values:
        files.write_json(values["json"], result.to_json())
    return 0 if result.best else DOES_NOT_FIT


def sweep(target: Target, values: Values, _: Sequence[str]) -> int:
    """Plans every cell of a sweep: which fit, and what would help the others."""
    changes = values.get("hardware", {})
    cells, warnings = design.cells(design.load_sweep(values["sweep"]))
    for warning in warnings:
        print(warning)
    candidates = [searching.Candidate(dict(cell.axes), cell.config) for cell in cells]
    jobs, tried = values.get("jobs", 1), []
    cache = cache_root() / "plans"
    for one in searching.compile_all(
        candidates, target, jobs=jobs, cache=cache, effort="default", changes=changes
    ):
        tried.append(one)
        print(f"[{len(tried)}/{len(candidates)}] {one}", flush=True)
    rows = [
        (
            one.candidate.label(),
            *one.cells(),
            "" if one.fits else searching.remedy(one.candidate.config, target, changes),
        )
        for one in tried
    ]
    header = ("cell", *searching.HEADER, "would fit with")
    print("\n" + aligned([header, *rows], left=(0,)))
    return 0 if all(one.fits for one in tried) else DOES_NOT_FIT


JOBS: dict[str, Callable[[Target, Values, Sequence[str]], int]] = {
    "topology": plan,
    "search": search,
    "sweep": sweep,
}
