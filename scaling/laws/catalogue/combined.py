"""The combination that forecasts use: a median of laws that fail in opposite directions.

Beyond its data `chinchilla` is mostly too high and `kaplan_nd`, which has no irreducible loss, too
low; a median of several is nearer than a choice by held-out error (see docs/reference/forecasts.md).
"""

from __future__ import annotations

from scaling.laws.catalogue.data import OVER_TRAINING
from scaling.laws.catalogue.language import CHINCHILLA, KAPLAN_ND
from scaling.laws.combined import combine

COMBINED = combine("combined", CHINCHILLA, KAPLAN_ND, OVER_TRAINING)
