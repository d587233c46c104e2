"""Ratings and histories: what is read, what is held out, and which line an error names."""

import gzip

import numpy as np
import pytest
from helpers import resolved
from ml_collections import ConfigDict

from scaling import data
from scaling.data.errors import DataError

HEADER = "userId,movieId,rating,timestamp\n"
# User 7 rates four items (out of order), user 9 three, user 11 one: nothing to leave out.
ROWS = ["7,30,4.0,300", "7,10,5.0,100", "7,20,1.5,200", "7,40,3.0,400"]
ROWS += ["9,20,2.0,5", "9,10,4.5,6", "9,40,0.5,7", "11,50,5.0,1"]


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "ratings.csv.gz"
    path.write_bytes(gzip.compress((HEADER + "\n".join(ROWS) + "\n").encode()))
    return path


def opened(path, cache, name="ratings", length=4, **more):
    source = {"name": name, "paths": (str(path),), **more}
    section = {"source": source}
    if name == "histories":
        section["text"] = {"seq_len": length}
    task = {"name": "next_item" if name == "histories" else "rating"}
    model = {"name": "two_tower" if name == "histories" else "matrix_factorisation"}
    optim = {"name": "adamw", "learning_rate": 1e-2, "schedule": {"name": "constant"}}
    config = ConfigDict({"name": "tiny", "task": task, "model": model, "data": section})
    config.update({"optim": optim, "train": {"steps": 1}})
    overrides = {"data.eval_fraction": 0.25} if more.get("split") == "random" else {}
    return data.build(resolved(config, {"train.batch_size": 2, **overrides}), cache)


def test_the_last_rating_of_each_user_is_held_out_with_what_came_before(table, tmp_path):
    built = opened(table, tmp_path / "cache", split="last")
    names = built.artefacts["names"]
    assert names.users == ("7", "9", "11")
    assert names.items == ("10", "20", "30", "40", "50")
    held_out = built.evals["eval"].batch(0, 2, 0, 2)
    np.testing.assert_array_equal(held_out["user"], [0, 1])
    np.testing.assert_array_equal(held_out["item"], [3, 3])
    np.testing.assert_array_equal(held_out["seen"], [[0, 1, 2], [1, 0, 5]])
    before = built.evals["valid"].batch(0, 2, 0, 2)
    np.testing.assert_array_equal(before["item"], [2, 0])
    np.testing.assert_array_equal(before["seen"], [[0, 1, 5], [1, 5, 5]])
    facts = built.info.facts
    # Training: 7 rates 10 and 20, 9 rates 20, 11 rates 50.
    assert facts["item_counts"] == [1, 2, 0, 0, 1]
    assert facts["mean_rating"] == pytest.approx((5.0 + 1.5 + 2.0 + 5.0) / 4)
    assert facts["rating_range"] == [0.5, 5.0]


def test_a_random_share_is_held_out_and_no_rating_is_on_both_sides(table, tmp_path):
    built = opened(table, tmp_path / "cache", split="random")
    assert built.sizes["eval_examples"] == 2
    assert built.sizes["train_examples"] == 6
    batches = [built.train.batch(step, 0, 2) for step in range(3)]
    batches.append(built.evals["eval"].batch(0, 2, 0, 2))
    pairs = [(u, i) for b in batches for u, i in zip(b["user"], b["item"], strict=True)]
    assert len(set(pairs)) == 8


def test_histories_are_in_the_order_of_time_and_end_before_what_is_held_out(table, tmp_path):
    built = opened(table, tmp_path / "cache", "histories")
    held_out = built.evals["eval"].batch(0, 2, 0, 2)
    separator = 5
    # The separator, then 10, 20, 30 of user 7; the target, 40, stands where the history ends.
    np.testing.assert_array_equal(
        held_out["inputs"], [[separator, 0, 1, 2], [separator, 1, 0, separator]]
    )
    np.testing.assert_array_equal(held_out["weights"], [[0, 0, 0, 1], [0, 0, 1, 0]])
    np.testing.assert_array_equal(held_out["targets"], [[0, 0, 0, 3], [0, 0, 3, 0]])
    short = opened(table, tmp_path / "cache", "histories", length=2)
    rows = short.evals["eval"].batch(0, 2, 0, 2)["inputs"]
    np.testing.assert_array_equal(rows, [[1, 2], [1, 0]])  # the last two items


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("7,60,good,500", r"line 10: rating is 'good', not a number"),
        ("7,60,nan,500", "not a finite number"),
        ("7,60,4.0", "line 10: has 3 cells, and there are 4 columns"),
        (",60,4.0,500", "line 10: has no userId"),
    ],
)
def test_a_bad_line_is_named(tmp_path, row, message):
    path = tmp_path / "bad.csv"
    path.write_text(HEADER + "\n".join([*ROWS, row]) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=message):
        opened(path, tmp_path / "cache", split="random")


def test_other_columns_are_named_and_other_delimiters_read(tmp_path):
    path = tmp_path / "ratings.dat"
    path.write_text("\n".join(row.replace(",", "::") for row in ROWS), encoding="latin-1")
    with pytest.raises(DataError, match=r"no column 'userId' among .*data\.source\.user"):
        opened(path, tmp_path / "cache", split="last")
    layout = {"delimiter": "::", "names": ("userId", "movieId", "rating", "timestamp")}
    built = opened(path, tmp_path / "cache", split="last", **layout)
    np.testing.assert_array_equal(built.evals["eval"].batch(0, 2, 0, 2)["item"], [3, 3])


def test_nothing_to_leave_out_is_said(tmp_path):
    path = tmp_path / "few.csv"
    path.write_text(HEADER + "1,1,4.0,1\n2,1,3.0,1\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"fewer than 3 ratings.*split=random"):
        opened(path, tmp_path / "cache", split="last")
