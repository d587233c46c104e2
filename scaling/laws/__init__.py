"""Scaling laws: declare a law, fit it to a table of runs, know how sure the answer is.

    table of runs -> Problem -> batched fit -> Result -> intervals, allocation, figures, report

A `Law` (`law.py`) is a declaration: formula, parameters with bounds, variables with units, the
parameters in which it is linear, published constants with their source. `Table` (`table.py`,
`readers.py`) turns CSV, JSON lines or a sweep directory into valid columns and records every row
it refuses. `Problem` (`problem.py`) lays both out as float64 arrays and one search vector, with
fixed, tied, bounded and log-transformed parameters. `fit` (`fitting.py`) searches globally by
variable projection (`screen.py`), then polishes all starts in one jitted program (`solver.py`).
From its `Result`: resampling (`resample.py`), profile and sandwich intervals (`profiles.py`),
compute-optimal allocation (`allocation.py`), predictions that say how far outside the data they
are (`forecasting.py`), comparison of laws (`comparison.py`), the non-parametric approaches 1 and 2
(`isoflop.py`), `figures.py`, `report.py`.

Laws read tables and never models. Float64 is scoped to the calls in here: importing or using this
package changes nothing for training code in the same process.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scaling.laws.law import Law

LAWS: dict[str, str] = {
    "kaplan_n": "scaling.laws.catalogue.language:KAPLAN_N",
    "kaplan_d": "scaling.laws.catalogue.language:KAPLAN_D",
    "kaplan_c": "scaling.laws.catalogue.language:KAPLAN_C",
    "kaplan_nd": "scaling.laws.catalogue.language:KAPLAN_ND",
    "kaplan_ns": "scaling.laws.catalogue.language:KAPLAN_NS",
    "critical_batch": "scaling.laws.catalogue.language:CRITICAL_BATCH",
    "batch_steps": "scaling.laws.catalogue.language:BATCH_STEPS",
    "henighan_n": "scaling.laws.catalogue.language:HENIGHAN_N",
    "henighan_d": "scaling.laws.catalogue.language:HENIGHAN_D",
    "henighan_c": "scaling.laws.catalogue.language:HENIGHAN_C",
    "chinchilla": "scaling.laws.catalogue.language:CHINCHILLA",
    "data_constrained": "scaling.laws.catalogue.data:DATA_CONSTRAINED",
    "repetition_penalty": "scaling.laws.catalogue.data:REPETITION_PENALTY",
    "repetition_decay": "scaling.laws.catalogue.data:REPETITION_DECAY",
    "over_training": "scaling.laws.catalogue.data:OVER_TRAINING",
    "transfer": "scaling.laws.catalogue.data:TRANSFER",
    "vocabulary": "scaling.laws.catalogue.data:VOCABULARY",
    "progress": "scaling.laws.catalogue.data:PROGRESS",
    "task_error": "scaling.laws.catalogue.tasks:TASK_ERROR",
    "ladder_loss": "scaling.laws.catalogue.tasks:LADDER_LOSS",
    "ladder_accuracy": "scaling.laws.catalogue.tasks:LADDER_ACCURACY",
    "llama_answer_loss": "scaling.laws.catalogue.tasks:LLAMA_NLL",
    "llama_tokens": "scaling.laws.catalogue.tasks:LLAMA_TOKENS",
    "scale_rl": "scaling.laws.catalogue.tasks:SCALE_RL",
    "repeated_sampling": "scaling.laws.catalogue.tasks:REPEATED_SAMPLING",
    "bnsl_0": "scaling.laws.catalogue.broken:BNSL_0",
    "bnsl": "scaling.laws.catalogue.broken:BNSL",
    "bnsl_2": "scaling.laws.catalogue.broken:BNSL_2",
    "bnsl_3": "scaling.laws.catalogue.broken:BNSL_3",
    "m1": "scaling.laws.catalogue.broken:M1",
    "m2": "scaling.laws.catalogue.broken:M2",
    "m3": "scaling.laws.catalogue.broken:M3",
    "m4": "scaling.laws.catalogue.broken:M4",
    "zhai": "scaling.laws.catalogue.broken:ZHAI",
    "routed": "scaling.laws.catalogue.sparse:ROUTED",
    "fine_grained_moe": "scaling.laws.catalogue.sparse:FINE_GRAINED",
    "moe_sparsity": "scaling.laws.catalogue.sparse:MOE_SPARSITY",
    "joint_moe": "scaling.laws.catalogue.sparse:JOINT_MOE",
    "weight_sparsity": "scaling.laws.catalogue.sparse:FRANTAR",
    "farseer": "scaling.laws.catalogue.sparse:FARSEER",
    "lr_compute": "scaling.laws.catalogue.recipe:DEEPSEEK_LR",
    "batch_compute": "scaling.laws.catalogue.recipe:DEEPSEEK_BATCH",
    "model_compute": "scaling.laws.catalogue.recipe:DEEPSEEK_MODEL",
    "data_compute": "scaling.laws.catalogue.recipe:DEEPSEEK_DATA",
    "lr_step_law": "scaling.laws.catalogue.recipe:STEPLAW_LR",
    "batch_step_law": "scaling.laws.catalogue.recipe:STEPLAW_BATCH",
    "precision": "scaling.laws.catalogue.recipe:PRECISION",
    "post_training_quantisation": "scaling.laws.catalogue.recipe:POST_TRAINING",
    "distillation": "scaling.laws.catalogue.recipe:DISTILLATION",
}

_EXPORTS = {
    "fit": "scaling.laws.fitting",
    "Result": "scaling.laws.fitting",
    "Loss": "scaling.laws.losses",
    "Law": "scaling.laws.law",
    "LawError": "scaling.laws.law",
    "Parameter": "scaling.laws.law",
    "Published": "scaling.laws.law",
    "Variable": "scaling.laws.law",
    "coefficient": "scaling.laws.law",
    "exponent": "scaling.laws.law",
    "offset": "scaling.laws.law",
    "power": "scaling.laws.law",
    "shape": "scaling.laws.law",
    "Table": "scaling.laws.table",
    "read_table": "scaling.laws.readers",
    "bootstrap": "scaling.laws.resample",
    "profile": "scaling.laws.profiles",
    "profile_interval": "scaling.laws.profiles",
    "sandwich": "scaling.laws.profiles",
    "optimum": "scaling.laws.allocation",
    "forecast": "scaling.laws.forecasting",
    "compare": "scaling.laws.comparison",
    "use_device": "scaling.laws.backend",
}


def __getattr__(name: str) -> Any:
    """Public names, imported when first used, so that `--help` costs nothing."""
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def get_law(name: str) -> Law:
    """A law of the catalogue by name, or any `package.module:ATTRIBUTE` that holds a `Law`.

    Raises LawError naming the nearest law.
    """
    from scaling.laws.law import Law, LawError

    where = LAWS.get(name, name)
    module, colon, attribute = where.partition(":")
    if not colon:
        raise LawError(unknown("law", name, LAWS))
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise LawError(f"law {name!r} cannot be imported: {error}") from None
    if not isinstance(found, Law):
        raise LawError(f"{name!r} is a {type(found).__name__}, not a scaling.laws.Law")
    return found


def unknown(what: str, name: str, known: Any) -> str:
    """`unknown law 'chincilla'; did you mean 'chinchilla'? Known: ...`."""
    import difflib

    near = difflib.get_close_matches(name, list(known), 1, 0.4)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"unknown {what} {name!r}{hint} Known: {', '.join(sorted(known))}"
