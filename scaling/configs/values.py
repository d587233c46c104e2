"""One value at a time: make it what its annotation says, or refuse with a reason.

pydantic validates in strict mode: `1.5` is not an int, `7` is not a pair, `None` is not a word.
What was typed on a command line comes as `Text`, which the readers below turn into a value of the
type that the annotation has at this place. Text for a string is taken as it stands; quotes around
it are removed, so that `--config.name="'None'"` is the word.
"""

import functools
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Union

import pydantic
from pydantic import BeforeValidator
from pydantic_core import ErrorDetails

from scaling.configs.annotations import (
    BOUNDS,
    Text,
    describe,
    fixed_length,
    freeze,
    is_sequence,
    mapping_value,
    plain,
)
from scaling.configs.brackets import split_items, split_mapping, unquote
from scaling.configs.component import MISSING, Param, alternatives, parameters, strip
from scaling.configs.errors import ConfigError, RefusedError, suggest

_BOOLS = {"true": True, "false": False, "1": True, "0": False}


def parse(text: str, annotation: Any, key: str) -> Any:
    """The value that the text of an override stands for; see `coerce`."""
    return coerce(Text(text), annotation, key)


def coerce(value: Any, annotation: Any, key: str) -> Any:
    """A value as the annotation wants it: plain data, lists as tuples, ints as floats, frozen.

    Args:
      value: from a config file or a default; `Text` from a command line.
      annotation: of the parameter, `Annotated` ranges included.
      key: config path, for the error.
    """
    try:
        return freeze(_validate(plain(value), annotation))
    except RefusedError as error:
        raise ConfigError(key, error.reason, error.remedy) from None


def value_of(param: Param, value: Any, key: str) -> Any:
    """The value of one parameter: the one given, or the default."""
    if value is MISSING:
        value = param.default
    if value is MISSING:
        raise ConfigError(key, "is required", f"give {describe(param.annotation)}")
    return None if value is param.default is None else coerce(value, param.annotation, key)


def options(called: Callable[..., Any], stated: Mapping[str, Any], key: str) -> dict[str, Any]:
    """What a config states at a path for the parameters of a function or module, but the first."""
    params = dict(list(parameters(called).items())[1:])
    for name in stated:
        if name not in params:
            raise ConfigError(f"{key}.{name}", "is not an option", suggest(name, list(params)))
    return {
        name: value_of(param, stated.get(name, MISSING), f"{key}.{name}")
        for name, param in params.items()
        if name in stated or param.default is MISSING
    }


def _validate(value: Any, annotation: Any) -> Any:
    try:
        return _adapter(annotation).validate_python(value)
    except pydantic.ValidationError as error:
        raise _refusal(value, annotation, error.errors()) from None


@functools.cache
def _adapter(annotation: Any) -> "pydantic.TypeAdapter[Any]":
    strict = pydantic.ConfigDict(strict=True, arbitrary_types_allowed=True)
    return pydantic.TypeAdapter(_schema(annotation), config=strict)


def _schema(annotation: Any, among: Sequence[Any] = ()) -> Any:
    """The annotation in terms of plain data, with a reader of text at each place.

    Sequences become tuples, and classes of the user's own take any plain data. `among` are the members
    of the union that the annotation stands in.
    """
    members = alternatives(annotation)
    inner, marks = strip(annotation)
    arguments = typing.get_args(inner)
    kinds = [strip(member)[0] for member in among]
    if len(members) > 1:  # strings last, since they take any text
        ordered = sorted(members, key=lambda member: strip(member)[0] is str)
        schema: Any = Union[tuple(_schema(member, members) for member in ordered)]
        return Annotated[schema, *marks] if marks else schema
    if is_sequence(inner):
        count = fixed_length(inner)
        items = map(_schema, arguments) if count else (_schema([*arguments, Any][0]), ...)
        schema = types.GenericAlias(tuple, tuple(items))
        # A word alone is the word, where the annotation takes one, and not a sequence of one.
        reader: Callable[[Any], Any] = functools.partial(_read_sequence, inner, str in kinds)
    elif mapping_value(inner) is not MISSING:
        schema = types.GenericAlias(dict, (str, _schema(mapping_value(inner))))
        reader = _read_mapping
    elif typing.get_origin(inner) is typing.Literal:
        schema, reader = inner, functools.partial(_read_choice, arguments)
    elif inner is str:
        schema, reader = str, functools.partial(_read_word, bool(among))
    else:
        kind = types.NoneType if inner is None else inner
        whole = _read_number if float in kinds else _read_integer  # in int | float, 2.0 is a float
        readers = {int: whole, float: _read_number, bool: _read_bool, types.NoneType: _read_none}
        schema = kind if kind in readers else Any
        reader = readers.get(kind, _read_unknown)
    return Annotated[schema, *marks, BeforeValidator(reader)]


