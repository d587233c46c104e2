"""One value at a time: make it what its annotation says, or refuse with a reason."""

from typing import Any

from scaling.configs.annotations import Text, describe, freeze, plain
from scaling.configs.component import MISSING, Param
from scaling.configs.errors import ConfigError, RefusedError


def parse(text: str, annotation: Any, key: str) -> Any:
    """The value that the text of an override stands for; see `coerce`."""
    return coerce(Text(text), annotation, key)


def coerce(value: Any, annotation: Any, key: str) -> Any:
    """A value as the annotation wants it: plain data, lists as tuples, ints as floats, frozen.

    Args:
      value: from a config file or a default; `Text` from a command line.
      annotation: of the parameter, `Annotated` ranges included.
      key: config path, for the error.

    Raises:
      ConfigError: the value is of another type or out of range.
    """
    from scaling.configs import schema  # pydantic takes 0.1 s, which `--help` does not need

    try:
        return freeze(schema.validate(plain(value), annotation))
    except RefusedError as error:
        raise ConfigError(key, error.reason, error.remedy) from None


def value_of(param: Param, value: Any, key: str) -> Any:
    """The value of one parameter: the one given, or the default.

    Raises:
      ConfigError: nothing is given and there is no default, or the value does not fit.
    """
    if value is MISSING:
        value = param.default
    if value is MISSING:
        raise ConfigError(key, "is required", f"give {describe(param.annotation)}")
    return None if value is param.default is None else coerce(value, param.annotation, key)
