"""Classifiers of text: padding changes nothing, and the counts are those by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.models.recommender import MatrixFactorisation, TwoTower
from scaling.models.text import KimCNN, TextEncoder

KIM = KimCNN(num_classes=3, vocab_size=11, embed_dim=5, filters=4, filter_widths=(2, 3))
ENCODER = TextEncoder(
    num_classes=3,
    vocab_size=11,
    num_layers=2,
    model_dim=8,
    num_heads=2,
    position="learned",
    max_len=9,
)


@pytest.mark.parametrize("model", [KIM, ENCODER], ids=["kim", "encoder"])
def test_logits_do_not_depend_on_the_padding(model):
    random = np.random.default_rng(0)
    inputs_BT = jnp.asarray(random.integers(0, 10, (2, 5)))
    text_BT = jnp.ones((2, 5), jnp.int32)
    variables = model.init(jax.random.key(0), inputs_BT, text_BT, train=False)
    short = model.apply(variables, inputs_BT, text_BT, train=False)
    wide = [
        jnp.pad(x, ((0, 0), (0, 4)), constant_values=v) for x, v in ((inputs_BT, 10), (text_BT, 0))
    ]
    np.testing.assert_allclose(model.apply(variables, *wide, train=False), short, atol=1e-6)
    # It reads both ways: the last word changes what the first ones come to.
    other = inputs_BT.at[:, -1].add(1)
    assert not np.allclose(model.apply(variables, other, text_BT, train=False), short, atol=1e-3)


def test_counts_by_hand():
    # Filters of 2 and 3 words over 5 numbers, four each, with biases; a head of 8 x 3.
    cost = KIM.cost(6)
    assert cost.embedding == 11 * 5
    assert cost.body == (2 * 5 * 4 + 4) + (3 * 5 * 4 + 4) + 8 * 3 + 3
    assert cost.matmul == 40 * 7 + 60 * 8 + 24  # windows over both ends of six words
    factors = MatrixFactorisation(num_users=7, num_items=9, dim=4).cost()
    assert (factors.embedding, factors.matmul) == ((7 + 9) * 5, 4)


def test_factors_are_biases_and_inner_products():
    model = MatrixFactorisation(num_users=3, num_items=4, dim=2)
    user_B, item_B = jnp.array([0, 2]), jnp.array([3, 1])
    variables = model.init(jax.random.key(0), user_B, item_B, train=False)
    variables["params"]["user_bias"] = variables["params"]["user_bias"].replace(
        value=jnp.array([0.1, 0.2, 0.3])
    )
    p = jax.tree.map(np.asarray, jax.tree.map(lambda x: x, variables["params"]))
    p = {name: np.asarray(getattr(x, "value", x)) for name, x in p.items()}
    expected = [
        p["user_bias"][u] + p["user_factors"][u] @ p["item_factors"][i] for u, i in ((0, 3), (2, 1))
    ]
    np.testing.assert_allclose(
        model.apply(variables, user_B, item_B, train=False), expected, rtol=1e-5
    )
    scores_BV = model.apply(variables, user_B, train=False, method=model.scores)
    np.testing.assert_allclose([scores_BV[0, 3], scores_BV[1, 1]], expected, rtol=1e-5)


def test_a_tower_reads_its_own_history_and_only_what_came_before():
    model = TwoTower(vocab_size=9, model_dim=4, hidden_dim=6)
    inputs_BT, segments_BT = jnp.array([[1, 2, 3, 4, 5]]), jnp.array([[1, 1, 1, 2, 2]])
    variables = model.init(jax.random.key(0), inputs_BT, segments_BT, train=False)
    base = model.apply(variables, inputs_BT, segments_BT, train=False)
    assert base.shape == (1, 5, 9)
    changed = model.apply(variables, inputs_BT.at[0, 1].set(8), segments_BT, train=False)
    same = np.isclose(changed, base).all(axis=-1)[0]
    np.testing.assert_array_equal(same, [True, False, False, True, True])
