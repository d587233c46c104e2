import pytest
from configs import fakes

from scaling.configs import signature
from scaling.configs.errors import ConfigError
from scaling.configs.signature import MISSING, find_component, parameters


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
        ("configs.fakes:SCHEMA", "not something to call"),
        (":x", "cannot be imported"),
    ],
)
def test_find_component_refuses(name: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        find_component(name, fakes.OPTIMIZERS, "optim.name")
    assert caught.value.key == "optim.name"


def test_nested_types() -> None:
    assert signature.nested_dataclass(fakes.Guard | None) is fakes.Guard
    assert signature.nested_dataclass(int | None) is None
    assert signature.mapping_value(dict[str, float] | None) is float
    assert signature.mapping_value(tuple[int, ...]) is MISSING
