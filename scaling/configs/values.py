"""One value at a time: make it what the annotation says, or refuse with a reason.

Two doors, one set of rules. `coerce` takes a Python value from a config file or a default; pydantic
checks it in strict mode, so `1.5` is not an int, `7` is not a pair and `None` is not a word. `parse`
reads the text of a command line along the annotation and then does the same. Text for a string is
taken as it stands; quotes inside it are removed, so that `--config.name="'None'"` is the word.
"""

import collections.abc
import dataclasses
import functools
import inspect
import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Union

from scaling.configs.brackets import split_items, split_mapping, unquote
from scaling.configs.component import (
    MISSING,
    Component,
    FrozenMapping,
    Param,
    alternatives,
    strip,
)
from scaling.configs.errors import ConfigError, RefusedError, nearest

_BOOLS = {"true": True, "false": False, "1": True, "0": False}
_SEQUENCES = (tuple, list, collections.abc.Sequence, collections.abc.Iterable)
_BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


def coerce(value: Any, annotation: Any, key: str) -> Any:
    """A Python value as the annotation wants it: plain data, lists as tuples, ints as floats.

    Args:
      value: from a config file or a default.
      annotation: of the parameter, `Annotated` ranges included.
      key: config path, for the error.

    Raises:
      ConfigError: the value is of another type or out of range.
    """
    try:
        return _validated(_plain(value), annotation)
    except RefusedError as refused:
        raise ConfigError(key, refused.reason, refused.remedy) from None


def parse(text: str, annotation: Any, key: str) -> Any:
    """The value that the text of an override stands for.

    Raises:
      ConfigError: the text does not stand for a value of that type, or it is out of range.
    """
    try:
        return _validated(_plain(_read(text, annotation)), annotation)
    except RefusedError as refused:
        raise ConfigError(key, refused.reason, refused.remedy) from None


def value_of(param: Param, value: Any, key: str) -> Any:
    """The value of one parameter: the one given, or the default.

    Raises:
      ConfigError: nothing is given and there is no default, or the value does not fit.
    """
    if value is MISSING:
        value = param.default
    if value is MISSING:
        raise ConfigError(key, "is required", f"give {describe(param.annotation)}")
    if value is None and param.default is None:
        return None
    return coerce(value, param.annotation, key)


def describe(annotation: Any) -> str:
    """The annotation in words, for an error: "an integer >= 1 or None"."""
    members = alternatives(annotation)
    if len(members) > 1:
        return " or ".join(describe(member) for member in members)
    inner, marks = strip(annotation)
    arguments = typing.get_args(inner)
    if typing.get_origin(inner) is typing.Literal:
        return "one of " + ", ".join(map(repr, arguments))
    if _is_sequence(inner):
        if _is_fixed_length(annotation):
            return "(" + ", ".join(describe(item) for item in arguments) + ")"
        return "values, each " + describe(arguments[0]) if arguments else "several values"
    words = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}
    if inner is None or inner is types.NoneType:
        return "None"
    bounds = _bounds(marks)
    return words.get(inner, str(getattr(inner, "__name__", inner))) + (bounds and f" {bounds}")


def _bounds(marks: Iterable[Any]) -> str:
    """ ">= 0 and < 1" """
    found = [
        f"{sign} {getattr(mark, bound)}"
        for mark in marks
        for bound, sign in _BOUNDS.items()
        if getattr(mark, bound, None) is not None
    ]
    return " and ".join(found)


def _plain(value: Any) -> Any:
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
        return tuple(_plain(item) for item in value)
    if isinstance(value, Mapping) or hasattr(value, "to_dict"):
        for name in value:
            if not isinstance(name, str) or "." in name:
                raise RefusedError(f"{name!r} cannot be a key", "use words without dots as keys")
        return {name: _plain(item) for name, item in value.items()}
    raise RefusedError(
        f"{value!r} ({type(value).__name__}) is not plain data",
        "use None, bool, int, float, str, tuples and mappings of these",
    )


def _validated(value: Any, annotation: Any) -> Any:
    """The plain value after strict validation, mappings frozen."""
    import pydantic  # 0.07 s, which `--help` does not need

    adapter = _adapter(annotation)
    if isinstance(value, bool) and not _takes_bool(annotation):
        raise _refused(value, annotation, ())  # True is not the 1 of a Literal
    try:
        return _freeze(adapter.validate_python(value))
    except pydantic.ValidationError as error:
        whole = _with_integers(value)
        try:
            return _freeze(adapter.validate_python(whole))
        except pydantic.ValidationError:
            raise _refused(value, annotation, error.errors()) from None


