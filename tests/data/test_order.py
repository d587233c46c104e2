import numpy as np
import pytest

from scaling.data.errors import DataError
from scaling.data.order import MAX_SLOTS, LaneOrder, MixtureOrder, ShuffledOrder, in_lanes, slots


def test_each_epoch_is_another_permutation():
    order = ShuffledOrder(53, seed=3)
    epochs = order(np.arange(53 * 4)).reshape(4, 53)
    for row in epochs:
        np.testing.assert_array_equal(np.sort(row), np.arange(53))
    assert len({tuple(row) for row in epochs}) == 4
    assert order.epoch(106) == 2.0


def test_seeds_and_labels_give_other_orders():
    rows = [ShuffledOrder(100, 0), ShuffledOrder(100, 1), ShuffledOrder(100, 0, "b")]
    assert len({tuple(order(np.arange(100))) for order in rows}) == 3
    again = ShuffledOrder(100, 0)(np.arange(100))
    np.testing.assert_array_equal(again, rows[0](np.arange(100)))


SIZES = {"a": 37, "b": 1000, "c": 8}
WEIGHTS = {"a": 0.2, "b": 0.7, "c": 0.1}


def members(order, positions):
    bounds = np.cumsum([0, *SIZES.values()])
    index = order(positions)
    return np.searchsorted(bounds, index, side="right") - 1, index


def test_weights_hold_exactly_in_every_block():
    order = MixtureOrder(SIZES, WEIGHTS, seed=0)
    assert order.slots == {"a": 2, "b": 7, "c": 1}
    member, _ = members(order, np.arange(500 * 10))
    for block in member.reshape(500, 10):
        np.testing.assert_array_equal(np.bincount(block, minlength=3), [2, 7, 1])
    assert len({tuple(block) for block in member.reshape(500, 10)}) > 100  # and are shuffled


def test_each_member_is_walked_in_permutations_of_its_own():
    order = MixtureOrder(SIZES, WEIGHTS, seed=1)
    member, index = members(order, np.arange(10 * 37 * 20))
    offset = 0
    for m, size in enumerate(SIZES.values()):
        seen = np.sort(index[member == m] - offset)
        passes, rest = divmod(len(seen), size)
        counts = np.bincount(seen, minlength=size)
        assert counts.min() >= passes - 1
        assert counts.max() <= passes + 2  # the block's shuffle may lend across an epoch's edge
        if rest == 0:
            assert set(counts) == {passes}
        offset += size


def test_any_position_is_had_without_the_others():
    order = MixtureOrder(SIZES, WEIGHTS, seed=2)
    positions = np.array([7, 123_456_789_012, 3, 7, 999])
    alone = [order(np.array([p]))[0] for p in positions]
    np.testing.assert_array_equal(order(positions), alone)
    everything = order(np.arange(1000))
    np.testing.assert_array_equal(order(np.arange(990, 1000)), everything[990:])


def test_ends_before_a_member_repeats():
    order = MixtureOrder(SIZES, WEIGHTS, seed=0)
    assert order.length == 8 * 10  # "c" has 8 examples and gives one a block
    index = order(np.arange(order.length))
    assert len(np.unique(index)) == order.length
    assert order.epoch(order.length) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({"a": 1.0}, {"a": 1}),
        ({"a": 1, "b": 1, "c": 1}, {"a": 1, "b": 1, "c": 1}),
        ({"a": 0.7, "b": 0.3}, {"a": 7, "b": 3}),
        ({"a": 3.5, "b": 1.5}, {"a": 7, "b": 3}),
        ({"a": 0.999, "b": 0.001}, {"a": 999, "b": 1}),
        ({"a": 2e9, "b": 1e9}, {"a": 2, "b": 1}),
    ],
)
def test_slots_are_exact_for_simple_weights(weights, expected):
    assert slots(weights) == expected


def test_slots_of_other_weights_are_the_nearest():
    weights = {"a": np.pi, "b": np.e, "c": 0.012345}
    counts = slots(weights)
    assert sum(counts.values()) == MAX_SLOTS
    for name, weight in weights.items():
        assert abs(counts[name] / MAX_SLOTS - weight / sum(weights.values())) < 1 / MAX_SLOTS


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf"), 1e-7])
def test_refuses_a_weight_that_never_comes(weight):
    with pytest.raises(DataError, match=r"data\.mixture\.b\.weight"):
        slots({"a": 1.0, "b": weight})


@pytest.mark.parametrize(
    "order",
    [
        ShuffledOrder(1, 3),
        ShuffledOrder(37, 3),
        MixtureOrder({"a": 13, "b": 5}, {"a": 0.7, "b": 0.3}, 3),
    ],
)
def test_visits_are_those_of_the_positions_before(order):
    size = 1 if order.length == 1 else 37 if order.length == 37 else 18
    for position in (0, 1, 9, 10, 36, 37, 38, 95, 200):
        seen = np.bincount(order(np.arange(position)), minlength=size)
        assert [order.visits(index, position) for index in range(size)] == seen.tolist()


def test_a_row_of_the_batch_reads_the_stream_on_and_on():
    order = LaneOrder(size=23, rows=4)  # 5 windows for each row, 3 at the end are left out
    rows = order(np.arange(20 * 4)).reshape(20, 4)
    np.testing.assert_array_equal(rows[0], [0, 5, 10, 15])
    # The next window, also into the part of the next row; only the end of the stream is a jump.
    np.testing.assert_array_equal(rows[1:], (rows[:-1] + 1) % 20)
    for epoch in rows.reshape(4, 20):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(20))
    assert (order.length, order.epoch(30)) == (20, 1.5)
    for position in (0, 1, 7, 20, 33, 80):
        seen = np.bincount(order(np.arange(position)), minlength=23)
        assert [order.visits(i, position) for i in range(23)] == seen.tolist()
    with pytest.raises(DataError, match="3 windows are fewer than the 4 rows"):
        LaneOrder(3, 4)


@pytest.mark.parametrize(("size", "rows"), [(12, 4), (14, 4), (3, 4), (9, 2)])
def test_held_out_windows_in_lanes(size, rows):
    window = in_lanes(np.arange(size), size, rows)
    np.testing.assert_array_equal(np.sort(window), np.arange(size))
    for row in range(min(rows, size)):
        lane = window[row::rows]
        np.testing.assert_array_equal(lane, lane[0] + np.arange(len(lane)))
