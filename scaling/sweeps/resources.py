"""`--resources=KEY=VALUE,...` of the cluster launchers: checked against what each understands."""

from collections.abc import Mapping

from scaling.configs import ConfigError
from scaling.configs.errors import suggest

Value = str | int | bool


def parse(text: str, known: Mapping[str, str], *, prefix: str = "") -> dict[str, Value]:
    """Keys and values; whole numbers and true/false become such.

    Args:
      text: as given on the command line; a value may hold no comma.
      known: key -> what it means.
      prefix: keys that begin so are passed on unchecked; "" for none.

    Raises:
      ConfigError: no key=value, a key that nobody understands, or one given twice.
    """
    found: dict[str, Value] = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals or not key or not value:
            raise ConfigError("--resources", f"{part!r} is not KEY=VALUE", "write KEY=VALUE,...")
        if key not in known and not (prefix and key.startswith(prefix)):
            raise ConfigError("--resources", f"there is no {key!r}", suggest(key, list(known)))
        if key in found:
            raise ConfigError("--resources", f"{key} is given twice", "give it once")
        found[key] = _typed(value)
    return found


def _typed(value: str) -> Value:
    words = {"true": True, "false": False}
    if value.lower() in words:
        return words[value.lower()]
    return int(value) if value.isdecimal() else value
