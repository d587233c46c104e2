"""From what a file states to the complete typed config: defaults filled, every value checked."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, overload

from scaling.configs import moved, tree, values
from scaling.configs.annotations import AnyConfig, to_plain
from scaling.configs.component import MISSING, FrozenMapping, Param, import_from
from scaling.configs.errors import ConfigError
from scaling.configs.tree import Node

if TYPE_CHECKING:
    from scaling.experiment import Experiment

T = TypeVar("T")


@overload
def resolve(config: AnyConfig, tree_type: None = None, *, check: bool = True) -> "Experiment": ...
@overload
def resolve(config: AnyConfig, tree_type: type[T], *, check: bool = True) -> T: ...
def resolve(config: AnyConfig, tree_type: Any = None, *, check: bool = True) -> Any:
    """The complete config: defaults from the annotations, values as annotated, checked, frozen.

    Resolving twice changes nothing.

    Args:
      config: ConfigDict, mapping or resolved config that states what differs from the defaults.
        Not changed.
      tree_type: dataclass of the sections; None takes `scaling.experiment.Experiment`.
      check: also hold it to what its sections say of each other.

    Raises:
      ConfigError: an unknown or missing key, a value of the wrong type or out of range, or keys
        that do not go together.
    """
    raw = to_plain(config)
    moved.translate(raw)
    top = tree.root(tree_type or experiment_type(), raw)
    return _resolve_section(top, top, check)


def experiment_type() -> type["Experiment"]:
    """`scaling.experiment.Experiment`; by path, since it imports this package for its annotations."""
    experiment: type[Experiment] = import_from("scaling.experiment:Experiment")
    return experiment


def replace(config: T, changes: Mapping[str, Any]) -> T:
    """A resolved config with other values at some dotted paths, checked again as `resolve` does."""
    return resolve(with_values(config, changes), type(config))


def with_values(config: AnyConfig, changes: Mapping[str, Any]) -> dict[str, Any]:
    """A config as nested dictionaries with values set at dotted paths; groups on the way are made."""
    raw = to_plain(config)
    moved.translate(raw)
    for path, value in changes.items():
        node, key = moved.parent(raw, moved.path(path, value))
        node[key] = value
    return raw


def _resolve_section(node: Node, top: Node, check: bool) -> Any:
    section, raw, path = node.section, node.stated, node.path
    if raw is None and section.optional:
        return None
    if not isinstance(raw, Mapping):
        hint = f"write {path}.name = {raw!r}" if section.family else "give {key: value, ...}"
        raise ConfigError(path, f"{raw!r} is not a group of keys", hint)
    if section.entry is not None:
        for key in raw:
            if not key or "." in key:
                raise ConfigError(path, f"{key!r} cannot name an entry", "use a word without dots")
        return FrozenMapping({key: _resolve_key(node, key, None, top, check) for key in raw})
    params = node.params()
    for key in raw:
        if key not in params and not (key == "name" and section.family):
            raise tree.unknown_key(node, str(key), top)
    resolved = {key: _resolve_key(node, key, param, top, check) for key, param in params.items()}
    if section.family is None:
        made = section.cls(**resolved)
    else:
        below = {key: resolved.pop(key) for key in node.sections_below()}
        made = section.cls(node.name, FrozenMapping(resolved), **below)
    if check and hasattr(section.cls, "check"):
        made.check()
    return made


def _resolve_key(node: Node, key: str, param: Param | None, top: Node, check: bool) -> Any:
    """A value or a section; `param` is None for an entry."""
    below, stated = node.child(key), node.stated.get(key, MISSING)
    default = {} if param is None or param.default is MISSING else param.default
    if below is None:
        assert param is not None
        return values.value_of(param, stated, tree.join(node.path, key))
    if stated is MISSING:
        stated = to_plain(default)
    elif isinstance(stated, Mapping) and dataclasses.is_dataclass(default):
        stated = _over(to_plain(default), stated)
    return _resolve_section(dataclasses.replace(below, stated=stated), top, check)


def _over(default: Mapping[str, Any], stated: Mapping[str, Any]) -> dict[str, Any]:
    """What is stated of a section, laid over the parameter's own default instance."""
    merged = {**default, **stated}
    for key, value in default.items():
        if isinstance(value, Mapping) and isinstance(merged[key], Mapping):
            merged[key] = _over(value, merged[key])
    return merged
