import copy
from collections.abc import Callable
from typing import Any

import pytest
from configs import fakes

from scaling import configs
from scaling.configs.component import (
    MISSING,
    Component,
    FrozenMapping,
    find_component,
    parameters,
)
from scaling.configs.errors import ConfigError

Resolve = Callable[..., Any]


def test_parameters_of_a_function() -> None:
    found = parameters(fakes.sgd)
    assert list(found) == ["learning_rate", "momentum", "nesterov"]
    assert found["momentum"].default == 0
    assert found["momentum"].annotation is float


def test_parameters_of_a_dataclass_leave_out_code() -> None:
    found = parameters(fakes.Transformer)
    assert found["width"].default is MISSING
    assert "init" not in found  # its default is a function


def test_parameters_of_a_plain_class_and_of_star_arguments() -> None:
    class Plain:
        def __init__(self, size: int, *rest: int, rate=0.5, **more: int) -> None:
            pass

    found = parameters(Plain)
    assert list(found) == ["size", "rate"]
    assert found["rate"].annotation is float  # no annotation: the default's type


def test_parameters_of_a_flax_module_are_its_own_fields() -> None:
    import flax.linen as nn

    class Net(nn.Module):
        width: int = 3
        name_of_axis: str = "batch"

    assert list(parameters(Net)) == ["width", "name_of_axis"]


def test_find_component_by_name_and_by_path() -> None:
    assert find_component("sgd", fakes.OPTIMIZERS, "optim.name") is fakes.sgd
    assert find_component("configs.fakes:lion", {}, "optim.name") is fakes.lion


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("sdg", "did you mean 'sgd'"),
        ("no_such_package.module:Name", "ModuleNotFoundError"),
        ("configs.fakes:Nothing", "AttributeError"),
        ("configs.fakes:MODELS", "cannot be called"),
        (":x", "cannot be imported"),
    ],
)
def test_find_component_refuses(name: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        find_component(name, fakes.OPTIMIZERS, "optim.name")
    assert caught.value.key == "optim.name"


def test_a_component_reads_like_what_it_names() -> None:
    made = Component("lion", FrozenMapping({"b1": 0.9}))
    assert (made.b1, made["b1"], made.get("b1"), made.get("b2")) == (0.9, 0.9, 0.9, None)
    assert "b1" in made
    assert "b2" not in made
    with pytest.raises(AttributeError, match="'lion' has no key 'b2'"):
        _ = made.b2
    assert copy.deepcopy(made) == made
    assert hash(copy.deepcopy(made)) == hash(made)


def test_build_a_named_section_with_what_the_code_supplies(resolved: Resolve) -> None:
    model = configs.build(resolved().model, fakes.MODELS, vocab_size=256)
    assert isinstance(model, fakes.Transformer)
    assert (model.width, model.vocab_size, model.window) == (64, 256, (1, 1))


def test_build_a_function_and_pass_no_sub_section(resolved: Resolve) -> None:
    assert configs.build(resolved().optim, "configs.fakes:OPTIMIZERS") == "adamw 0.001 0.9 0.95"


def test_build_refuses_a_key_that_would_be_lost() -> None:
    with pytest.raises(ConfigError, match="takes no 'momentum'"):
        configs.build({"name": "lion", "learning_rate": 1.0, "momentum": 0.9}, fakes.OPTIMIZERS)


def test_component(resolved: Resolve) -> None:
    assert configs.component(resolved().optim, fakes.OPTIMIZERS) is fakes.adamw
