"""Chip-hours and money: list prices as data, with where and when they were read.

A price is of one chip for one hour, on demand, in US dollars. Prices change and contracts differ:
`--price` overrides the table, and hardware without an entry has no cost rather than a guess.
"""

import dataclasses
import math
import re

from scaling.configs import ConfigError
from scaling.planning.compile import Plan
from scaling.planning.topology import Target


@dataclasses.dataclass(frozen=True)
class Price:
    """Dollars per chip-hour, on demand; where that was read, and when."""

    dollars: float
    source: str
    date: str


# SkyPilot reads these from Google's billing API, except v4, which that does not list.
_CATALOG = "github.com/skypilot-org/skypilot-catalog, catalogs/{}/gcp/vms.csv, commit {}, "
_V5, _V8 = _CATALOG.format("v5", "ddb8695"), _CATALOG.format("v8", "006059e")
_SKYPILOT = "github.com/skypilot-org/skypilot, fetch_gcp.py, "

# By key of `topology.FAMILIES`. v7x and GPUs: no source at hand, so no price.
PRICES: dict[str, Price] = {
    "v4": Price(3.22, _SKYPILOT + "us-central2: 12.88 $/h for tpu-v4-8 (4 chips)", "2026-11"),
    "v5e": Price(1.20, _V5 + "us-central1: 307.20 $/h for tpu-v5litepod-256", "2026-11"),
    "v5p": Price(4.20, _V8 + "us-east5: 20160 $/h for tpu-v5p-9600 (4800 chips)", "2026-11"),
    "v6e": Price(2.70, _V8 + "us-central1: 691.20 $/h for tpu-v6e-256", "2026-11"),
}


@dataclasses.dataclass(frozen=True)
class RunCost:
    """What a run takes, as a range that follows the step time's.

    Attributes:
      hours: wall-clock of all steps (evaluation, checkpoints and restarts left out).
      chip_hours: times chips.
      dollars: times the price; None without one.
      tokens_per_second: units (tokens or examples) of all devices.
    """

    hours: tuple[float, float]
    chip_hours: tuple[float, float]
    dollars: tuple[float, float] | None
    tokens_per_second: tuple[float, float]
    price: Price | None


def price_of(target: Target, price: float | None = None) -> Price | None:
    """The price given (dollars per chip-hour), else the table's; None where there is neither."""
    return PRICES.get(target.family or "") if price is None else Price(price, "--price", "")


def cost(plan: Plan, price: float | None = None) -> RunCost | None:
    """The cost of a whole run; None without an estimate of its step time. `price` as in `price_of`."""
    if plan.estimate is None:
        return None
    chosen = price_of(plan.target, price)
    hours = tuple(plan.steps * s / 3600 for s in (plan.estimate.low, plan.estimate.high))
    chip_hours = tuple(h * plan.target.chips for h in hours)
    rates = tuple(plan.tokens / s for s in (plan.estimate.high, plan.estimate.low))
    dollars = None if chosen is None else tuple(h * chosen.dollars for h in chip_hours)
    return RunCost(hours, chip_hours, dollars, rates, chosen)  # type: ignore[arg-type]


def chip_hours(budget: str, price: Price | None) -> float:
    """Chip-hours of "1000h" or of "50000usd" at a price; ConfigError if it is neither."""
    number = r"((?:\d+\.?\d*|\.\d+)(?:e\d+)?)"
    match = re.fullmatch(rf"{number}(h|usd|\$)", budget.lower().replace(",", "").strip())
    amount = float(match[1]) if match else 0.0
    if match is None or not 0 < amount < math.inf:
        raise ConfigError("--budget", f"{budget!r} is not a budget", "write 1000h or 50000usd")
    if match[2] == "h":
        return amount
    if price is None:
        what = f"{budget} is money, and no price is known for this hardware"
        raise ConfigError("--budget", what, "give --price=DOLLARS per chip-hour")
    return amount / price.dollars
