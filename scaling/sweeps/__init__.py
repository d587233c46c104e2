"""Sweeps: a declared set of runs, each with an id of its own, run to the end by any launcher.

    design, budgets           what a sweep file is written with
    cost, trunks, schedule    what cells cost, what they share, what runs next and together
    sweep_dir, lease, ledger  on disk: cells, which process runs which, how each attempt ended
    worker, part              run the cells: whatever is left, or a fixed part of them
    search, study             cells that Optuna proposes
    launchers                 start workers; nothing of the sweep's state lives in them
    display, collect          what a person sees, and the table that `scaling.fit` reads

Importing this package imports no JAX.
"""

# ruff: noqa: F401
from scaling.sweeps.budgets import (
    chinchilla,
    data_constrained,
    from_fit,
    isoflop,
    ladder,
    power_rule,
    widths,
)
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
