"""Which keys there are, and which one a person meant who typed another."""

from collections.abc import Mapping
from typing import Any

from scaling.configs import schema as schema_lib
from scaling.configs import signature
from scaling.configs.errors import ConfigError, nearest, suggest
from scaling.configs.schema import Entries, Named, Schema


def dig(raw: Any, path: str) -> Any:
    """The value at a path of nested dictionaries; None where there is none."""
    for key in path.split(".") if path else ():
        raw = raw.get(key) if isinstance(raw, Mapping) else None
    return raw


def unknown_key(full: str, raw: Mapping[str, Any], schema: Schema) -> ConfigError:
    """The error for a key that does not exist: which component has it, which keys are near.

    Args:
      full: path of the key, below a section that does exist.
      raw: the whole config as stated so far (it says which component each section is).
      schema: the table of sections.
    """
    path, _, key = full.rpartition(".")
    known = schema_lib.pattern(path, schema)
    section = schema[known] if known is not None else None
    here = known_keys(path, raw, schema)
    if isinstance(section, Named):
        name = stated_name(section, dig(raw, path))
        if key in schema_lib.external_parameters(section):
            return ConfigError(
                full, "is supplied by the code, not by the config", "leave it out of the config"
            )
        owners = _owners(section, name, key)
        if owners:
            return ConfigError(
                full,
                f"{name!r} has no key {key!r}; it is a key of {', '.join(owners)}",
                f"the keys of {name!r} are: {', '.join(here)}",
            )
    reason = f"there is no key {key!r} in {path or 'the top level'}"
    if nearest(key, here):
        return ConfigError(full, reason, suggest(key, here, prefix=path and path + "."))
    elsewhere = nearest(full, [one for one in all_keys(raw, schema) if one not in here])
    if elsewhere:
        return ConfigError(full, reason, f"did you mean {' or '.join(elsewhere)}?")
    return ConfigError(full, reason, suggest(key, here))


def known_keys(path: str, raw: Mapping[str, Any], schema: Schema) -> list[str]:
    """Keys that the section at `path` may hold, given its `name` in the config."""
    known = schema_lib.pattern(path, schema)
    if known is None:
        return []
    section = schema[known]
    stated = dig(raw, path)
    if isinstance(section, Entries):
        return list(stated) if isinstance(stated, Mapping) else []
    below = schema_lib.children(known, schema)
    try:
        keys = schema_lib.section_parameters(section, stated_name(section, stated), path)
    except ConfigError:  # no such component: only what every component has
        keys = {}
    head = ["name"] if isinstance(section, Named) else []
    return [*head, *(key for key in keys if key not in below), *below]


def all_keys(raw: Mapping[str, Any], schema: Schema) -> list[str]:
    """Paths of all keys of all sections, entries of groups as far as the config names them."""
    found: list[str] = []

    def visit(path: str) -> None:
        keys = known_keys(path, raw, schema)
        for key in keys:
            below = schema_lib.join(path, key)
            found.append(below)
            if schema_lib.pattern(below, schema) is not None:
                visit(below)

    visit("")
    return found


def stated_name(section: Any, stated: Any) -> Any:
    """The component that a named section states, or its default."""
    name = stated.get("name") if isinstance(stated, Mapping) else None
    return name or getattr(section, "default", None) or None


def _owners(section: Named, name: Any, key: str) -> list[str]:
    """Other components of the family that do have the key."""
    found = []
    for other in signature.import_from(section.table):
        try:
            if other != name and key in schema_lib.section_parameters(section, other, ""):
                found.append(other)
        except ConfigError:  # a component whose own optional dependency is absent
            continue
    return found
