"""From what a file states to the complete config: defaults filled, every value checked."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import config_dict

from scaling.configs import schema as schema_lib
from scaling.configs import values
from scaling.configs.errors import ConfigError
from scaling.configs.schema import SCHEMA, Entries, Named, Schema
from scaling.configs.signature import MISSING, Param
from scaling.configs.suggestions import unknown_key

ConfigDict = config_dict.ConfigDict


def resolve(config: Any, schema: Schema = SCHEMA) -> Any:
    """The complete config: defaults from the components' signatures, values as annotated, locked.

    Resolving twice changes nothing.

    Args:
      config: ConfigDict or mapping that states what differs from the defaults. Not changed.
      schema: the table of sections.

    Raises:
      ConfigError: an unknown or missing key, or a value of the wrong type or out of range.
    """
    raw = plain(config)
    return ConfigDict(_resolve_section("", raw, _Whole(raw, schema))).lock()


@dataclasses.dataclass(frozen=True)
class _Whole:
    """What every step of the recursion needs: the whole config (for suggestions), the schema."""

    raw: dict[str, Any]
    schema: Schema


def plain(config: Any) -> dict[str, Any]:
    """Nested dictionaries with every field reference replaced by its value.

    Raises:
      ConfigError: a required placeholder was left empty.
    """
    if isinstance(config, config_dict.ConfigDict):
        try:
            config = config.to_dict()
        except config_dict.RequiredValueError as error:
            raise ConfigError("config", f"a required placeholder is empty: {error}") from error
    return {key: plain(value) if _is_mapping(value) else value for key, value in config.items()}


def _is_mapping(value: Any) -> bool:
    return isinstance(value, (Mapping, config_dict.ConfigDict))


def _resolve_section(path: str, raw: Any, whole: _Whole) -> dict[str, Any] | None:
    known = schema_lib.pattern(path, whole.schema) or ""
    section = whole.schema[known]
    if raw is None and section.optional:
        return None
    if not _is_mapping(raw):
        hint = f"write {path}.name = {raw!r}" if isinstance(raw, str) else "give {key: value, ...}"
        raise ConfigError(path, f"{raw!r} is not a group of keys", hint)
    if isinstance(section, Entries):
        return _resolve_entries(path, raw, whole)
    result: dict[str, Any] = {}
    if isinstance(section, Named):
        raw = {"name": section.default or None, **raw}
        result["name"] = raw["name"]
    params = schema_lib.section_parameters(section, raw.get("name"), path)
    subsections = schema_lib.children(known, whole.schema)
    for key in raw:
        if key not in params and key not in subsections and key not in result:
            raise unknown_key(schema_lib.join(path, str(key)), whole.raw, whole.schema)
    for key, param in params.items():
        if key not in subsections:
            result[key] = resolve_value(param, raw.get(key, MISSING), schema_lib.join(path, key))
    for key, subsection in subsections.items():
        absent: Any = None if whole.schema[subsection].optional else {}
        result[key] = _resolve_section(schema_lib.join(path, key), raw.get(key, absent), whole)
    return result


def _resolve_entries(path: str, raw: Mapping[str, Any], whole: _Whole) -> dict[str, Any]:
    result = {}
    for key, entry in raw.items():
        if not isinstance(key, str) or not key or "." in key:
            raise ConfigError(path, f"{key!r} cannot name an entry", "use a word without dots")
        result[key] = _resolve_section(schema_lib.join(path, key), entry, whole)
    return result


def resolve_value(param: Param, value: Any, key: str) -> Any:
    """The value of one parameter: the one given, or the default.

    Raises:
      ConfigError: nothing is given and there is no default, or the value does not fit.
    """
    if value is MISSING:
        if param.default is MISSING:
            raise ConfigError(key, "is required", f"give {values.describe(param.annotation)}")
        return values.default_of(param, key)
    if value is None and param.default is None:
        return None
    if isinstance(value, Mapping) and dataclasses.is_dataclass(param.default):
        value = _over(param.default, value)
    return values.coerce(value, param.annotation, key)


def _over(default: Any, stated: Mapping[str, Any]) -> dict[str, Any]:
    """What is stated of a nested dataclass, laid over the parameter's own default instance."""
    fields = [field.name for field in dataclasses.fields(default) if field.init]
    merged = {**{name: getattr(default, name) for name in fields}, **stated}
    for name in fields:
        if isinstance(merged[name], Mapping) and dataclasses.is_dataclass(getattr(default, name)):
            merged[name] = _over(getattr(default, name), merged[name])
    return merged
