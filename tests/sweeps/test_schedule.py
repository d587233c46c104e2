"""Which cells run together."""

from helpers import tiny_language_model

from scaling.sweeps import schedule
from scaling.sweeps.cost import of_one_step
from scaling.sweeps.design import Cell
from scaling.sweeps.worker import max_members


def cell(name: str, **overrides: object) -> Cell:
    return Cell(name, tiny_language_model(**overrides), {})


def test_groups_of_nearly_equal_size_in_the_order_of_the_cells():
    cells = [cell(f"a{i}", seed=i) for i in range(5)]
    cells.insert(2, cell("b", **{"train.steps": 9}))
    found = [[one.id for one in group] for group in schedule.groups(cells, 4)]
    assert found == [["a0", "a1"], ["a2", "a3", "a4"], ["b"]]


def test_members_that_fit_into_memory():
    plain, averaged = (
        tiny_language_model(**{"model.vocab_size": 257, **changes})
        for changes in ({}, {"train.ema_decay": 0.9})
    )
    memory = 2 * 7 * of_one_step(plain).kept_bytes
    assert max_members(plain, memory) == 7
    assert max_members(averaged, memory) == 5, "parameters, two moments, and the average"
    assert max_members(plain, 1) == 1
