import dataclasses
from typing import Annotated, Any

import pytest
from configs import fakes
from ml_collections import ConfigDict, config_dict

from scaling.configs import Component, ConfigError, Family, replace, resolve

MINIMAL = {"model": {"name": "mlp"}, "optim": {"learning_rate": 1}}


def resolve_fake(**sections: Any) -> Any:
    return resolve({**MINIMAL, **sections}, fakes.Tree)


def test_defaults_come_from_the_signatures() -> None:
    config = resolve_fake()
    assert config.model.widths == (128, 128)
    assert config.optim.name == "adamw"
    assert config.optim.b2 == 0.999
    assert config.optim.learning_rate == 1.0
    assert isinstance(config.optim.learning_rate, float)
    assert config.optim.schedule.name == "constant"
    assert config.data.source is None
    assert config.data.mixture is None
    assert config.train.guard.factor == 5.0  # the parameter's default instance, not the class's
    assert config.seed == 0


def test_result_is_frozen_and_resolving_again_changes_nothing() -> None:
    config = resolve_fake(data={"mixture": {"a": {"source": {"name": "zipf"}}}})
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.train.steps = 3
    with pytest.raises(TypeError):
        config.data.mixture["a"] = 3
    assert resolve(config, fakes.Tree) == config
    assert hash(resolve(config, fakes.Tree)) == hash(config)


def test_input_is_not_changed() -> None:
    raw = ConfigDict(MINIMAL)
    before = raw.to_dict()
    resolve(raw, fakes.Tree)
    assert raw.to_dict() == before


def test_part_of_a_nested_dataclass_keeps_the_rest() -> None:
    config = resolve_fake(train={"guard": {"window": 7}})
    assert config.train.guard == fakes.Guard(factor=5.0, window=7)


def test_component_by_import_path() -> None:
    config = resolve_fake(model={"name": "configs.fakes:MLP", "widths": [4]})
    assert config.model.widths == (4,)


def test_field_references_are_resolved() -> None:
    raw = ConfigDict(MINIMAL)
    raw.train = ConfigDict({"batch_size": 8})
    raw.data = ConfigDict({"batch": raw.train.get_ref("batch_size") * 2})
    assert resolve(raw, fakes.Tree).data.batch == 16


def test_empty_placeholder_is_refused() -> None:
    raw = ConfigDict(MINIMAL)
    raw.seed = config_dict.required_placeholder(int)
    with pytest.raises(ConfigError, match="placeholder"):
        resolve(raw, fakes.Tree)


def test_replace_checks_again_and_leaves_the_config() -> None:
    config = resolve_fake()
    other = replace(config, {"train.steps": 5, "data.mixture.a.source.name": "zipf"})
    assert (other.train.steps, other.data.mixture["a"].source.tokens) == (5, 1000)
    assert config.train.steps == 1000
    with pytest.raises(ConfigError, match="out of range"):
        replace(config, {"train.steps": 0})


@pytest.mark.parametrize(
    ("sections", "key", "words"),
    [
        ({"trane": {}}, "trane", "did you mean train"),
        ({"train": {"stesp": 3}}, "train.stesp", r"did you mean train\.steps"),
        ({"train": {"steps": 0}}, "train.steps", "out of range"),
        ({"train": {"steps": "many"}}, "train.steps", "integer"),
        ({"train": {"guard": {"factr": 3}}}, "train.guard.factr", r"train\.guard\.factor"),
        ({"train": 3}, "train", "group of keys"),
        ({"train": None}, "train", "group of keys"),
        ({"model": "mlp"}, "model", r"write model\.name = 'mlp'"),
        ({"model": {"widths": (1,)}}, "model.name", "is required"),
        ({"model": {"name": "transformer"}}, "model.width", "is required"),
        ({"model": {"name": "transfomer"}}, "model.name", "did you mean 'transformer'"),
        ({"model": {"name": 3}}, "model.name", "is not a name"),
        ({"model": {"name": "mlp", "width": 3}}, "model.width", "a key of transformer"),
        ({"model": {"name": "mlp", "vocab_size": 3}}, "model.vocab_size", "supplied by the code"),
        ({"optim": {"learning_rate": 1, "momentum": 1}}, "optim.momentum", "a key of sgd"),
        ({"optim": {"name": "sgd", "b2": 1}}, "optim.b2", "a key of adamw"),
        ({"data": {"mixture": {"a": {"weight": 1}}}}, "data.mixture.a.source.name", "required"),
        ({"data": {"mixture": {"a": {"wait": 1}}}}, "data.mixture.a.wait", "weight"),
        ({"batch_size": 8}, "batch_size", r"train\.batch_size"),
    ],
)
def test_wrong_configs_are_refused(sections: dict[str, Any], key: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        resolve_fake(**sections)
    assert caught.value.key == key


def test_only_what_is_used_is_imported() -> None:
    source = Annotated[Component, Family("no.such.module:TABLE")] | None
    data = dataclasses.make_dataclass("Data", [("source", source, None)], frozen=True)
    tree = dataclasses.make_dataclass("Tree", [("data", data, data())], frozen=True)
    assert resolve({}, tree).data.source is None
