import math

from scaling.configs.types import Range


def test_range_is_closed_at_low_and_high_and_open_at_above_and_below() -> None:
    closed, opened = Range(0, 1), Range(above=0, below=1)
    assert closed.contains(0)
    assert closed.contains(1)
    assert not opened.contains(0)
    assert not opened.contains(1)
    assert opened.contains(0.5)


def test_range_holds_no_nan() -> None:
    assert not Range().contains(math.nan)
    assert Range().contains(math.inf)


def test_range_in_words() -> None:
    assert str(Range(0, below=1)) == ">= 0 and < 1"
