import pytest

from scaling.configs.errors import ConfigError, nearest, suggest


@pytest.mark.parametrize(
    ("typed", "candidates", "best"),
    [
        ("b22", ["b1", "b2", "eps"], "b2"),
        ("lr", ["steps", "optim.learning_rate"], "optim.learning_rate"),
        ("dim", ["num_heads", "model_dim"], "model_dim"),
        ("tfds_images", ["files", "tfds"], "tfds"),
        ("batch_size", ["data.batch", "train.batch_size"], "train.batch_size"),
    ],
)
def test_nearest_finds_what_was_meant(typed: str, candidates: list[str], best: str) -> None:
    assert nearest(typed, candidates)[0] == best


def test_nearest_of_nothing_like_it() -> None:
    assert nearest("qqqq", ["b1", "steps"]) == []


def test_suggest_lists_all_when_nothing_is_near() -> None:
    assert suggest("qqqq", ["b1", "b2"]) == "the keys here are: b1, b2"


def test_message_holds_key_reason_and_remedy() -> None:
    assert str(ConfigError("a.b", "is wrong", "mend it")) == "a.b: is wrong\n  mend it"