def _takes_bool(annotation: Any) -> bool:
    kinds = [strip(member)[0] for member in alternatives(annotation)]
    choices = [typing.get_args(kind) for kind in kinds if typing.get_origin(kind) is typing.Literal]
    words = [choice for options in choices for choice in options]
    return (
        bool in kinds
        or _simple(annotation) is Any
        or any(isinstance(choice, bool) for choice in words)
    )


@functools.cache
def _adapter(annotation: Any) -> Any:
    import pydantic

    strict = pydantic.ConfigDict(strict=True, arbitrary_types_allowed=True)
    return pydantic.TypeAdapter(_simple(annotation), config=strict)


def _simple(annotation: Any) -> Any:
    """The annotation in terms of plain data: sequences as tuples, mappings as dictionaries."""
    members = alternatives(annotation)
    inner, marks = strip(annotation)
    arguments = typing.get_args(inner)
    if len(members) > 1:
        plain: Any = Union[tuple(_simple(member) for member in members)]
    elif _is_sequence(inner):
        if _is_fixed_length(inner):
            plain = types.GenericAlias(tuple, tuple(_simple(item) for item in arguments))
        else:
            plain = types.GenericAlias(tuple, (_simple(arguments[0]) if arguments else Any, ...))
    elif mapping_value(inner) is not MISSING:
        plain = types.GenericAlias(dict, (str, _simple(mapping_value(inner))))
    elif typing.get_origin(inner) is typing.Literal or inner in (bool, int, float, str):
        plain = inner
    elif inner is None or inner is types.NoneType:
        plain = None
    else:  # a class of the user's own: any plain data
        plain = Any
    bounds = [mark for mark in marks if _bounds([mark])]
    for bound in bounds:
        plain = Annotated[plain, bound]
    return plain


