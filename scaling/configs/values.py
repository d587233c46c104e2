"""One value at a time: make it what the annotation says, or refuse with a reason.

Two doors, one set of rules. `coerce` takes a Python value from a config file or a default;
`parse` takes the text of a command line. Neither guesses: `1.5` is not an int, `7` is not a pair,
`None` is not a word. Text for a string is taken as it stands; quotes inside it are removed, so that
`--config.name="'None'"` is the word.
"""

import dataclasses
import decimal
import inspect
import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scaling.configs import signature
from scaling.configs.brackets import split_items, split_mapping, unquote
from scaling.configs.errors import ConfigError, RefusedError, nearest, suggest
from scaling.configs.types import Range

_BOOLS = {"true": True, "false": False, "1": True, "0": False}
_SEQUENCES = (tuple, list, Sequence, Iterable)


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
        return _convert(value, annotation, key, text=False)
    except RefusedError as refused:
        raise ConfigError(key, refused.reason, refused.remedy) from None


def parse(text: str, annotation: Any, key: str) -> Any:
    """The value that the text of an override stands for.

    Raises:
      ConfigError: the text does not stand for a value of that type, or it is out of range.
    """
    try:
        return _convert(text, annotation, key, text=True)
    except RefusedError as refused:
        raise ConfigError(key, refused.reason, refused.remedy) from None


def describe(annotation: Any) -> str:
    """The annotation in words, for an error: "an integer >= 1 or None"."""
    members = signature.alternatives(annotation)
    if len(members) > 1:
        return " or ".join(describe(one) for one in members)
    inner, marks = signature.strip(annotation)
    ranges = "".join(f" {mark}" for mark in marks if isinstance(mark, Range))
    origin, arguments = typing.get_origin(inner), typing.get_args(inner)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(repr, arguments))
    if _is_sequence(inner):
        if _is_fixed_length(annotation):
            return "(" + ", ".join(describe(one) for one in arguments) + ")"
        return "values, each " + describe(arguments[0]) if arguments else "several values"
    words = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}
    if inner is None or inner is types.NoneType:
        return "None"
    return words.get(inner, str(getattr(inner, "__name__", inner))) + ranges


def _convert(value: Any, annotation: Any, key: str, text: bool) -> Any:
    members = signature.alternatives(annotation)
    _, outer_marks = signature.strip(annotation)
    if len(members) > 1:
        result = _convert_union(value, members, annotation, key, text)
    else:
        result = _convert_one(value, signature.strip(annotation)[0], annotation, key, text)
    for mark in outer_marks:
        _check_range(result, mark)
    return result


def _check_range(value: Any, mark: Any) -> None:
    if isinstance(mark, Range) and value is not None and not mark.contains(value):
        raise RefusedError(f"{value!r} is out of range", f"give a value {mark}")


def _convert_union(
    value: Any, members: tuple[Any, ...], annotation: Any, key: str, text: bool
) -> Any:
    """The first member that takes the value; plain strings last, since they take any text."""
    refusals = []
    words = any(signature.strip(member)[0] is str for member in members)
    for member in sorted(members, key=lambda one: signature.strip(one)[0] is str):
        if text and signature.strip(member)[0] is str and value in ("none", "null"):
            raise RefusedError(
                f"{value!r} may mean None or the word", "write None, or quote the word: \"'none'\""
            )
        if text and words and _is_sequence(member) and value.strip()[:1] not in ("(", "["):
            continue  # a lone word is the word, not a sequence of one
        try:
            return _convert(value, member, key, text)
        except RefusedError as refused:
            if signature.strip(member)[0] is not types.NoneType:
                refusals.append(refused)
    if len(refusals) == 1:
        raise refusals[0]
    raise RefusedError(f"{value!r} does not fit", f"give {describe(annotation)}")


