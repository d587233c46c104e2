import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import pytest

from scaling.configs.annotations import describe
from scaling.configs.component import MISSING, FrozenMapping, Param
from scaling.configs.errors import ConfigError
from scaling.configs.types import PositiveInt, Probability, Range
from scaling.configs.values import coerce, parse, value_of


@pytest.mark.parametrize(
    ("text", "annotation", "value"),
    [
        ("5", int, 5),
        ("-5", int, -5),
        ("1e4", int, 10_000),
        ("1_000", int, 1000),
        ("5", float, 5.0),
        ("3e-4", float, 3e-4),
        ("inf", float, math.inf),
        ("true", bool, True),
        ("False", bool, False),
        ("1", bool, True),
        ("0", bool, False),
        ("word", str, "word"),
        ("a b=c:d", str, "a b=c:d"),
        ("'None'", str, "None"),
        ("''", str, ""),
        ("None", int | None, None),
        ("None", str | None, None),
        ("5", int | None, 5),
        ("2", int | float, 2),
        ("2.5", int | float, 2.5),
        ("auto", int | Literal["auto"], "auto"),
        ("none", Literal["none", "full"] | None, "none"),
        ("full", Literal["none", "full"], "full"),
        ("2", Literal[1, 2], 2),
        ("7,8", tuple[int, int], (7, 8)),
        ("(7, 8)", tuple[int, int], (7, 8)),
        ("7", tuple[int, ...], (7,)),
        ("(7,)", tuple[int, ...], (7,)),
        ("7,8", tuple[int, ...], (7, 8)),
        ("()", tuple[int, ...], ()),
        ("a.txt", tuple[str, ...], ("a.txt",)),
        ("7,8", list[int], (7, 8)),
        ("7,8", Sequence[int], (7, 8)),
        ("(a,fsdp),(b,None)", tuple[tuple[str, str | None], ...], (("a", "fsdp"), ("b", None))),
        ("fsdp", str | tuple[str, ...] | None, "fsdp"),
        ("(fsdp,data)", str | tuple[str, ...] | None, ("fsdp", "data")),
        ("{a: 1, b: 2}", Mapping[str, float], FrozenMapping({"a": 1.0, "b": 2.0})),
        ("1", Any, 1),
        ("1.5", Any, 1.5),
        ("None", Any, None),
        ("true", Any, True),
        ("(1,a)", Any, (1, "a")),
        ("{a: 1}", Any, FrozenMapping({"a": 1})),
        ("word", Any, "word"),
        ("0.5", Probability, 0.5),
        ("0.5", Probability | None, 0.5),
        ("3,4", tuple[PositiveInt, ...], (3, 4)),
    ],
)
def test_text_becomes_the_right_value(text: str, annotation: Any, value: Any) -> None:
    found = parse(text, annotation, "key")
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "annotation"),
    [
        ("1.5", int),
        ("True", int),
        ("five", int),
        ("nan", int),
        ("inf", int),
        ("1e400", int),
        ("1e999999999999", int),
        ("9223372036854775808", int),
        ("", int),
        ("None", int),
        ("None", float),
        ("nan", float),
        ("1e400", float),
        ("1,5", float),
        ("true", float),
        ("yes", bool),
        ("2", bool),
        ("None", bool),
        ("", bool),
        ("None", str),
        ("", str),
        ("'open", str),
        ("none", str | None),
        ("null", str | None),
        ("none", int | None),
        ("ful", Literal["none", "full"]),
        ("7", tuple[int, int]),
        ("7,8,9", tuple[int, int]),
        ("7,x", tuple[int, int]),
        ("", tuple[int, ...]),
        ("(7,8", tuple[int, ...]),
        ("a,b", tuple[tuple[str, str], ...]),
        ("a", Mapping[str, float]),
        ("{a: x}", Mapping[str, float]),
        ("1.5", Probability),
        ("-0.1", Probability | None),
        ("3,0", tuple[PositiveInt, ...]),
    ],
)
def test_other_text_is_refused_with_key_and_remedy(text: str, annotation: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, annotation, "some.key")
    assert caught.value.key.startswith("some.key")
    assert caught.value.reason
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("given", "annotation", "value"),
    [
        (5, float, 5.0),
        (1e4, int, 10_000),
        (np.int64(3), int, 3),
        (np.float32(0.5), float, 0.5),
        ([1, 2], tuple[int, int], (1, 2)),
        (None, int | None, None),
        (True, bool | None, True),
        (True, Any, True),
        ({"a": [1]}, Any, FrozenMapping({"a": (1,)})),
    ],
)
def test_python_values_are_normalised(given: Any, annotation: Any, value: Any) -> None:
    found = coerce(given, annotation, "key")
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("given", "annotation"),
    [
        (1.5, int),
        ("5", int),
        (True, int),
        (True, float),
        (1, bool),
        (True, Literal[0, 1]),
        (True, int | str),
        ("true", bool),
        (None, int),
        (5, str),
        (7, tuple[int, int]),
        ((7,), tuple[int, int]),
        ("abc", tuple[str, ...]),
        (math.nan, float),
        (math.nan, Any),
        (print, Any),
        ({"a.b": 2}, Mapping[str, int]),
        (0, PositiveInt),
    ],
)
def test_other_python_values_are_refused(given: Any, annotation: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        coerce(given, annotation, "some.key")
    assert caught.value.key.startswith("some.key")


def test_a_pair_is_refused_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match="holds 1 value, not 2"):
        parse("7", tuple[int, int], "dims")


def test_the_nearest_choice_is_named() -> None:
    with pytest.raises(ConfigError, match="did you mean full"):
        parse("ful", Literal["none", "full"], "remat")


def test_a_default_is_held_to_its_own_annotation() -> None:
    assert value_of(Param("a", Annotated[int, Range(1)], 3), MISSING, "a") == 3
    with pytest.raises(ConfigError):
        value_of(Param("a", Annotated[int, Range(1)], 0), MISSING, "a")
    assert value_of(Param("a", int, None), MISSING, "a") is None


def test_types_in_words() -> None:
    assert describe(PositiveInt | None) == "an integer >= 1 or None"
    assert describe(tuple[int, float]) == "(an integer, a number)"
    assert describe(Literal["a", "b"]) == "one of 'a', 'b'"
