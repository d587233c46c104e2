"""Plain data, and what annotations say of it in words: unions, sequences, mappings, ranges."""

import collections.abc
import dataclasses
import inspect
import math
import types
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from ml_collections.config_dict import ConfigDict, RequiredValueError

from scaling.configs.component import MISSING, FrozenMapping, alternatives, strip
from scaling.configs.errors import ConfigError, RefusedError

_SEQUENCES = (tuple, list, collections.abc.Sequence, collections.abc.Iterable)
BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "multiple_of": "a multiple of"}
_WORDS = {
    int: "an integer", float: "a number", bool: "true or false", str: "a string",
    types.NoneType: "None", None: "None", Any: "any value",
}  # fmt: skip

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# What a config file returned, the same as nested dictionaries, or resolved.
AnyConfig: TypeAlias = "ConfigDict | Mapping[str, Any] | DataclassInstance"


class Text(str):
    """A value as it was typed, its type still to be found from the annotation."""


def describe(annotation: Any) -> str:
    """The annotation in words, for an error: "an integer >= 1 or None"."""
    members = alternatives(annotation)
    if len(members) > 1:
        return " or ".join(describe(member) for member in members)
    inner, marks = strip(annotation)
    arguments = typing.get_args(inner)
    if typing.get_origin(inner) is typing.Literal:
        return "one of " + ", ".join(map(repr, arguments))
    if is_sequence(inner):
        if fixed_length(inner):
            return "(" + ", ".join(map(describe, arguments)) + ")"
        return "values" + (f", each {describe(arguments[0])}" if arguments else "")
    bounds = [
        f"{sign} {getattr(mark, bound)}"
        for mark in marks
        for bound, sign in BOUNDS.items()
        if getattr(mark, bound, None) is not None
    ]
    return f"{_WORDS.get(inner, getattr(inner, '__name__', inner))} {' and '.join(bounds)}".strip()


def is_sequence(annotation: Any) -> bool:
    """Whether the annotation, a mark around it aside, is of a tuple or list."""
    return (typing.get_origin(annotation) or annotation) in _SEQUENCES


def mapping_value(annotation: Any) -> Any:
    """The type of the values of a `Mapping[str, X]`, else MISSING."""
    inner, _ = strip(annotation)
    origin = typing.get_origin(inner) or inner
    if not inspect.isclass(origin) or not issubclass(origin, Mapping):
        return MISSING
    arguments = typing.get_args(inner)
    return arguments[1] if len(arguments) == 2 else Any


def fixed_length(annotation: Any) -> int:
    """How many values a tuple has whose annotation gives the type of each; else 0."""
    inner, _ = strip(annotation)
    arguments = typing.get_args(inner)
    return len(arguments) if typing.get_origin(inner) is tuple and ... not in arguments else 0


def to_plain(value: Any) -> Any:
    """A config, or a part of it, as nested dictionaries, tuples and scalars, field references followed.

    Raises:
      ConfigError: a required placeholder is empty.
    """
    if isinstance(value, (Mapping, ConfigDict)):
        try:
            return {name: to_plain(item) for name, item in value.items()}
        except RequiredValueError as error:
            raise ConfigError("config", f"a required placeholder is empty: {error}") from error
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = (field.name for field in dataclasses.fields(value) if field.init)
        return {name: to_plain(getattr(value, name)) for name in fields}
    return tuple(map(to_plain, value)) if isinstance(value, (tuple, list)) else value


def plain(value: Any) -> Any:
    """Plain data: scalars, tuples and mappings of them; from numpy scalars and lists too."""
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        value = value.item()
    if isinstance(value, float) and math.isnan(value):
        raise RefusedError("nan is never a setting", "give a number")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise RefusedError(f"{value} does not fit into 64 bits", "give a smaller integer")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (tuple, list)):
        return tuple(map(plain, value))
    if isinstance(value, (Mapping, ConfigDict)):
        for name in value:
            if not isinstance(name, str) or "." in name:
                raise RefusedError(f"{name!r} cannot be a key", "use words without dots as keys")
        return {name: plain(item) for name, item in value.items()}
    what = f"{value!r} ({type(value).__name__}) is not plain data"
    raise RefusedError(what, "use None, bool, int, float, str, tuples and mappings of these")


def freeze(value: Any) -> Any:
    """Plain data with its mappings as `FrozenMapping`."""
    if isinstance(value, dict):
        return FrozenMapping({name: freeze(item) for name, item in value.items()})
    return tuple(map(freeze, value)) if isinstance(value, tuple) else value
