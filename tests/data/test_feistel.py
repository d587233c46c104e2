import numpy as np
import pytest

from scaling.data.feistel import derive_key, mix64, permute, subkeys


def one_key(*parts):
    return np.array([derive_key(*parts)], np.uint64)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 9, 31, 100, 1000, 1024, 1025, 65_537])
def test_is_a_bijection(n):
    for seed in range(5):
        image = permute(np.arange(n), n, one_key(seed))
        np.testing.assert_array_equal(np.sort(image), np.arange(n))


def test_large_ranges_stay_injective_and_in_range():
    for n in (2**32 + 1, 2**40 + 7, 2**62):
        index = np.random.default_rng(0).integers(0, n, 20_000)
        image = permute(index, n, one_key(1))
        assert image.min() >= 0
        assert image.max() < n
        assert len(np.unique(image)) == len(np.unique(index))
        assert abs(image.mean() / n - 0.5) < 0.01


def test_every_place_is_equally_likely():
    n, seeds = 7, 7000
    keys = subkeys(0, np.arange(seeds))
    counts = np.zeros((n, n))
    for i in range(n):
        image = permute(np.full(seeds, i), n, keys)
        counts[i] = np.bincount(image, minlength=n)
    chi2 = ((counts - seeds / n) ** 2 / (seeds / n)).sum()
    assert chi2 < 78.9  # 99.99 % of chi-square with 36 degrees of freedom is below 78


def test_all_orders_of_a_small_range_occur_equally():
    n, seeds = 4, 24_000
    keys = subkeys(5, np.arange(seeds))
    image = np.stack([permute(np.full(seeds, i), n, keys) for i in range(n)], axis=1)
    _, counts = np.unique(image @ (4 ** np.arange(n)), return_counts=True)
    assert len(counts) == 24
    assert ((counts - 1000) ** 2 / 1000).sum() < 60  # 23 degrees of freedom


def test_has_no_affine_structure():
    # An affine map i -> (a i + b) mod n has one difference between neighbours; the best
    # affine guess for a random permutation is right about once or twice.
    n = 1009
    image = permute(np.arange(n), n, one_key(3))
    difference = np.diff(image) % n
    _, counts = np.unique(difference, return_counts=True)
    assert len(counts) > 0.55 * n  # 1 - 1/e of the differences of a random permutation
    assert counts.max() <= 9
    guesses = (image[:, None] - np.arange(n)[:, None] * np.arange(1, 200)) % n
    best = max(np.bincount(column).max() for column in guesses.T)
    assert best < 12
    # An affine map fails this very test.
    affine = (5 * np.arange(n) + 3) % n
    assert len(np.unique(np.diff(affine) % n)) == 1


def test_neighbours_are_spread():
    n = 100_000
    image = permute(np.arange(n), n, one_key(0)).astype(float)
    correlation = np.corrcoef(image[:-1], image[1:])[0, 1]
    assert abs(correlation) < 0.02


def test_a_key_for_each_row_equals_one_at_a_time():
    keys = subkeys(9, np.arange(50))
    index = np.arange(50) * 3
    together = permute(index, 1000, keys)
    alone = [permute(index[i : i + 1], 1000, keys[i : i + 1])[0] for i in range(50)]
    np.testing.assert_array_equal(together, alone)


def test_keys_differ_by_every_part():
    assert len({derive_key(0), derive_key(1), derive_key(0, "a"), derive_key("0")}) == 4
    assert len(np.unique(subkeys(0, np.arange(100_000)))) == 100_000
    assert len(np.unique(mix64(np.arange(1000, dtype=np.uint64)))) == 1000


@pytest.mark.parametrize(("index", "n"), [([5], 5), ([-1], 5), ([0], 0), ([0], 2**63)])
def test_refuses_what_is_out_of_range(index, n):
    with pytest.raises(ValueError, match=r"range|not in"):
        permute(np.array(index), n, one_key(0))


def test_never_changes():
    # The order of every run ever made depends on these numbers.
    key = derive_key(1, "order", "")
    assert key == 0x4B876F4B878F8E9D
    image = permute(np.arange(10), 10, subkeys(key, np.zeros(10)))
    assert image.tolist() == [7, 5, 1, 4, 6, 3, 9, 8, 0, 2]
