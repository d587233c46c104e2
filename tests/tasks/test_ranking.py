"""Places among all items against sorting in numpy, and the ratings' sums against float64."""

import jax.numpy as jnp
import numpy as np
import pytest

from scaling.tasks import ranking
from scaling.tasks.rating import summarize


def sorted_place(scores, right, seen):
    rivals = [s for item, s in enumerate(scores) if item != right and item not in seen]
    better = sum(s > scores[right] for s in rivals)
    return better + 0.5 * sum(s == scores[right] for s in rivals)


def test_places_are_those_of_sorting_without_what_was_seen():
    random = np.random.default_rng(0)
    scores_BV = random.integers(0, 12, (20, 30)).astype(np.float32)  # many ties
    item_B, seen_BS = random.integers(0, 30, 20), random.integers(0, 33, (20, 8))
    places = ranking.place(jnp.asarray(scores_BV), jnp.asarray(item_B), jnp.asarray(seen_BS))
    expected = [
        sorted_place(s, i, set(seen.tolist()))
        for s, i, seen in zip(scores_BV, item_B, seen_BS, strict=True)
    ]
    np.testing.assert_array_equal(places, expected)
    broken = scores_BV.copy()
    broken[:, 3] = np.nan  # a score that is not a number must not look like a hit
    places = ranking.place(jnp.asarray(broken), jnp.full(20, 3), jnp.full((20, 1), 30))
    np.testing.assert_array_equal(places, 29)


def test_the_three_measures_by_hand():
    # Places 0, 3 and 12 of 20 items; the last example is padding.
    scores_BV = np.tile(np.arange(20.0, 0.0, -1.0), (4, 1)).astype(np.float32)
    batch = {"seen": jnp.full((4, 1), 20), "weights": jnp.array([1.0, 1.0, 1.0, 0.0])}
    counts = list(range(20))  # the popular items are the last ones
    totals = ranking.totals(jnp.asarray(scores_BV), counts, jnp.array([0, 3, 12, 0]), batch)
    report = ranking.report({k: (np.asarray(s), np.asarray(w)) for k, (s, w) in totals.items()})
    assert report["hr10"] == pytest.approx(2 / 3)
    assert report["ndcg10"] == pytest.approx((1 + 1 / np.log2(5)) / 3)
    assert report["mrr"] == pytest.approx((1 + 1 / 4 + 1 / 13) / 3)
    assert report["popularity_hr10"] == pytest.approx(1 / 3)  # places 19, 16 and 7
    assert report["popularity_mrr"] == pytest.approx((1 / 20 + 1 / 17 + 1 / 8) / 3)


def test_errors_of_ratings():
    error = np.array([0.5, -1.0, 2.0])
    totals = {
        "loss": (np.sum(error**2), np.array(3.0)),
        "mae": (np.sum(np.abs(error)), np.array(3.0)),
        "moments": (np.array([np.sum(error**4), np.sum(error**2), 3.0]), np.array(3.0)),
    }
    report = summarize(totals)
    assert report["rmse"] == pytest.approx(np.sqrt(np.mean(error**2)))
    assert report["mae"] == pytest.approx(np.mean(np.abs(error)))
