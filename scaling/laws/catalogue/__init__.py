"""The catalogue: every law whose form is published and known, one file a family.

Constants carry their source and how far they can be trusted; none is used as a start of a fit.
"""

import difflib

from scaling.configs.component import import_from
from scaling.laws.catalogue import broken, data, language, recipe, sparse, tasks
from scaling.laws.combined import JOIN, combine
from scaling.laws.law import Law, LawError

# Medians of laws that fail in opposite directions, for forecasts, one for each kind of table. Beyond
# its data a law with an irreducible loss is mostly too high and one without too low; a median is
# nearer than a choice by held-out error (see docs/reference/forecasts.md).
COMBINATIONS = (
    combine("combined", language.CHINCHILLA, language.KAPLAN_ND, data.OVER_TRAINING),
    combine(
        "combined_repeated", data.DATA_CONSTRAINED, data.REPETITION_PENALTY, data.REPETITION_DECAY
    ),
    combine("combined_routed", sparse.ROUTED, sparse.ROUTED_OFFSET),
)
FAMILIES = (language, data, tasks, broken, sparse, recipe)
DECLARED = [law for family in FAMILIES for law in vars(family).values() if isinstance(law, Law)]
LAWS: dict[str, Law] = {law.name: law for law in (*DECLARED, *COMBINATIONS)}


def get_law(name: str) -> Law:
    """A law by name: of the catalogue, `package.module:ATTRIBUTE`, or `LAW+LAW`, their median.

    Raises LawError naming the nearest law.
    """
    if name in LAWS:
        return LAWS[name]
    if JOIN in name:
        return combine(name, *(get_law(part) for part in name.split(JOIN)))
    if ":" not in name:
        near = difflib.get_close_matches(name, list(LAWS), 1, 0.4)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise LawError(f"unknown law {name!r}{hint} Known: {', '.join(sorted(LAWS))}")
    try:
        law = import_from(name)
    except (ImportError, AttributeError) as error:
        raise LawError(f"law {name!r} cannot be imported: {error}") from None
    if not isinstance(law, Law):
        raise LawError(f"{name!r} is a {type(law).__name__}, not a scaling.laws.Law")
    return law
