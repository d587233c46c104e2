from collections.abc import Callable
from typing import Any

import pytest
from configs import fakes

from scaling import configs
from scaling.configs import ConfigError

Resolve = Callable[..., Any]


def test_build_a_named_section_with_what_the_code_supplies(resolved: Resolve) -> None:
    model = configs.build(resolved().model, fakes.MODELS, vocab_size=256)
    assert isinstance(model, fakes.Transformer)
    assert (model.width, model.vocab_size, model.window) == (64, 256, (1, 1))


def test_build_a_function_and_pass_no_sub_section(resolved: Resolve) -> None:
    assert configs.build(resolved().optim, "configs.fakes:OPTIMIZERS") == "adamw 0.001 0.9 0.95"


def test_build_makes_nested_dataclasses(resolved: Resolve) -> None:
    train = configs.build(resolved("train.second_guard.factor=2").train, fakes.Train)
    assert train.guard == fakes.Guard(factor=5.0)
    assert train.second_guard == fakes.Guard(factor=2.0)


def test_build_refuses_a_key_that_would_be_lost() -> None:
    with pytest.raises(ConfigError, match="takes no 'momentum'"):
        configs.build({"name": "lion", "learning_rate": 1.0, "momentum": 0.9}, fakes.OPTIMIZERS)


def test_component(resolved: Resolve) -> None:
    assert configs.component(resolved().optim, fakes.OPTIMIZERS) is fakes.adamw
