import pathlib
from collections.abc import Callable
from typing import Any

import pytest

from scaling.configs import ConfigError, diff
from scaling.configs.overrides import split
from scaling.configs.tree import dig

Resolve = Callable[..., Any]


def test_split() -> None:
    want = ("optim.b2", "a=b")
    assert split("--config.optim.b2=a=b") == want
    assert split("config.optim.b2=a=b") == want
    assert split("optim.b2=a=b") == want
    for token in ("optim.b2", "--config.=3", "a..b=3", "a b=3", "=3"):
        with pytest.raises(ConfigError):
            split(token)


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("train.steps=1e4", "train.steps", 10_000),
        ("train.ema=0.9", "train.ema", 0.9),  # its default is None
        ("train.begin=somewhere", "train.begin", "somewhere"),
        ("model.window=7,8", "model.window", (7, 8)),
        ("train.guard.factor=3", "train.guard.factor", 3.0),
        ("train.second_guard.window=3", "train.second_guard.window", 3),
        ("data.rules.mlp=tensor", "data.rules.mlp", "tensor"),
        ("data.mixture.code.weight=3", "data.mixture.code.weight", 3.0),
        ("data.mixture.code.source.exponent=2", "data.mixture.code.source.exponent", 2.0),
        ("data.mixture.new.source=zipf", "data.mixture.new.weight", 1.0),
        ("data.mixture.new.source.name=zipf", "data.mixture.new.source.tokens", 1000),
        ("data.mixture=None", "data.mixture", None),
        ("data.source=zipf", "data.source.exponent", 1.0),
        ("optim.schedule=cosine", "optim.schedule.warmup", 10),
        ("optim.b2=DEFAULT", "optim.b2", 0.999),
        ("data=DEFAULT", "data.mixture", None),
        ("seed=3", "seed", 3),
        ("model.logits_cap=inf", "model.logits_cap", float("inf")),
    ],
)
def test_overrides_end_in_the_right_value(
    resolved: Resolve, override: str, key: str, value: Any
) -> None:
    found = dig(resolved(override), key)
    assert found == value
    assert type(found) is type(value)


def test_one_override_changes_one_key(resolved: Resolve) -> None:
    assert [one.key for one in diff(resolved(), resolved("train.steps=3"))] == ["train.steps"]


def test_field_references_follow(resolved: Resolve) -> None:
    config = resolved("train.batch_size=100")
    assert config.data.batch == 200
    assert resolved("train.batch_size=100", "data.batch=7").data.batch == 7


def test_order_does_not_matter(resolved: Resolve) -> None:
    one = ("optim.decay=0.5", "optim.name=lion", "optim.b2=DEFAULT")
    assert resolved(*one) == resolved(*reversed(one))
    assert resolved(*one).optim.decay == 0.5


def test_the_same_override_twice_is_one(resolved: Resolve) -> None:
    assert resolved("train.steps=3", "train.steps=3").train.steps == 3


def test_another_component_keeps_what_it_has_and_refuses_the_rest(resolved: Resolve) -> None:
    with pytest.raises(ConfigError, match=r"--config\.optim\.b2=DEFAULT") as caught:
        resolved("optim.name=lion")
    assert caught.value.key == "optim.b2"
    assert "--config.optim=lion" in caught.value.remedy
    config = resolved("optim.name=lion", "optim.b2=DEFAULT")
    assert config.optim.learning_rate == 1e-3  # stated by the file
    assert config.optim.b1 == 0.95  # lion's own default


def test_a_whole_section_starts_from_its_own_defaults(resolved: Resolve) -> None:
    assert resolved("optim=sgd").optim.learning_rate == 0.1
    assert resolved("optim=sgd", "optim.learning_rate=3").optim.learning_rate == 3.0


def test_sections_below_a_replaced_one_stay(resolved: Resolve, config_file: pathlib.Path) -> None:
    text = config_file.read_text().replace("b2=0.95", "b2=0.95, schedule=dict(name='cosine')")
    config_file.write_text(text)
    assert resolved("optim=sgd").optim.schedule.name == "cosine"
    assert resolved("optim=sgd", "optim.schedule=constant").optim.schedule.name == "constant"


@pytest.mark.parametrize(
    ("overrides", "key", "words"),
    [
        (["optim.b22=1"], "optim.b22", r"did you mean optim\.b2"),
        (["optim.momentum=1"], "optim.momentum", "a key of sgd"),
        (["optim.name=loin"], "optim.name", "did you mean 'lion'"),
        (["optim=loin"], "optim.name", "did you mean 'lion'"),
        (["lr=5"], "lr", r"did you mean optim\.learning_rate"),
        (["modle.width=3"], "modle", "did you mean model"),
        (["train.steps=1.5"], "train.steps", "not an integer"),
        (["train.steps=None"], "train.steps", "not an integer"),
        (["train.steps=0"], "train.steps", "out of range"),
        (["train.ema=1.5"], "train.ema", "out of range"),
        (["model.window=7"], "model.window", "holds 1 value, not 2"),
        (["train.bad=ski"], "train.bad", "did you mean skip"),
        (["train.guard.facto=3"], "train.guard.facto", r"train\.guard\.factor"),
        (["train.steps.x=3"], "train.steps.x", "no keys below"),
        (["train=5"], "train", "group of keys"),
        (["train=None"], "train", "cannot be None"),
        (["model=None"], "model", "cannot be None"),
        (["data.mixture=5"], "data.mixture", "group of keys"),
        (["data.mixture.cod.weight=3"], "data.mixture.cod", r"data\.mixture\.code"),
        (["data.mixture.cod.weight=DEFAULT"], "data.mixture.cod", r"data\.mixture\.code"),
        (["data.mixture.code=3"], "data.mixture.code", "group of keys"),
        (["data.source.paths=a"], "data.source.name", "is required"),
        (["model.vocab_size=3"], "model.vocab_size", "supplied by the code"),
        (["train.stepz=DEFAULT"], "train.stepz", "did you mean"),
        (["train.steps=3", "train.steps=4"], "train.steps", "given twice"),
        (["data.mixture=None", "data.mixture.code.weight=1"], "data.mixture.code.weight", "drops"),
        (["optim=lion", "optim.name=sgd"], "optim.name", "says otherwise"),
    ],
)
def test_wrong_overrides_are_refused(
    resolved: Resolve, overrides: list[str], key: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        resolved(*overrides)
    assert caught.value.key == key
