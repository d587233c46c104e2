"""Beam search against all sequences there are, one beam against the most likely token each time."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.tasks.beam import beam_search, length_penalty

VOCAB, LENGTH, ROWS = 3, 4, 16
END = VOCAB - 1


def tables(scale=2.0):
    """logits [ROWS, prefixes, VOCAB]: of each row another model, which knows the whole prefix."""
    random = np.random.default_rng(0)
    return scale * random.standard_normal((ROWS, VOCAB**LENGTH, VOCAB)).astype(np.float32)


def step(tables_BPV, state, tokens_BK, place):
    """A model whose cache is the number of the prefix; the beginning is prefix 0."""
    digit = jnp.where(place == 0, 0, (tokens_BK + 1) * (VOCAB + 1) ** (place - 1))
    prefix_BK = state["prefix"] + digit
    rows = jnp.arange(ROWS)[:, None]
    return tables_BPV[rows, prefix_BK % VOCAB**LENGTH], {"prefix": prefix_BK, "place": place}


def searched(tables_BPV, beams, alpha):
    state = {"prefix": jnp.zeros((ROWS, beams), jnp.int32), "place": jnp.int32(0)}
    run = functools.partial(
        beam_search,
        functools.partial(step, jnp.asarray(tables_BPV)),
        rows=ROWS,
        beams=beams,
        length=LENGTH,
        vocab_size=VOCAB,
        alpha=alpha,
    )
    return jax.tree.map(np.asarray, jax.jit(run)(state))


def log_probability(table_PV, sequence):
    prefix, total = 0, 0.0
    for place, token in enumerate(sequence):
        logits = table_PV[prefix % VOCAB**LENGTH].astype(np.float64)
        total += logits[token] - np.log(np.exp(logits).sum())
        prefix += (token + 1) * (VOCAB + 1) ** place
    return float(total)


def sequences():
    """All that end within LENGTH tokens."""
    for count in range(LENGTH):
        for tokens in itertools.product(range(END), repeat=count):
            yield (*tokens, END)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
def test_with_as_many_beams_as_sequences_it_is_the_best_of_them_all(alpha):
    logits = tables()
    best = searched(logits, beams=VOCAB**LENGTH, alpha=alpha)
    assert best.ended.all()
    for row in range(ROWS):
        scores = {
            s: log_probability(logits[row], s) / float(length_penalty(len(s), alpha))
            for s in sequences()
        }
        right = max(scores, key=scores.get)
        padded = (*right, *[END] * (LENGTH - len(right)))
        assert tuple(best.tokens[row]) == padded
        assert best.score[row] == pytest.approx(scores[right], rel=1e-5)


def test_the_penalty_is_the_papers_and_makes_longer_ones_win():
    assert length_penalty(7, 0.6) == pytest.approx((12 / 6) ** 0.6)
    logits = tables(scale=0.5)
    lengths = [
        (searched(logits, VOCAB**LENGTH, alpha).tokens != END).sum() for alpha in (0.0, 1.0, 3.0)
    ]
    assert lengths[0] < lengths[1] < lengths[2]


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_one_beam_takes_the_most_likely_token_each_time(alpha):
    logits = tables()
    logits[::2, :, END] -= 3.0
    best = searched(logits, beams=1, alpha=alpha)
    ended = 0
    for row in range(ROWS):
        prefix, tokens = 0, []
        for place in range(LENGTH):
            tokens.append(int(np.argmax(logits[row, prefix % VOCAB**LENGTH])))
            if tokens[-1] == END:
                break
            prefix += (tokens[-1] + 1) * (VOCAB + 1) ** place
        padded = (*tokens, *[END] * (LENGTH - len(tokens)))
        assert tuple(best.tokens[row]) == padded
        assert best.ended[row] == (tokens[-1] == END)
        expected = log_probability(logits[row], tokens) / float(length_penalty(len(tokens), alpha))
        assert best.score[row] == pytest.approx(expected, rel=1e-5)
        ended += best.ended[row]
    assert 0 < ended < ROWS  # both cases are there


def test_numbers_behind_the_vocabulary_are_never_written():
    logits = tables()
    wide = np.concatenate([logits, np.full((*logits.shape[:2], 2), 50.0, np.float32)], axis=-1)
    a, b = searched(logits, 3, 0.6), searched(wide, 3, 0.6)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_what_is_equal_for_all_hypotheses_stays_where_it_is():
    """What was read is not gathered anew at each place, and the result is the same."""

    def run(fixed):
        def read(state, tokens_BK, place):
            logits_BKV, after = step(jnp.asarray(tables()), state, tokens_BK, place)
            return logits_BKV + state["memory"], {**after, "memory": state["memory"]}

        memory = jnp.arange(ROWS * VOCAB, dtype=jnp.float32).reshape(ROWS, 1, VOCAB) / 40
        state = {"prefix": jnp.zeros((ROWS, 3), jnp.int32), "place": jnp.int32(0)}
        state["memory"] = jnp.tile(memory, (1, 3, 1))
        sizes = {"rows": ROWS, "beams": 3, "length": LENGTH, "vocab_size": VOCAB}
        return lambda: beam_search(read, state, **sizes, fixed=fixed)

    moved, kept = (run(fixed) for fixed in ((), ("memory",)))
    gathers = [str(jax.make_jaxpr(search)()).count("gather[") for search in (moved, kept)]
    assert gathers[1] < gathers[0]
    jax.tree.map(np.testing.assert_array_equal, jax.jit(moved)(), jax.jit(kept)())
