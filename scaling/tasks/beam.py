"""Beam search: the most likely sequence that a model writes after reading something.

Legend: B rows, K beams, C candidates, T tokens of a sequence with its end, V vocabulary.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from scaling.parallel.sharding import PyTree

# (state, tokens int32 [B, K], place int32[]) -> (logits [B, K, V] of the next token, state). Arrays of
# the state with a row for each hypothesis have it as [B, K] at `axis` (see `beam_search`).
Step = Callable[[PyTree, jax.Array, jax.Array], tuple[jax.Array, PyTree]]

# Log probability of a hypothesis that does not exist; finite, so that differences are numbers.
NEVER = -1e30


class Sequences(NamedTuple):
    """The best sequence of each row.

    Attributes:
      tokens: int32 [B, T]; from its end on, separators.
      score: log probability divided by the length penalty, float32 [B].
      ended: whether it came to an end within T tokens, bool [B].
    """

    tokens: jax.Array
    score: jax.Array
    ended: jax.Array


class _Beams(NamedTuple):
    place: jax.Array  # tokens so far
    logp_BK: jax.Array
    tokens_BKT: jax.Array
    logits_BKV: jax.Array
    state: PyTree
    best: Sequences
    ends_B: jax.Array  # hypotheses that came to an end


def length_penalty(length: jax.Array | int, alpha: float) -> jax.Array:
    """((5 + length) / 6)^alpha (Wu et al. 2016, 1609.08144, eq. 14)."""
    return ((5.0 + jnp.asarray(length, jnp.float32)) / 6.0) ** alpha


def beam_search(
    step: Step,
    state: PyTree,
    rows: int,
    *,
    beams: int,
    length: int,
    vocab_size: int,
    alpha: float = 0.0,
    axis: int = 0,
    fixed: tuple[str, ...] = (),
) -> Sequences:
    """The sequence of the largest log probability / length penalty among those that are looked at.

    At each place the K most likely of all continuations are looked at; those that end are hypotheses,
    and the K most likely others go on. A row is done after K hypotheses, or when nothing that goes on
    can overtake its best one any more. So one beam is greedy decoding, and with as many beams as there
    are sequences the result is exact. Where no hypothesis ends within T tokens, the most likely
    unfinished sequence is taken.

    Args:
      step: see `Step`; called with separators first.
      state: what the first step gets, as it is for all hypotheses.
      rows: B.
      beams: K.
      length: T; the separator that ends a sequence is among its tokens, and counts in the penalty.
      vocab_size: V of the data; the last token is the separator. Further logits are never chosen.
      alpha: of the length penalty, at least 0.
      axis: where the arrays of the state that have rows have [B, K]; those of fewer dimensions are
        the same for all hypotheses.
      fixed: names of arrays of the state that are equal for all hypotheses of a row, such as keys and
        values of what was read: they stay where they are.
    """
    tokens_BKT = jnp.full((rows, beams, length), vocab_size - 1, jnp.int32)

    def done_B(at: _Beams) -> jax.Array:
        bound_B = jnp.max(at.logp_BK, axis=1) / length_penalty(length, alpha)
        return (at.ends_B >= beams) | (at.best.score >= bound_B)

    def unfinished(at: _Beams) -> jax.Array:
        return (at.place < length) & ~jnp.all(done_B(at))

    def turn(at: _Beams) -> _Beams:
        beam_BK, token_BK, at = _choose(at, done_B(at), vocab_size, alpha)
        # Within a row, so that rows may lie on several devices.
        take = jax.vmap(functools.partial(jnp.take, axis=axis), in_axes=(axis, 0), out_axes=axis)

        def follow(path: tuple[jax.tree_util.DictKey, ...], x: jax.Array) -> jax.Array:
            return x if x.ndim < axis + 2 or path[-1].key in fixed else take(x, beam_BK)

        state = jax.tree_util.tree_map_with_path(follow, at.state)
        # At the last place nothing is read from this step.
        logits_BKV, state = step(state, token_BK, at.place)
        return at._replace(logits_BKV=logits_BKV, state=state)

    logits_BKV, state = step(state, tokens_BKT[:, :, 0], jnp.int32(0))
    at = jax.lax.while_loop(unfinished, turn, _beginning(tokens_BKT, logits_BKV, state))
    score_B = at.logp_BK[:, 0] / length_penalty(length, alpha)
    return _better(at.best, ~at.best.ended, at.tokens_BKT[:, 0], score_B)


def _beginning(tokens_BKT: jax.Array, logits_BKV: jax.Array, state: PyTree) -> _Beams:
    """Before the first place, where all tokens are separators and `logits_BKV` are of the first step."""
    rows, beams, _ = tokens_BKT.shape
    return _Beams(
        place=jnp.int32(0),
        # All beams are equal at first: one of them goes on.
        logp_BK=jnp.where(jnp.arange(beams) == 0, 0.0, NEVER)[None].repeat(rows, axis=0),
        tokens_BKT=tokens_BKT,
        logits_BKV=logits_BKV,
        state=state,
        best=Sequences(
            tokens_BKT[:, 0], jnp.full((rows,), NEVER, jnp.float32), jnp.zeros((rows,), bool)
        ),
        ends_B=jnp.zeros((rows,), jnp.int32),
    )


def _choose(
    at: _Beams, done_B: jax.Array, vocab_size: int, alpha: float
) -> tuple[jax.Array, jax.Array, _Beams]:
    """(which beams go on [B, K], with which tokens [B, K], what is there after that place).

    `logits_BKV` and `state` stay those of before.
    """
    beams, separator = at.logp_BK.shape[1], vocab_size - 1
    logp_BKV = jax.nn.log_softmax(at.logits_BKV[:, :, :vocab_size].astype(jnp.float32))
    logp_BJ = (at.logp_BK[:, :, None] + logp_BKV).reshape(len(logp_BKV), -1)
    # Each beam has one continuation that ends: 2 K hold K that go on.
    logp_BC, flat_BC = jax.lax.top_k(logp_BJ, 2 * beams)
    beam_BC, token_BC = flat_BC // vocab_size, flat_BC % vocab_size
    tokens_BCT = jnp.take_along_axis(at.tokens_BKT, beam_BC[:, :, None], axis=1)
    tokens_BCT = jax.lax.dynamic_update_slice_in_dim(
        tokens_BCT, token_BC[:, :, None], at.place, axis=2
    )
    ends_BC = token_BC == separator

    finished_BC = ends_BC & (jnp.arange(2 * beams) < beams)[None] & (logp_BC > NEVER / 2)
    finished_BC &= ~done_B[:, None]
    score_BC = jnp.where(finished_BC, logp_BC / length_penalty(at.place + 1, alpha), NEVER)
    first_B = jnp.argmax(score_BC, axis=1)
    score_B = jnp.max(score_BC, axis=1)
    better_B = score_B > at.best.score
    tokens_BT = jnp.take_along_axis(tokens_BCT, first_B[:, None, None], axis=1)[:, 0]
    best = _better(at.best, better_B, tokens_BT, score_B)
    best = best._replace(ended=best.ended | better_B)

    logp_BK, place_BK = jax.lax.top_k(jnp.where(ends_BC, NEVER, logp_BC), beams)
    beam_BK, token_BK = (jnp.take_along_axis(x, place_BK, axis=1) for x in (beam_BC, token_BC))
    after = at._replace(
        place=at.place + 1,
        logp_BK=logp_BK,
        tokens_BKT=jnp.take_along_axis(tokens_BCT, place_BK[:, :, None], axis=1),
        best=best,
        ends_B=at.ends_B + jnp.sum(finished_BC, axis=1),
    )
    return beam_BK, token_BK, after


def _better(
    best: Sequences, better_B: jax.Array, tokens_BT: jax.Array, score_B: jax.Array
) -> Sequences:
    """The best sequences, with others in the rows in which these are better; `ended` stays."""
    return Sequences(
        jnp.where(better_B[:, None], tokens_BT, best.tokens),
        jnp.where(better_B, score_B, best.score),
        best.ended,
    )
