"""Where a held-out item comes among all items: HR@10, NDCG@10, MRR, beside the most popular items.

Legend: B batch, V items, S items that a user has seen before.
"""

from typing import Any

import jax
import jax.numpy as jnp

from scaling.tasks.base import Batch, Total, Totals, means
from scaling.tasks.losses import weighted

TOP = 10


def place(scores_BV: jax.Array, item_B: jax.Array, seen_BS: jax.Array) -> jax.Array:
    """How many items come before the right one: float32 [B], 0 where it is the first.

    All items are ranked (Krichene and Rendle 2020 show how a sample of them misleads) but those that
    the user has seen, the right one excepted. An item with the same score counts as half before it. A
    score that is not a number counts as before it, too.

    Args:
      scores_BV: of every item.
      item_B: int32, the right one.
      seen_BS: int32; numbers of V and above are padding.
    """
    right_B1 = jnp.take_along_axis(scores_BV, item_B[:, None], axis=1)
    row_B1 = jnp.arange(len(item_B))[:, None]
    rival_BV = jnp.ones(scores_BV.shape, bool).at[row_B1, seen_BS].set(False, mode="drop")
    rival_BV &= jnp.arange(scores_BV.shape[1])[None] != item_B[:, None]
    before_BV = jnp.where(scores_BV == right_B1, 0.5, ~(scores_BV < right_B1))
    return jnp.sum(jnp.where(rival_BV, before_BV, 0.0), axis=1)


def totals(
    scores_BV: jax.Array, counts: list[int], item_B: jax.Array, batch: Batch
) -> dict[str, Total]:
    """Sums over a batch of the three measures, and of the same by popularity (`popularity_...`).

    Args:
      scores_BV: of every item.
      counts: how often each of the V items occurs in training.
      item_B: int32, the right one.
      batch: has `seen` [B, S] and `weights` [B] or [B, T] with one weight an example.
    """
    weights_B = batch["weights"].reshape(len(item_B), -1).sum(axis=1)
    popular_BV = jnp.broadcast_to(jnp.asarray(counts, jnp.float32), scores_BV.shape)
    gains: dict[str, jax.Array] = {}
    for prefix, scores in (("", scores_BV), ("popularity_", popular_BV)):
        place_B = place(scores, item_B, batch["seen"])
        top_B = place_B < TOP
        gains |= {
            f"{prefix}hr{TOP}": top_B.astype(jnp.float32),
            f"{prefix}ndcg{TOP}": jnp.where(top_B, 1.0 / jnp.log2(place_B + 2.0), 0.0),
            f"{prefix}mrr": 1.0 / (place_B + 1.0),
        }
    return weighted(gains, weights_B)


def report(totals: Totals, _: object = None) -> dict[str, Any]:
    """The means of those of `totals` that rank, by name."""
    ends = (f"hr{TOP}", f"ndcg{TOP}", "mrr")
    return means({name: total for name, total in totals.items() if name.endswith(ends)})
