"""Bad tables: a clear error, or a warning and a recorded exclusion; never silence."""

import shlex

import numpy as np
import pytest
from laws.law_data import surface

from scaling.laws import LawError, Loss, get_law, read_table
from scaling.laws.arguments import pairs
from scaling.laws.table import Table


def prepare(columns, law="chinchilla", loss=None):
    return Table.from_columns(columns).prepare(get_law(law), loss or Loss())


def test_invalid_cells_are_excluded_with_row_and_reason():
    loss = ["3.1", "nan", "-1", "oops", "", "2.5", "inf"]
    columns = {"params": np.geomspace(1e7, 1e9, 7), "tokens": np.full(7, 1e9), "loss": loss}
    table, warnings = prepare(columns)
    assert list(table.columns["loss"]) == [3.1, 2.5]
    assert dict(table.excluded) == {
        2: "loss is 'nan', not a finite number",
        3: "loss = -1 is not above 0",
        4: "loss is 'oops', not a finite number",
        5: "loss is empty",
        7: "loss is 'inf', not a finite number",
    }
    assert any("5 of 7 rows excluded" in w for w in warnings)


def test_nothing_usable_is_an_error():
    with pytest.raises(LawError, match=r"none of 2 rows is usable.*row 1: loss is 'x'"):
        prepare({"params": [1e8, 2e8], "tokens": [1e9, 1e9], "loss": ["x", "y"]})


def test_missing_column_names_the_nearest():
    with pytest.raises(LawError, match=r"no column 'loss' .*write\n  --columns=loss=losses$"):
        prepare({"params": [1.0], "tokens": [1.0], "losses": [1.0]})


def test_duplicates_are_warned_but_seeds_are_not():
    row = {"params": [1e8] * 3, "tokens": [1e9] * 3, "loss": [3.0] * 3}
    assert any("2 rows repeat" in w for w in prepare(row)[1])
    assert not any("repeat" in w for w in prepare({**row, "seed": [0, 1, 2]})[1])
    _, other = prepare({**row, "width": [64, 64, 128]})
    assert any("2 rows equal another in all that the law sees (params, tokens, loss), though not in "
               "width" in w for w in other)  # fmt: skip


def test_rows_without_a_run_are_runs_of_their_own():
    rows = {"params": [1e8, 2e8, 3e8, 4e8], "tokens": [1e9] * 4, "loss": [3.0, 2.9, 2.8, 2.7]}
    table, warnings = prepare({**rows, "run_id": ["a", "", "a", " "]})
    assert len(set(table.clusters)) == 3
    assert table.clusters[0] == table.clusters[2]
    assert any("2 of 4 rows have no run_id: each counts as its own" in w for w in warnings)


def test_tokens_follow_from_flops_and_say_so():
    table, warnings = prepare({"params": [1e8, 2e8], "flops": [6e17, 6e18], "loss": [3.0, 2.8]})
    np.testing.assert_allclose(table.columns["tokens"], [1e9, 5e9])
    assert table.notes["tokens"] == "flops / (6 params)"
    assert any("tokens is absent" in w for w in warnings)


def test_columns_map_with_factors(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("n (M),tokens_b,eval\n100,2,3.5\n200,4,3.1\n")
    table = read_table(path).mapped(
        {"params": "n (M)*1e6", "tokens": "tokens_b*1e9", "loss": "eval"}
    )
    assert list(table.columns["params"]) == [1e8, 2e8]
    with pytest.raises(LawError, match="no column 'tokens_B'; did you mean 'tokens_b'"):
        read_table(path).mapped({"tokens": "tokens_B"})


def test_columns_of_different_length_are_refused():
    data = surface()
    data["loss"] = data["loss"][:-1]
    with pytest.raises(LawError, match="different lengths"):
        Table.from_columns(data)


@pytest.mark.parametrize("cell", ["1,018", "12B", "1.5e9 params", "3.1*"])
def test_a_cell_with_digits_that_is_no_number_is_refused_not_dropped(cell):
    table = Table.from_columns({**surface(), "params": [cell, *surface()["params"][1:]]})
    with pytest.raises(LawError, match="row 1, which is not a number") as caught:
        table.prepare(get_law("chinchilla"), Loss())
    assert repr(cell) in str(caught.value)
    readable = cell in ("1,018", "12B")
    assert ("--spelled" in str(caught.value)) == readable
    assert (f"--exclude=params=={cell}" in str(caught.value)) == (not readable)


@pytest.mark.parametrize(("params", "tokens"), [(1e6, 1e9), (1.0, 1e9), (1e9, 1e12), (1e6, 1.0)])
def test_flops_tell_that_a_column_is_in_another_unit(params, tokens):
    columns = surface()
    columns["flops"] = 6 * columns["params"] * columns["tokens"]
    table = Table.from_columns(
        {**columns, "params": columns["params"] / params, "tokens": columns["tokens"] / tokens}
    )
    with pytest.raises(LawError, match="one of the three is not in FLOP") as caught:
        table.prepare(get_law("chinchilla"), Loss())
    typed = shlex.split(str(caught.value).splitlines()[1], comments=True)[0].removeprefix(
        "--columns="
    )
    mapped, _ = table.mapped(pairs(typed)).prepare(get_law("chinchilla"), Loss())
    np.testing.assert_allclose(mapped.columns["params"], columns["params"])
    np.testing.assert_allclose(mapped.columns["tokens"], columns["tokens"])


@pytest.mark.parametrize(
    ("name", "factor"),
    [("size (M)", "1e6"), ("size_M", "1e6"), ("size in millions", "1e6"), ("D (Billions)", "1e9"),
     ("D (thousands)", "1e3"), ("D in trillions", "1e12"), ("D (T)", "1e12")],
)  # fmt: skip
def test_a_name_that_says_the_unit_wants_a_factor(name, factor):
    table = Table.from_columns({name: [1.0, 2.0]})
    with pytest.raises(LawError, match=rf"\*{factor}'\n.*\*1'   # if it is in units"):
        table.mapped({"params": name})
    assert table.mapped({"params": f"{name}*1e6"}).columns["params"][1] == 2e6


def test_a_comma_in_a_columns_name_goes_through_the_flag():
    assert pairs("params=Model size, params*1e6,tokens=T, total") == {
        "params": "Model size, params*1e6", "tokens": "T, total",
    }  # fmt: skip
    with pytest.raises(ValueError, match="is not NAME=VALUE"):
        pairs("params")
