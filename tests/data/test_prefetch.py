import threading
import time

import pytest

from scaling.data.prefetch import Prefetcher


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("depth", [1, 4])
def test_order_does_not_depend_on_workers_or_depth(workers, depth):
    def fetch(step):
        time.sleep(0.002 * (step % 3))
        return step

    with Prefetcher(fetch, 7, depth, workers) as batches:
        assert [batches.get() for _ in range(20)] == list(range(7, 27))


def test_runs_ahead_by_its_depth_and_no_further():
    asked = []
    with Prefetcher(lambda step: asked.append(step), 0, depth=3) as batches:
        time.sleep(0.05)
        assert asked == [0, 1, 2]
        batches.get()
        time.sleep(0.05)
        assert asked == [0, 1, 2, 3]


def test_an_error_reaches_the_caller_at_its_step_and_is_not_skipped_over():
    def fetch(step):
        if step == 2:
            raise OSError("disk gone")
        return step

    with Prefetcher(fetch, 0, 4, 2) as batches:
        assert [batches.get(), batches.get()] == [0, 1]
        for _ in range(2):
            with pytest.raises(OSError, match="disk gone"):
                batches.get()


def test_ends_where_it_is_told():
    with Prefetcher(lambda step: step, 3, 4, end_step=5) as batches:
        assert [batches.get(), batches.get()] == [3, 4]
        with pytest.raises(StopIteration):
            batches.get()


def test_close_leaves_no_thread():
    before = threading.active_count()
    batches = Prefetcher(lambda step: time.sleep(0.01), 0, 8, 3)
    batches.get()
    batches.close()
    batches.close()
    assert threading.active_count() == before
