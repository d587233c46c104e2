"""Counts of parameters and FLOP under the conventions of the papers, and what changing them does.

On one and the same set of runs, counting the head and then attention moved the exponent of N*(C)
from .84 to .70 (Porian et al. 2024, arXiv 2406.19146): a number without its convention is not one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from scaling.laws.fitting import fit
from scaling.laws.law import LawError
from scaling.laws.losses import Loss
from scaling.laws.table import Table

FLOP_CONVENTIONS = (
    "six_total", "kaplan", "with_head", "with_head_attention", "deepseek",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Shape:
    """A decoder Transformer: the numbers that counts depend on. `ff` is the feed-forward width."""

    layers: int
    width: int
    vocab: int
    context: int
    ff: int | None = None
    gated: bool = False
    tied: bool = False

    @property
    def hidden(self) -> int:
        """Feed-forward width (4 times the width unless given)."""
        return self.ff if self.ff is not None else 4 * self.width


def param_counts(shape: Shape) -> dict[str, float]:
    """Parameters without norms and biases: non_embedding, with_head and total."""
    attention = 4.0 * shape.width**2
    feed = (3.0 if shape.gated else 2.0) * shape.width * shape.hidden
    inner = shape.layers * (attention + feed)
    table = float(shape.vocab * shape.width)
    return {
        "non_embedding": inner,
        "with_head": inner + table,
        "total": inner + table * (1 if shape.tied else 2),
    }


def flops_per_token(shape: Shape, convention: str) -> float:
    """Training FLOP per token (forward and backward).

    six_total: 6 N_total. kaplan: 6 N_non_embedding. with_head: 6 (N_non_embedding + V d).
    with_head_attention: plus 6 l s d for causal attention (half of the score matrix, two products,
    three passes). deepseek: 72 l d^2 + 12 l s d, attention counted whole (arXiv 2401.02954).
    """
    counts = param_counts(shape)
    attention = 6.0 * shape.layers * shape.context * shape.width
    if convention == "deepseek":
        return 72.0 * shape.layers * shape.width**2 + 2 * attention
    table = {
        "six_total": 6 * counts["total"],
        "kaplan": 6 * counts["non_embedding"],
        "with_head": 6 * counts["with_head"],
        "with_head_attention": 6 * counts["with_head"] + attention,
    }
    if convention not in table:
        raise LawError(f"FLOP convention {convention!r} is not one of {FLOP_CONVENTIONS}")
    return table[convention]


@dataclasses.dataclass(frozen=True)
class Effect:
    """Exponents of one convention: of the law's terms and of N* ~ C^a."""

    convention: str
    a: float
    alpha: float
    beta: float
    objective: float


def convention_effect(
    table: Table, conventions: Mapping[str, Mapping[str, str]], loss: Loss | None = None
) -> list[Effect]:
    """Fit the Chinchilla form under each convention, given as column mappings.

    `{"non-embedding": {"params": "params_ne"}, "total": {"params": "params_total"}}`.
    """
    effects = []
    for label, mapping in conventions.items():
        result = fit(table.mapped(mapping), "chinchilla", loss)
        p = result.parameters
        effects.append(Effect(label, result.derived["a"], p["alpha"], p["beta"], result.objective))
    return effects
