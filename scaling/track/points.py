"""Which points inside a run may stand for a shorter run, by its schedule alone.

curve    constant, or inverse square root, after a warm-up counted in steps: the schedule does not
         know how long the run is, so a point is what a run of that length would have ended with
stable   the stable part of warm-up-stable-decay: comparable with one another, but above what a run
         of that length ends with after its decay (Haegele et al. 2024, arXiv:2405.18392)
""       every other: the rate was still high, or the warm-up is a fraction of the length
"""

from collections.abc import Mapping
from typing import Any

from scaling import configs

_KINDS = {"constant": "curve", "inverse_sqrt": "curve", "wsd": "stable"}


def kind(config: Mapping[str, Any], step: int) -> str:
    """What a point at `step`, updates done, is: "curve", "stable" or ""."""
    schedule, total = configs.get(config, "optim.schedule"), configs.get(config, "train.steps")
    warmup = schedule.get("warmup_steps")
    if warmup is None and schedule.get("warmup_fraction") != 0:
        return ""
    end = total
    if schedule["name"] == "wsd":
        decay = schedule.get("decay_steps")
        end -= round(schedule["decay_fraction"] * total) if decay is None else decay
    return _KINDS.get(schedule["name"], "") if (warmup or 0) < step <= end else ""
