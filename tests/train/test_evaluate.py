"""Evaluation on the host: which batches, their sums in float64, and stopping early."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny_images

from scaling.configs import ConfigError
from scaling.data.loader import EvalSet
from scaling.tasks.base import Evaluation, Task
from scaling.train.evaluate import EarlyStopping, Scheduled, collect, schedule, spread


def early(mode: str, patience: int) -> EarlyStopping:
    return EarlyStopping("eval/score", mode, patience)


def stops(stopping: EarlyStopping, values: dict[int, float]) -> list[int]:
    """The steps whose evaluation says that the run should end."""
    return [step for step, v in values.items() if stopping.update(step, {"eval/score": v})]


def test_sums_are_added_in_float64():
    sums = [2.0**24, 1.0, 1.0]  # each is a float32, their sum is not

    def run(i, carry):
        return {"loss": (jnp.float32(sums[i]), jnp.ones(2))}, carry

    (found,) = collect(job(examples=3), True, run, None)
    assert float(found["loss"][0]) == 2**24 + 2
    np.testing.assert_array_equal(found["loss"][1], [3.0, 3.0])
    assert {x.dtype for x in found["loss"]} == {np.dtype(np.float64)}


def job(examples: int, keeps: str = "sums", carry: object = None) -> Scheduled:
    rows = EvalSet(Arrays(examples))
    return Scheduled("eval", Evaluation(None, None, keeps, carry), rows, 0, None, None, 1)


class Arrays:
    """As many examples as it is told."""

    spec: ClassVar[dict] = {"x": ((), np.dtype(np.int64))}

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def gather(self, indices, positions):
        return {"x": np.array(indices)}


@pytest.mark.parametrize(
    ("examples", "batches", "few"), [(5, 2, None), (5, 1, 2), (3, 9, 3), (2, 9, 2)]
)
def test_an_evaluation_of_too_few_examples_is_refused_before_training(examples, batches, few):
    images = Evaluation(None, None, "rows", least=4)
    task = Task(None, None, evaluations={"score": Evaluation(None, None), "judge": images})
    config = tiny_images(**{"eval.also": {"judge": {"batches": batches, "batch_size": 3}}})
    evals = {"eval": EvalSet(Arrays(examples))}
    if few is None:
        assert [job.name for job in schedule(config, task, evals)] == ["eval", "judge"]
        return
    with pytest.raises(
        ConfigError, match=rf"eval\.also\.judge\.batches: {few} examples are fewer than the 4"
    ):
        schedule(config, task, evals)


def test_rows_come_back_without_padding_and_for_each_member():
    task = dataclasses.replace(job(examples=5, keeps="rows"), batch_size=2)

    def run(i, carry):
        x = task.examples.batch(i, 2, 0, 2)["x"]
        return {"x": np.stack([x, x + 100])}, carry

    parts = [lambda values, i=i: {"x": values["x"][i]} for i in (0, 1)]
    first, second = collect(task, True, run, None, parts)
    assert first["x"].tolist() == [0, 1, 2, 3, 4]
    assert second["x"].tolist() == [100, 101, 102, 103, 104]


def test_a_carry_goes_through_the_first_batches_in_their_order():
    seen = []

    def run(i, carry):
        seen.append((i, carry))
        return {"loss": (np.ones(()), np.ones(()))}, carry + 1

    task = dataclasses.replace(job(examples=9, carry=lambda size: 0), batches=3)
    collect(task, False, run, 0)
    assert seen == [(0, 0), (1, 1), (2, 2)]


def test_a_limited_evaluation_is_spread_over_the_whole_split():
    assert [i // 2 for i in spread(10, 5)] == [0, 1, 2, 3, 4]  # one batch of every fifth
    assert spread(9, 1) == [4]
    for count, limit in ((7, None), (1, None), (3, 7), (3, 3)):
        assert spread(count, limit) == list(range(count))


@pytest.mark.parametrize(("mode", "better"), [("max", 1.0), ("min", -1.0)])
def test_the_mode_says_whether_more_or_less_is_better(mode, better):
    improving = {5: 0.1 * better, 10: 0.2 * better, 15: 0.3 * better}
    assert stops(early(mode, 2), improving) == []
    assert stops(early(mode, 2), {step: -value for step, value in improving.items()}) == [15]


def test_a_replayed_history_stops_at_the_step_of_the_live_one():
    values = {5: 3.0, 10: 2.0, 15: 2.5, 20: 2.4, 25: 2.6}
    assert stops(early("min", 3), values) == [25]
    lines = [{"step": step, "eval/score": value} for step, value in values.items()]
    for cut in range(len(lines) + 1):
        resumed = early("min", 3)
        resumed.replay([{"step": 1, "train/loss": 9.0}, *lines[:cut]])
        rest = {line["step"]: line["eval/score"] for line in lines[cut:]}
        assert stops(resumed, rest) == ([25] if rest else [])
        assert resumed.stopped(25)


def test_evaluations_that_a_rollback_repeats_count_once():
    once, twice = early("min", 3), early("min", 3)
    values = {5: 1.0, 10: 2.0, 15: 1.5}
    assert stops(once, values) == []
    assert stops(twice, values) == []
    stops(twice, {10: 2.0})
    assert twice.history == {5: 1.0, 10: 2.0}, "what was taken back is forgotten"
    assert stops(twice, {15: 1.5}) == []
    assert once == twice
    assert stops(once, {20: 1.2}) == stops(twice, {20: 1.2}) == [20]
