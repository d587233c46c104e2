"""The combinations that forecasts use: medians of laws that fail in opposite directions.

Beyond its data a law with an irreducible loss is mostly too high and one without too low; a median is
nearer than a choice by held-out error (see docs/reference/forecasts.md). One for each kind of table.
"""

from __future__ import annotations

from scaling.laws.catalogue.data import (
    DATA_CONSTRAINED,
    OVER_TRAINING,
    REPETITION_DECAY,
    REPETITION_PENALTY,
)
from scaling.laws.catalogue.language import CHINCHILLA, KAPLAN_ND
from scaling.laws.catalogue.sparse import ROUTED, ROUTED_OFFSET
from scaling.laws.combined import combine

COMBINED = combine("combined", CHINCHILLA, KAPLAN_ND, OVER_TRAINING)
COMBINED_REPEATED = combine(
    "combined_repeated", DATA_CONSTRAINED, REPETITION_PENALTY, REPETITION_DECAY
)
COMBINED_ROUTED = combine("combined_routed", ROUTED, ROUTED_OFFSET)