def _with_integers(value: Any) -> Any:
    """The same with `1e4` as 10000."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**63:
        return int(value)
    if isinstance(value, tuple):
        return tuple(_with_integers(item) for item in value)
    if isinstance(value, dict):
        return {name: _with_integers(item) for name, item in value.items()}
    return value


def _freeze(value: Any) -> Any:
    if isinstance(value, dict):
        return FrozenMapping({name: _freeze(item) for name, item in value.items()})
    return tuple(_freeze(item) for item in value) if isinstance(value, tuple) else value


def _refused(value: Any, annotation: Any, errors: Sequence[Mapping[str, Any]]) -> RefusedError:
    """Our words for what pydantic found, about one member where only one could be meant."""
    members = [m for m in alternatives(annotation) if strip(m)[0] is not types.NoneType]
    if len(members) > 1:
        return RefusedError(f"{value!r} does not fit", f"give {describe(annotation)}")
    inner, _ = strip(members[0])
    if typing.get_origin(inner) is typing.Literal:
        return _no_choice(value, typing.get_args(inner))
    if _is_fixed_length(inner) and isinstance(value, tuple):
        wanted = len(typing.get_args(inner))
        if len(value) != wanted:
            return RefusedError(
                f"{value!r} holds {len(value)} value{'s' * (len(value) != 1)}, not {wanted}",
                f"give all {wanted}, as in {describe(members[0])}",
            )
    for error in errors:
        bound = error["type"].partition("_than")[0]
        if bound in ("greater", "less"):
            ((name, limit),) = error["ctx"].items()
            return RefusedError(
                f"{error['input']!r} is out of range", f"give a value {_BOUNDS[name]} {limit}"
            )
    kind = "" if isinstance(value, str) else f" ({type(value).__name__})"
    remedy = f"give {describe(annotation)}"
    if inner is int and isinstance(value, float) and abs(value) < 2**63:
        remedy = f"the nearest integer is {round(value)}"
    return RefusedError(f"{value!r}{kind} is not {describe(annotation)}", remedy)


def _no_choice(value: Any, options: tuple[Any, ...]) -> RefusedError:
    close = nearest(str(value), [str(option) for option in options])
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    choices = ", ".join(map(repr, options))
    return RefusedError(f"{value!r} is not among the choices", f"{hint}Choose one of {choices}")


def _is_sequence(annotation: Any) -> bool:
    inner, _ = strip(annotation)
    return (typing.get_origin(inner) or inner) in _SEQUENCES


def _is_fixed_length(annotation: Any) -> bool:
    """Whether the annotation is a tuple that says the type of each of its values."""
    inner, _ = strip(annotation)
    arguments = typing.get_args(inner)
    return typing.get_origin(inner) is tuple and bool(arguments) and arguments[-1] is not Ellipsis


def mapping_value(annotation: Any) -> Any:
    """The type of the values of a `Mapping[str, X]`, else MISSING."""
    inner, _ = strip(annotation)
    origin = typing.get_origin(inner) or inner
    if not inspect.isclass(origin) or not issubclass(origin, Mapping):
        return MISSING
    arguments = typing.get_args(inner)
    return arguments[1] if len(arguments) == 2 else Any


def _read(text: str, annotation: Any) -> Any:
    """The Python value that a text means for an annotation; its type may still be wrong."""
    if len(alternatives(annotation)) > 1:
        return _read_union(text, annotation)
    inner, _ = strip(annotation)
    arguments = typing.get_args(inner)
    if inner is None or inner is types.NoneType:
        if text == "None":
            return None
        raise RefusedError(f"{text!r} is not None", "give None")
    if typing.get_origin(inner) is typing.Literal:
        for option in arguments:
            if text == str(option):
                return option
        raise _no_choice(text, arguments)
    if _is_sequence(inner):
        items = split_items(text)
        if _is_fixed_length(inner):
            if len(items) != len(arguments):
                raise _refused(tuple(items), annotation, ())
            return tuple(map(_read, items, arguments))
        return tuple(_read(item, arguments[0] if arguments else Any) for item in items)
    element = mapping_value(inner)
    if element is not MISSING:
        return {name: _read(item, element) for name, item in split_mapping(text).items()}
    if inner is bool:
        if text.strip().lower() not in _BOOLS:
            raise RefusedError(f"{text!r} is not true or false", "give true, false, 1 or 0")
        return _BOOLS[text.strip().lower()]
    if inner in (int, float):
        return _read_number(text, annotation)
    return _read_word(text) if inner is str else _read_unknown(text)


def _read_union(text: str, annotation: Any) -> Any:
    """As the first member that takes the text; plain strings last, since they take any text."""
    refusals = []
    members = alternatives(annotation)
    words = any(strip(member)[0] is str for member in members)
    for member in sorted(members, key=lambda one: strip(one)[0] is str):
        if strip(member)[0] is str and text in ("none", "null"):
            raise RefusedError(
                f"{text!r} may mean None or the word", "write None, or quote the word: \"'none'\""
            )
        if words and _is_sequence(member) and text.strip()[:1] not in ("(", "["):
            continue  # a lone word is the word, not a sequence of one
        try:
            return _validated(_plain(_read(text, member)), member)
        except RefusedError as refused:
            if strip(member)[0] is not types.NoneType:
                refusals.append(refused)
    if len(refusals) == 1:
        raise refusals[0]
    raise RefusedError(f"{text!r} does not fit", f"give {describe(annotation)}")


def _read_number(text: str, annotation: Any) -> int | float:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        what = f"{text!r} is not {describe(annotation)}"
        raise RefusedError(what, f"give {describe(annotation)}") from None
    if math.isinf(number) and "inf" not in text.lower():
        raise RefusedError(f"{text} is too large for a number", "write inf if you mean infinity")
    return number


def _read_word(text: str) -> str:
    if text in ("", "None"):
        raise RefusedError(
            f"{text or 'nothing'} is not a string here",
            f"quote it if you mean the string: \"'{text}'\"",
        )
    return unquote(text) if text[0] in "'\"" else text


def _read_unknown(text: str) -> Any:
    """Where no type is declared: the constant that the text looks like, otherwise a string."""
    words = {"None": None, "True": True, "False": False, "true": True, "false": False}
    stripped = text.strip()
    if stripped in words:
        return words[stripped]
    if stripped[:1] in ("(", "["):
        return tuple(_read_unknown(item) for item in split_items(stripped))
    if stripped[:1] == "{":
        return {name: _read_unknown(item) for name, item in split_mapping(stripped).items()}
    try:
        return _read_number(stripped, float)
    except RefusedError:
        return _read_word(text)


def to_plain(value: Any) -> Any:
    """A resolved config, or a part of it, as nested dictionaries, tuples and scalars."""
    if isinstance(value, (Component, Mapping)) or hasattr(value, "to_dict"):
        return {name: to_plain(item) for name, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = (field.name for field in dataclasses.fields(value) if field.init)
        return {name: to_plain(getattr(value, name)) for name in fields}
    return tuple(map(to_plain, value)) if isinstance(value, (tuple, list)) else value
