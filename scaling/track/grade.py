"""What happened beside what was forecast: the `grade` in a run's summary.json.

Per quantity: predicted, happened, inside the 50 % and the 95 % interval, error. A forecast counts
only if it was there when the run first started and was not touched since.

`status` of a grade: `graded`; `diverged` (the loss that was forecast never came: outside of every
interval); `not yet` (preempted); `not graded`, with the `reason`, for a forecast that changed or
does not fit the run.
"""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from scaling.configs import ConfigError
from scaling.track import files, sealed
from scaling.track.run_dir import PROVENANCE, SUMMARY, RunDirError, RunFacts, UsedDevices, read_run
from scaling.track.stream import StreamError


def with_grade(workdir: pathlib.Path, summary: Mapping[str, Any]) -> dict[str, Any]:
    """The summary of a run that has ended, with its grade if the run has a forecast.

    Never raises over the forecast: a run that is done must not fail because its forecast is bad.
    """
    try:
        graded = grade(workdir, summary)
    except (KeyError, TypeError, ValueError, OSError, RunDirError, StreamError) as error:
        graded = _refused(f"the forecast cannot be compared ({error!r})")
    return {**summary, "grade": graded} if graded else dict(summary)


def grade(workdir: pathlib.Path, summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """The grade of a run; None where nothing was forecast."""
    run = read_run(workdir)
    recorded = run.provenance.get("forecast")
    try:
        forecast = run.forecast
    except sealed.SealError as error:
        return _refused(f"forecast changed: {error}")
    if not forecast:
        return recorded and _refused("the forecast that the run began with is gone")
    if not run.provenance:
        return _refused(f"the run has no {PROVENANCE} to say when it started")
    if recorded is None:
        return _refused("the forecast was written after the run had started")
    if forecast["sha256"] != recorded:
        return _refused("forecast changed: it is not the one that the run began with")
    if summary.get("status") not in ("completed", "diverged"):
        return {"status": "not yet", "reason": f"the run is {summary.get('status')}"}
    return _graded(run, summary, forecast)


def regrade(workdir: pathlib.Path) -> dict[str, Any]:
    """Grades a run directory (again) and writes the grade into its summary.json.

    Raises:
      ConfigError: it holds nothing to grade.
    """
    try:
        summary = read_run(workdir).summary
        if not summary:
            raise ConfigError("--grade", f"{workdir} holds no {SUMMARY}: the run has not ended")
        graded = grade(workdir, summary)
    except (RunDirError, StreamError) as error:
        raise ConfigError("--grade", str(error)) from error
    if graded is None:
        what = f"{workdir} holds no {sealed.FORECAST}: a forecast is written before the run, with "
        raise ConfigError("--grade", what + "python -m scaling.plan --forecast=... --workdir=...")
    files.write_json(workdir / SUMMARY, {**summary, "grade": graded})
    return graded


def _refused(reason: str) -> dict[str, Any]:
    return {"status": "not graded", "reason": reason}


def _graded(
    run: RunFacts, summary: Mapping[str, Any], forecast: Mapping[str, Any]
) -> dict[str, Any]:
    diverged = summary["status"] == "diverged"
    happened, reasons = _happened(run, summary, forecast)
    return {
        "status": "diverged" if diverged else "graded",
        "forecast_sha256": forecast["sha256"],
        "forecast_created": forecast["created"],
        "law": forecast["law"]["name"],
        "table_sha256": forecast["law"]["table_sha256"],
        "outside": forecast["outside"],
        "form": forecast.get("form"),  # forecasts of before it was known have none
        "memory_by": _memory(summary)[1],
        "quantities": {
            name: _compare(one, happened.get(name), reasons.get(name), diverged and name == "loss")
            for name, one in forecast["quantities"].items()
        },
    }


def _happened(
    run: RunFacts, summary: Mapping[str, Any], forecast: Mapping[str, Any]
) -> tuple[dict[str, float], dict[str, str]]:
    """What the run came to, and why some of it is unknown."""
    happened: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    rate = f"{forecast['unit']}_per_second"
    step, steps = summary.get("step"), forecast["steps"]
    if step != steps:
        early = f"the run ended at step {step} of {steps}, the forecast is for all"
        reasons |= dict.fromkeys(("loss", "chip_hours", "cost"), early)
    if "population" in summary:
        beside = "it trained beside others in one program, and shared its time with them"
        reasons |= dict.fromkeys(("step_time", rate, "chip_hours", "cost", "memory_peak"), beside)
    if summary["status"] == "completed":
        happened["loss"] = summary.get("eval", {}).get(summary.get("objective", "loss"))
    happened["step_time"] = run.median("perf/step_seconds")
    happened[rate] = run.median(f"perf/{rate}")
    happened["memory_peak"] = _memory(summary)[0]
    machine = forecast["machine"]
    device, expected = run.device, machine["device"] and UsedDevices(**machine["device"])
    if device and expected:
        timed = ("step_time", rate, "chip_hours", "cost")
        other = f"the run used {device}, the forecast is for {expected}"
        if (device.kind, device.count) != (expected.kind, expected.count):
            reasons |= dict.fromkeys((*timed, "memory_peak"), other)
        elif device.cores and expected.cores and device.cores != expected.cores:
            reasons |= dict.fromkeys(timed, other)
    seconds = summary.get("seconds", {})
    if machine["chips"] and "train" in seconds:
        spent = seconds["train"] + seconds.get("data_wait", 0.0)
        happened["chip_hours"] = spent * machine["chips"] / 3600
        if machine["price"] is not None:
            happened["cost"] = happened["chip_hours"] * machine["price"]
    usable = {
        name: float(value)
        for name, value in happened.items()
        if name not in reasons and isinstance(value, int | float) and math.isfinite(value)
    }
    return usable, reasons


def _memory(summary: Mapping[str, Any]) -> tuple[float | None, str]:
    """Peak bytes on the fullest device, and where the number is from; CPU has none."""
    memory = summary.get("memory_bytes") or {}
    if peak := (memory.get("device") or {}).get("peak"):
        return peak, "the device's statistics"
    return memory.get("program"), "the compiled step's own account"


def _compare(
    one: Mapping[str, Any], happened: float | None, reason: str | None, missed: bool
) -> dict[str, Any]:
    """One quantity; `missed` is a forecast that failed without a number to show for it."""
    predicted = one["value"]

    def inside(ends: Sequence[float] | None) -> bool | None:
        if ends is None:
            return None
        if happened is None:
            return False if missed else None
        return bool(ends[0] <= happened <= ends[1])

    error = None if happened is None else predicted - happened
    compared = {
        "predicted": predicted,
        "happened": happened,
        "unit": one["unit"],
        "interval50": one["interval50"],
        "interval95": one["interval95"],
        "inside50": inside(one["interval50"]),
        "inside95": inside(one["interval95"]),
        "error": error,
        "relative_error": error / abs(happened) if error is not None and happened else None,
        "levels": {level: inside(ends) for level, ends in one["levels"].items()},
    }
    if one.get("range"):
        compared |= {"range": one["range"], "inside_range": inside(one["range"])}
    if happened is None and not missed:
        compared["reason"] = reason or "the run did not measure it"
    return compared


def describe(graded: Mapping[str, Any]) -> str:
    """A grade in lines for the terminal."""
    if "quantities" not in graded:
        return f"forecast {graded['status']}: {graded['reason']}"
    lines = ["forecast against what happened" + (" (diverged)" * (graded["status"] == "diverged"))]
    for name, one in graded["quantities"].items():
        if one["happened"] is None:
            why = "diverged" if one["inside95"] is False else one["reason"]
            lines.append(f"  {name:18s} {one['predicted']:<10.5g} {one['unit']}, then: {why}")
            continue
        marks = [
            f"{'inside' if one[key] else 'OUTSIDE'} {label}"
            for key, label in (
                ("inside50", "50 %"),
                ("inside95", "95 %"),
                ("inside_range", "the range"),
            )
            if one.get(key) is not None
        ]
        off = one["relative_error"]
        text = f"{one['predicted']:.5g} against {one['happened']:.5g} {one['unit']}"
        error = "" if off is None else f", {100 * off:+.2f} %"
        lines.append(f"  {name:18s} {text}{error}" + "".join(f", {mark}" for mark in marks))
    return "\n".join(lines)
