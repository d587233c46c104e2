import math
from typing import Annotated

import pytest

from scaling.configs import ConfigError
from scaling.configs.annotations import describe
from scaling.configs.types import MultipleOf, PositiveInt, Range
from scaling.configs.values import coerce

CLOSED, OPEN = Annotated[float, Range(0, 1)], Annotated[float, Range(above=0, below=1)]


def test_range_is_closed_at_low_and_high_and_open_at_above_and_below() -> None:
    assert [coerce(x, CLOSED, "a") for x in (0, 1)] == [0, 1]
    assert coerce(0.5, OPEN, "a") == 0.5
    for x in (0, 1):
        with pytest.raises(ConfigError, match="out of range"):
            coerce(x, OPEN, "a")


def test_range_holds_no_nan() -> None:
    with pytest.raises(ConfigError, match="never a setting"):
        coerce(math.nan, Annotated[float, Range()], "a")
    assert coerce(math.inf, Annotated[float, Range(0)], "a") == math.inf


def test_range_in_words() -> None:
    assert describe(Annotated[float, Range(0, below=1)]) == "a number >= 0 and < 1"
    assert describe(Annotated[PositiveInt, MultipleOf(8)]) == "an integer >= 1 and a multiple of 8"
