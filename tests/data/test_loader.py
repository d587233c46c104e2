import numpy as np
import pytest
from data_helpers import data_config, some_texts, write_documents

from scaling import data
from scaling.data.loader import Concat, EvalSet, Loader
from scaling.data.order import ShuffledOrder
from scaling.data.prefetch import Prefetcher


class Numbers:
    """Example i is the number i + first."""

    def __init__(self, size, first=0):
        self.spec = {"x": ((), np.dtype(np.int64)), "weights": ((), np.dtype(np.float32))}
        self.size, self.first = size, first

    def __len__(self):
        return self.size

    def gather(self, indices, positions=None):
        return {"x": indices + self.first, "weights": np.ones(len(indices), np.float32)}


def make(size, batch_size, on_end="repeat", seed=0):
    return Loader(Numbers(size), ShuffledOrder(size, seed), batch_size, on_end)


def test_a_batch_depends_on_its_step_alone():
    a, b = make(100, 8), make(100, 8)
    forward = [a.batch(s, 0, 8)["x"] for s in range(40)]
    backward = [b.batch(s, 0, 8)["x"] for s in reversed(range(40))][::-1]
    np.testing.assert_array_equal(forward, backward)
    np.testing.assert_array_equal(forward[5], a.indices(5))
    assert (np.array(forward) != [make(100, 8, seed=1).indices(s) for s in range(40)]).any()


@pytest.mark.parametrize("hosts", [1, 2, 3, 4, 12])
@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("files", [1, 2, 7])
def test_each_example_comes_once_an_epoch_for_any_hosts_workers_files(
    tmp_path, hosts, workers, files
):
    texts = some_texts(60)
    for i in range(files):
        write_documents(tmp_path / f"{i}.jsonl", texts[i::files])
    config = data_config(
        batch_size=12,
        source={"name": "files", "paths": (f"{tmp_path}/*.jsonl",)},
        seq_len=16,
        eval_fraction=0.0,
        on_end="stop",
    )
    train = data.build(config, tmp_path / "cache").train
    rows = 12 // hosts
    streams = []
    for host in range(hosts):
        start = host * rows

        def fetch(step, start=start):
            return train.batch(step, start, start + rows)

        with Prefetcher(fetch, 0, 3, workers, train.num_steps) as batches:
            streams.append([batches.get() for _ in range(train.num_steps)])
    seen = np.concatenate(
        [batch["targets"][batch["weights"] > 0] for stream in streams for batch in stream]
    )
    # Every byte of every document once, and one separator after each.
    expected = np.bincount(np.frombuffer("".join(texts).encode(), np.uint8), minlength=257)
    expected[256] = 60
    np.testing.assert_array_equal(np.bincount(seen, minlength=257), expected)
    ids = np.concatenate([train.indices(step) for step in range(train.num_steps)])
    ids = ids[ids >= 0]
    np.testing.assert_array_equal(np.sort(ids), np.arange(len(ids)))
    for step in range(train.num_steps):  # the hosts' rows make up the global batch
        whole = train.batch(step, 0, 12)
        for key in whole:
            parts = np.concatenate([stream[step][key] for stream in streams])
            np.testing.assert_array_equal(parts, whole[key])


def test_repeat_goes_on_with_a_new_permutation():
    loader = make(10, 4)
    assert loader.num_steps is None
    ids = np.concatenate([loader.indices(step) for step in range(5)]).reshape(2, 10)
    np.testing.assert_array_equal(np.sort(ids), [np.arange(10)] * 2)
    assert tuple(ids[0]) != tuple(ids[1])
    assert loader.epoch(5) == 2.0


def test_stop_ends_at_one_step_with_a_padded_batch():
    loader = make(10, 4, "stop")
    assert loader.num_steps == 3
    ids = np.concatenate([loader.indices(step) for step in range(3)])
    np.testing.assert_array_equal(np.sort(ids), [-1, -1, *range(10)])
    last = loader.batch(2, 0, 4)
    np.testing.assert_array_equal(last["weights"], [1, 1, 0, 0])
    assert (last["x"] >= 0).all()  # padding repeats a real example
    np.testing.assert_array_equal(loader.batch(2, 2, 4)["weights"], [0, 0])
    for step in (3, -1):
        with pytest.raises(IndexError, match="ends after 3 steps"):
            loader.batch(step, 0, 4)


@pytest.mark.parametrize("batch_size", [1, 4, 10, 16])
def test_evaluation_sees_each_example_once(batch_size):
    split = EvalSet(Numbers(10))
    total = []
    for i in range(split.num_batches(batch_size)):
        batch = split.batch(i, batch_size, 0, batch_size)
        assert len(batch["x"]) == batch_size
        total += batch["x"][batch["weights"] > 0].tolist()
    assert total == list(range(10))


def test_concat_is_its_members_in_a_row():
    both = Concat([Numbers(3), Numbers(0), Numbers(4, first=100)])
    assert len(both) == 7
    batch = both.gather(np.array([6, 0, 3, 2, 6]))
    np.testing.assert_array_equal(batch["x"], [103, 0, 100, 2, 103])


@pytest.mark.parametrize("on_end", ["repeat", "stop"])
@pytest.mark.parametrize("mixed", [False, True])
def test_units_are_the_weights_of_the_batches_before(tmp_path, on_end, mixed):
    sources = {}
    for i in range(2):
        path = write_documents(tmp_path / f"{i}.jsonl", some_texts(20, seed=i))
        sources[f"m{i}"] = {"source": {"name": "files", "paths": (str(path),)}, "weight": 1.0 + i}
    read = {"mixture": sources} if mixed else {"source": sources["m0"]["source"]}
    config = data_config(batch_size=12, seq_len=16, eval_fraction=0.0, on_end=on_end, **read)
    train = data.build(config, tmp_path / "cache").train
    steps = train.num_steps or 40
    weights = [train.batch(step, 0, 12)["weights"].sum() for step in range(steps)]
    assert any(weight < 12 * 16 for weight in weights), "the last example of the data is short"
    seen = [train.units(step, 16) for step in range(steps + 1)]
    assert seen == [0, *np.cumsum(weights).astype(int)]
    if not mixed and on_end == "stop":
        assert train.epoch(steps) == 1.0


def test_units_of_an_order_of_a_users_own_are_counted_too():
    class Backwards:
        length = 5

        def __call__(self, positions):
            return 4 - np.asarray(positions) % 5

    class Short(Numbers):
        def padded(self):
            return {4: 3}

    loader = Loader(Short(5), Backwards(), 2)
    assert [loader.units(step, 10) for step in range(4)] == [0, 17, 37, 54]
