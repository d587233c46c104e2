"""Sweeps: a declared set of runs, each with an id of its own, run to the end by any launcher.

    design, sizes, budgets    what a sweep file is written with
    sweep_dir, lease, ledger  what is on disk: cells, who runs which, what became of it
    worker                    takes cells that are left and runs them, until none is
    local, slurm, skypilot, jobset   start workers; nothing of the sweep's state lives in them
    collect                   run directories -> the table that `scaling.fit` reads

Importing this package imports no JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scaling.sweeps.budgets import data_constrained, isoflop, rate_by_width
    from scaling.sweeps.design import (
        Cell,
        Design,
        Sweep,
        axis,
        chain,
        filter_,
        product,
        seeds,
        settings,
        zip_,
    )
    from scaling.sweeps.sizes import chinchilla, from_fit, ladder, power_rule, widths

_HOMES = {
    "design": (
        *("Cell", "Design", "Sweep", "axis", "chain", "filter_", "product", "seeds"),
        *("settings", "zip_"),
    ),
    "budgets": ("data_constrained", "isoflop", "rate_by_width"),
    "sizes": ("chinchilla", "from_fit", "ladder", "power_rule", "widths"),
}

__all__ = [
    "Cell",
    "Design",
    "Sweep",
    "axis",
    "chain",
    "chinchilla",
    "data_constrained",
    "filter_",
    "from_fit",
    "isoflop",
    "ladder",
    "power_rule",
    "product",
    "rate_by_width",
    "seeds",
    "settings",
    "widths",
    "zip_",
]


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"scaling.sweeps.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