def _convert_one(value: Any, inner: Any, annotation: Any, key: str, text: bool) -> Any:
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        value = value.item()
    origin = typing.get_origin(inner)
    if inner is None or inner is types.NoneType:
        if value is None or (text and value == "None"):
            return None
        raise _wrong(value, annotation)
    if origin is typing.Literal:
        return _to_literal(value, typing.get_args(inner), text)
    if inspect.isclass(inner) and dataclasses.is_dataclass(inner):
        return _to_section(value, inner, key, text)
    if signature.mapping_value(inner) is not signature.MISSING:
        return _to_mapping(value, signature.mapping_value(inner), key, text)
    if _is_sequence(inner):
        return _to_tuple(value, typing.get_args(inner), annotation, key, text)
    if inner in _SCALARS:
        return _SCALARS[inner](value, annotation, text)
    return _guess(value) if text else _plain(value)


def _wrong(value: Any, annotation: Any, remedy: str = "") -> RefusedError:
    kind = "" if isinstance(value, str) else f" ({type(value).__name__})"
    return RefusedError(
        f"{value!r}{kind} is not {describe(annotation)}",
        remedy or f"give {describe(annotation)}",
    )


def _to_bool(value: Any, annotation: Any, text: bool) -> bool:
    if text and value.strip().lower() in _BOOLS:
        return _BOOLS[value.strip().lower()]
    if isinstance(value, bool):
        return value
    raise _wrong(value, annotation, "give true, false, 1 or 0" if text else "give True or False")


def _to_int(value: Any, annotation: Any, text: bool) -> int:
    if isinstance(value, bool) or not isinstance(
        value, (str, int, float) if text else (int, float)
    ):
        raise _wrong(value, annotation)
    try:
        exact = decimal.Decimal(value.strip() if isinstance(value, str) else value)
    except (decimal.InvalidOperation, ValueError):
        raise _wrong(value, annotation) from None
    if not exact.is_finite() or exact.adjusted() > 18 or exact != exact.to_integral_value():
        whole = "" if not exact.is_finite() or exact.adjusted() > 18 else str(round(exact))
        raise _wrong(value, annotation, f"the nearest integer is {whole}" if whole else "")
    if not -(2**63) <= int(exact) < 2**63:
        raise RefusedError(f"{value} does not fit into 64 bits", "give a smaller integer")
    return int(exact)


def _to_float(value: Any, annotation: Any, text: bool) -> float:
    if isinstance(value, bool) or not isinstance(
        value, (str, int, float) if text else (int, float)
    ):
        raise _wrong(value, annotation)
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise _wrong(value, annotation) from None
    if math.isnan(number):
        raise RefusedError("nan is never a setting", f"give {describe(annotation)}")
    if math.isinf(number) and isinstance(value, str) and "inf" not in value.lower():
        raise RefusedError(f"{value} is too large for a float", "write inf if you mean infinity")
    return number


def _to_str(value: Any, annotation: Any, text: bool) -> str:
    if not isinstance(value, str):
        raise _wrong(value, annotation)
    if not text:
        return value
    if value in ("", "None"):
        shown = value if value else "nothing"
        raise RefusedError(
            f"{shown} is not a string here", f"quote it if you mean the string: \"'{value}'\""
        )
    if value[0] in "'\"":
        return unquote(value)
    return value


_SCALARS: dict[Any, Any] = {bool: _to_bool, int: _to_int, float: _to_float, str: _to_str}


def _to_literal(value: Any, options: tuple[Any, ...], text: bool) -> Any:
    for option in options:
        if type(option) is type(value) and option == value:
            return option
        if text and value == str(option):
            return option
    choices = ", ".join(map(repr, options))
    close = nearest(str(value), [str(option) for option in options])
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    raise RefusedError(f"{value!r} is not among the choices", f"{hint}Choose one of {choices}")


def _is_sequence(annotation: Any) -> bool:
    inner, _ = signature.strip(annotation)
    return (typing.get_origin(inner) or inner) in _SEQUENCES


def _is_fixed_length(annotation: Any) -> bool:
    """Whether the annotation is a tuple that says the type of each of its values."""
    inner, _ = signature.strip(annotation)
    arguments = typing.get_args(inner)
    return (
        typing.get_origin(inner) is tuple
        and len(arguments) > 0
        and not (len(arguments) == 2 and arguments[1] is Ellipsis)
    )