# --- readers: text to a value; what cannot be read is left for the validation to refuse ----------


def _read_none(value: Any) -> Any:
    return None if isinstance(value, Text) and value == "None" else value


def _read_bool(value: Any) -> Any:
    return _BOOLS.get(value.strip().lower(), value) if isinstance(value, Text) else value


def _read_integer(value: Any) -> Any:
    """Also `1e4`, from a file too."""
    number = _read_number(value)
    whole = isinstance(number, float) and number.is_integer() and abs(number) < 2**63
    if isinstance(number, float) and math.isfinite(number) and not whole and abs(number) < 2**63:
        raise RefusedError(f"{value} is not an integer", f"the nearest integer is {round(number)}")
    return int(number) if whole else number


def _read_number(value: Any) -> Any:
    if not isinstance(value, Text):
        return value
    for kind in (int, float):
        try:
            number = kind(value)
        except ValueError:
            continue
        if kind is float and math.isinf(number) and "inf" not in value.lower():
            raise RefusedError(f"{value} is too large", "write inf if you mean infinity")
        return plain(number)
    return value


def _read_word(in_union: bool, value: Any) -> Any:
    if not isinstance(value, Text):
        return value
    if value in ("", "None") or (in_union and value in ("none", "null")):
        what = f"{value or 'nothing'} may mean None or the word"
        raise RefusedError(what, f"write None, or quote the word: \"'{value}'\"")
    return unquote(value) if value[0] in "'\"" else str(value)


def _read_choice(options: Sequence[Any], value: Any) -> Any:
    if isinstance(value, Text):
        value = next((option for option in options if value == str(option)), str(value))
    # True equals 1, and is another choice.
    if not any(value == option and type(value) is type(option) for option in options):
        hint = suggest(str(value), [str(option) for option in options], what="choices")
        raise RefusedError(f"{value!r} is not one of {', '.join(map(repr, options))}", hint)
    return value


def _read_sequence(annotation: Any, or_word: bool, value: Any) -> Any:
    if isinstance(value, Text):
        if or_word and value.strip()[:1] not in ("(", "["):
            raise RefusedError(f"{value!r} is a word", "put a sequence into brackets")
        value = tuple(map(Text, split_items(value)))
    count = fixed_length(annotation)
    if count and isinstance(value, tuple) and len(value) != count:
        shown = tuple(map(str, value)) if any(isinstance(item, Text) for item in value) else value
        what = f"{shown!r} holds {len(value)} value{'s' * (len(value) != 1)}, not {count}"
        raise RefusedError(what, f"give all {count}, as in {describe(annotation)}")
    return value


def _read_mapping(value: Any) -> Any:
    if not isinstance(value, Text):
        return value
    return {name: Text(item) for name, item in split_mapping(value).items()}


def _read_unknown(value: Any) -> Any:
    """Where no type is declared: what the text looks like, otherwise a string."""
    if not isinstance(value, Text):
        return value
    text = value.strip()
    if text.lower() in ("true", "false") or text == "None":
        return _BOOLS.get(text.lower())
    if text[:1] in ("(", "["):
        return tuple(_read_unknown(Text(item)) for item in split_items(text))
    if text[:1] == "{":
        return {name: _read_unknown(Text(item)) for name, item in split_mapping(text).items()}
    number = _read_number(value)
    return _read_word(False, value) if isinstance(number, Text) else number


def _refusal(value: Any, annotation: Any, errors: Sequence[ErrorDetails]) -> RefusedError:
    """Our words for what pydantic found, about one member where only one could be meant."""
    errors = [error for error in errors if error["type"] != "none_required"]
    if len(errors) == 1:
        (error,) = errors
        context = error.get("ctx", {})
        if isinstance(context.get("error"), RefusedError):
            refused: RefusedError = context["error"]
            return refused
        if "_than" in error["type"]:
            ((name, limit),) = context.items()
            return RefusedError(
                f"{error['input']!r} is out of range", f"give a value {BOUNDS[name]} {limit}"
            )
    shown = repr(value) if isinstance(value, str) else f"{value!r} ({type(value).__name__})"
    return RefusedError(f"{shown} is not {describe(annotation)}", f"give {describe(annotation)}")
