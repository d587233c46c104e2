import pytest

from scaling.configs.brackets import split_items, split_mapping, unquote
from scaling.configs.errors import RefusedError


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("7,8", ["7", "8"]),
        ("(7, 8)", ["7", "8"]),
        ("[7,8,]", ["7", "8"]),
        ("(7,)", ["7"]),
        ("7", ["7"]),
        ("()", []),
        ("(a,b),(c,d)", ["(a,b)", "(c,d)"]),
        ("((a,b),)", ["(a,b)"]),
        ("'a,b',c", ["'a,b'", "c"]),
    ],
)
def test_items(text: str, items: list[str]) -> None:
    assert split_items(text) == items


@pytest.mark.parametrize("text", ["", "(1,2", "1,,2", "1)", "(1]", "'a"])
def test_broken_items_are_refused(text: str) -> None:
    with pytest.raises(RefusedError):
        split_items(text)


def test_mapping() -> None:
    assert split_mapping("{a: 1, 'b': (2,3), c: x:y}") == {"a": "1", "b": "(2,3)", "c": "x:y"}


@pytest.mark.parametrize("text", ["a: 1", "{a}", "{a: 1, a: 2}", "{: 1}", "{a: 1"])
def test_broken_mappings_are_refused(text: str) -> None:
    with pytest.raises(RefusedError):
        split_mapping(text)


def test_unquote() -> None:
    assert unquote("'None'") == "None"
    for text in ("'None", "'a' + 'b", '"'):
        with pytest.raises(RefusedError):
            unquote(text)


def test_the_path_of_a_file_that_is_there_is_one_item(tmp_path, monkeypatch) -> None:
    path = tmp_path / "O'Brien data, v2" / "(a b.jsonl"
    path.parent.mkdir()
    with pytest.raises(RefusedError, match="lacks a closing"):
        split_items(str(path))
    path.touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert split_items(str(path)) == [str(path)]
    assert split_items("~/O'Brien data, v2/(a b.jsonl") == ["~/O'Brien data, v2/(a b.jsonl"]