def _to_tuple(
    value: Any, arguments: tuple[Any, ...], annotation: Any, key: str, text: bool
) -> tuple[Any, ...]:
    if text:
        items: Iterable[Any] = split_items(value)
    elif isinstance(value, (tuple, list)):
        items = value
    else:
        raise _wrong(value, annotation)
    items = list(items)
    if not _is_fixed_length(annotation):
        element = arguments[0] if arguments else Any
        return tuple(_convert(item, element, key, text) for item in items)
    if len(items) != len(arguments):
        raise RefusedError(
            f"{value!r} holds {len(items)} value{'s' * (len(items) != 1)}, not {len(arguments)}",
            f"give all {len(arguments)}, as in {describe(annotation)}",
        )
    pairs = zip(items, arguments, strict=True)
    return tuple(_convert(item, element, key, text) for item, element in pairs)


def _to_mapping(value: Any, element: Any, key: str, text: bool) -> dict[str, Any]:
    if text:
        value = split_mapping(value)
    if not isinstance(value, Mapping):
        raise RefusedError(
            f"{value!r} ({type(value).__name__}) is not a mapping", "give {name: value, ...}"
        )
    result = {}
    for name, item in value.items():
        if not isinstance(name, str) or "." in name:
            raise RefusedError(f"{name!r} cannot be a key", "use words without dots as keys")
        result[name] = _nested(item, element, f"{key}.{name}", text)
    return result


def _to_section(value: Any, cls: type, key: str, text: bool) -> dict[str, Any]:
    """A nested dataclass as a dictionary of all its parameters, each converted."""
    if text:
        value = split_mapping(value) if value.lstrip().startswith("{") else value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if not isinstance(value, Mapping):
        keys = ", ".join(signature.parameters(cls))
        raise RefusedError(f"{value!r} is not a group of keys", f"set its keys one by one: {keys}")
    params = signature.parameters(cls)
    for name in value:
        if name not in params:
            raise ConfigError(
                f"{key}.{name}", "unknown key", suggest(str(name), list(params), prefix=f"{key}.")
            )
    result = {}
    for name, param in params.items():
        path = f"{key}.{name}"
        if name in value:
            result[name] = _nested(value[name], param.annotation, path, text)
        elif param.default is signature.MISSING:
            raise ConfigError(path, "is required", f"give {describe(param.annotation)}")
        else:
            result[name] = default_of(param, path)
    return result


def _nested(value: Any, annotation: Any, path: str, text: bool) -> Any:
    return parse(value, annotation, path) if text else coerce(value, annotation, path)


def default_of(param: signature.Param, key: str) -> Any:
    """The default of a parameter as plain data, held to the parameter's own annotation."""
    if param.default is None:
        return None
    return coerce(param.default, param.annotation, key)


def _plain(value: Any) -> Any:
    """Plain data where nothing is declared: scalars, tuples and mappings of them."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return _to_float(value, float, text=False)
    if isinstance(value, (tuple, list)):
        return tuple(_plain(item) for item in value)
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    raise RefusedError(
        f"{value!r} ({type(value).__name__}) is not plain data",
        "use None, bool, int, float, str, tuples and mappings of these",
    )


def _guess(text: str) -> Any:
    """Text where no type is declared: the constant it looks like, otherwise a string."""
    words = {"None": None, "True": True, "False": False, "true": True, "false": False}
    stripped = text.strip()
    if stripped in words:
        return words[stripped]
    if stripped[:1] in ("(", "["):
        return tuple(_guess(item) for item in split_items(stripped))
    if stripped[:1] == "{":
        return {name: _guess(item) for name, item in split_mapping(stripped).items()}
    for convert in (_to_int_strictly, _to_float):
        try:
            return convert(stripped, float, True)
        except RefusedError:
            continue
    return _to_str(text, str, text=True)


def _to_int_strictly(text: str, annotation: Any, is_text: bool) -> int:
    if set(text) & set(".eE"):
        raise RefusedError("a float", "")
    return _to_int(text, annotation, is_text)
