"""Overrides from the command line: `--config.a.b=value` laid over what the config file states.

The rules, all of them:

    --config.train.steps=1e4         text becomes a value of the key's own type, or is refused
    --config.model.head_dim=None     only where the key may be None
    --config.data.mixture.code.weight=0.3       inside a group of named entries
    --config.mesh.rules='((embed,fsdp),)'       tuples and mappings as one writes them
    --config.optim.name=lion         another component. Keys that the file sets and the new
                                     component has stay; any other key is refused by name
    --config.optim=lion              another component with all its own defaults: what the file
                                     says of this section is dropped. Sections below it stay, as
                                     `optim.schedule`, which has a component of its own
    --config.optim.b2=DEFAULT        drops what the file says of this key (or this section)
    --config.data.eval_source=None   drops an optional section

The order of overrides does not matter, and the same key twice with two values is refused.
Field references of the file follow: overriding a key also changes the keys that refer to it.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import config_dict

from scaling.configs import resolution, signature, values
from scaling.configs import schema as schema_lib
from scaling.configs.errors import ConfigError, suggest
from scaling.configs.schema import Entries, Named, Schema
from scaling.configs.suggestions import dig, known_keys, stated_name, unknown_key

DEFAULT = "DEFAULT"
_PATH = re.compile(r"\w+(\.\w[\w-]*)*")


@dataclasses.dataclass(frozen=True)
class Override:
    """One override: the key's path without `config.`, and the text after the equals sign."""

    path: str
    text: str


def split(token: str) -> Override:
    """`--config.a.b=v`, `config.a.b=v` or `a.b=v` as an Override.

    Raises:
      ConfigError: no equals sign, or what stands before it is no path.
    """
    path, equals, text = token.removeprefix("--").removeprefix("config.").partition("=")
    if not equals:
        raise ConfigError(path, "has no value", f"write --config.{path}=VALUE")
    if not _PATH.fullmatch(path):
        raise ConfigError(
            path or "--config.", "is not a path of keys", "write --config.SECTION.KEY=VALUE"
        )
    return Override(path, text)


def apply(config: Any, tokens: Sequence[str], schema: Schema) -> None:
    """Lay overrides over a raw config, in place.

    Args:
      config: what the config file returned (ConfigDict).
      tokens: see `split`.
      schema: the table of sections.

    Raises:
      ConfigError: a key that does not exist, a value that does not fit, or contradictory overrides.
    """
    overrides = list(dict.fromkeys(split(token) for token in tokens))
    _refuse_contradictions(overrides)
    sections = [one for one in overrides if schema_lib.pattern(one.path, schema) is not None]
    names = [one for one in overrides if one not in sections and _is_name(one.path, schema)]
    keys = [one for one in overrides if one not in sections and one not in names]
    for one in sorted(sections, key=_depth):
        _set_section(config, one, schema)
    for one in sorted(names, key=_depth):
        _set_name(config, one, schema)
    for one in sorted(keys, key=lambda one: one.text != DEFAULT):
        _set_key(config, one, schema)
    for one in names:
        _refuse_stale(config, one, schema)


def _depth(one: Override) -> int:
    return one.path.count(".")


def _is_name(path: str, schema: Schema) -> bool:
    """Whether the path is the `name` of a named section."""
    section, _, key = path.rpartition(".")
    known = schema_lib.pattern(section, schema)
    return key == "name" and known is not None and isinstance(schema[known], Named)


def _refuse_contradictions(overrides: Sequence[Override]) -> None:
    texts: dict[str, str] = {}
    for one in overrides:
        if texts.setdefault(one.path, one.text) != one.text:
            raise ConfigError(
                one.path,
                f"is given twice, as {texts[one.path]!r} and as {one.text!r}",
                "give it once",
            )
    for one in overrides:
        parts = one.path.split(".")
        for depth in range(1, len(parts)):
            above = ".".join(parts[:depth])
            if texts.get(above) in ("None", DEFAULT):
                raise ConfigError(
                    one.path,
                    f"is set, while --config.{above}={texts[above]} drops all of {above}",
                    "give one of the two",
                )
        section = one.path.removesuffix(".name")
        if section != one.path and section in texts and texts[section] != one.text:
            raise ConfigError(
                one.path,
                f"is {one.text!r}, while --config.{section}={texts[section]} says otherwise",
                "give one of the two",
            )


def _set_section(config: Any, one: Override, schema: Schema) -> None:
    """Replace, reset or drop a whole section."""
    section = schema[schema_lib.pattern(one.path, schema) or ""]
    _refuse_new_entry(config, one.path, schema, but_component=True)
    if one.text == DEFAULT:
        _drop(config, one.path)
    elif one.text == "None" and section.optional:
        _assign(config, one.path, None)
    elif isinstance(section, Named) and one.text != "None":
        schema_lib.section_component(section, one.text, one.path)
        below = schema_lib.children(schema_lib.pattern(one.path, schema) or "", schema)
        stated = dig(resolution.plain(config), one.path) or {}
        kept = {key: stated[key] for key in below if key in stated}
        _assign(config, one.path, config_dict.ConfigDict({"name": one.text, **kept}))
    else:
        reason = "cannot be None" if one.text == "None" else "is a group of keys, not one value"
        raise ConfigError(one.path, reason, f"set its keys: --config.{one.path}.KEY=VALUE")


def _set_name(config: Any, one: Override, schema: Schema) -> None:
    """Choose the component of a section and keep the section's other keys."""
    path = one.path.rpartition(".")[0]
    section = schema[schema_lib.pattern(path, schema) or ""]
    assert isinstance(section, Named)
    _refuse_new_entry(config, path, schema, but_component=True)
    if one.text == DEFAULT:
        _drop(config, one.path)
    else:
        schema_lib.section_component(section, one.text, path)
        _assign(config, one.path, one.text)


def _set_key(config: Any, one: Override, schema: Schema) -> None:
    raw = resolution.plain(config)
    section, _, key = one.path.rpartition(".")
    if one.text == DEFAULT and key in (dig(raw, section) or {}):
        _drop(config, one.path)
        return
    _refuse_new_entry(config, one.path, schema)
    param, path, below = _locate(one.path, raw, schema)
    annotation = param.annotation
    if below and dig(raw, path) is None and isinstance(param.default, Mapping):
        _assign(config, path, config_dict.ConfigDict(dict(param.default)))
    for part in below:
        annotation = _inside(annotation, path, part)
        path = schema_lib.join(path, part)
    if one.text != DEFAULT:
        _assign(config, one.path, values.parse(one.text, annotation, one.path))


def _locate(
    path: str, raw: Mapping[str, Any], schema: Schema
) -> tuple[signature.Param, str, list[str]]:
    """(parameter, its path, keys below it) of the section that an override reaches into."""
    parts = path.split(".")
    heads = [".".join(parts[:depth]) for depth in range(len(parts))]
    section = [head for head in heads if schema_lib.pattern(head, schema) is not None][-1]
    depth = heads.index(section)
    known = schema[schema_lib.pattern(section, schema) or ""]
    assert not isinstance(known, Entries), "what lies below a group is an entry"
    params = schema_lib.section_parameters(known, stated_name(known, dig(raw, section)), section)
    below = schema_lib.children(schema_lib.pattern(section, schema) or "", schema)
    if parts[depth] not in params or parts[depth] in below:
        raise unknown_key(schema_lib.join(section, parts[depth]), raw, schema)
    return params[parts[depth]], ".".join(parts[: depth + 1]), parts[depth + 1 :]


def _inside(annotation: Any, path: str, key: str) -> Any:
    """The annotation of a key below a parameter that holds a dataclass or a mapping."""
    nested = signature.nested_dataclass(annotation)
    if nested is not None:
        params = signature.parameters(nested)
        if key in params:
            return params[key].annotation
        hint = suggest(key, list(params), prefix=path + ".")
        raise ConfigError(f"{path}.{key}", f"there is no key {key!r} in {path}", hint)
    element = signature.mapping_value(annotation)
    if element is not signature.MISSING:
        return element
    raise ConfigError(
        f"{path}.{key}",
        f"{path} is one value, {values.describe(annotation)}, with no keys below it",
        f"write --config.{path}=VALUE",
    )


def _refuse_new_entry(config: Any, path: str, schema: Schema, but_component: bool = False) -> None:
    """Refuse to start a new entry of a group by a typing error.

    Only an override that gives the entry a component (`but_component`) starts a new one:
    `--config.data.mixture.cod.weight=1` alone is a misspelt `code`.
    """
    parts = path.split(".")
    for depth in range(1, len(parts)):
        group, key = ".".join(parts[:depth]), parts[depth]
        known = schema_lib.pattern(group, schema)
        if known is None or not isinstance(schema[known], Entries):
            continue
        entries = list(dig(resolution.plain(config), group) or {})
        below = schema_lib.pattern(path, schema)
        if key in entries or (but_component and below and isinstance(schema[below], Named)):
            continue
        hint = suggest(key, entries, prefix=group + ".", what="entries")
        start = [one for one in schema if one.startswith(f"{known}.*.")]
        example = f"{group}.{key}{start[0].removeprefix(known + '.*')}=NAME" if start else ""
        new = f"For a new entry also give --config.{example}" if example else ""
        raise ConfigError(
            f"{group}.{key}", f"there is no entry {key!r} in {group}", f"{hint} {new}".strip()
        )


def _refuse_stale(config: Any, one: Override, schema: Schema) -> None:
    """After a change of component: refuse keys of the file that the new one does not have."""
    section = one.path.removesuffix(".name")
    raw = resolution.plain(config)
    stated = dig(raw, section)
    if section == one.path or not isinstance(stated, Mapping):
        return
    valid = known_keys(section, raw, schema)
    stale = [key for key in stated if key not in valid]
    if stale:
        drop = " ".join(f"--config.{section}.{key}={DEFAULT}" for key in stale)
        raise ConfigError(
            f"{section}.{stale[0]}",
            f"{one.text!r} has no key {', '.join(map(repr, stale))}, which the config file sets "
            f"for another component",
            f"drop it with {drop}, or take {one.text!r} with all its own defaults: "
            f"--config.{section}={one.text}",
        )


def _assign(config: Any, path: str, value: Any) -> None:
    """Set a value, making the groups on the way that the file does not state."""
    *groups, key = path.split(".")
    node, done = config, ""
    for group in groups:
        done = schema_lib.join(done, group)
        inner = node.get(group)
        if not isinstance(inner, config_dict.ConfigDict):
            if inner is not None and not isinstance(inner, Mapping):
                raise ConfigError(done, f"the config file sets {inner!r}, not a group of keys")
            with node.unlocked(), node.ignore_type():
                node[group] = config_dict.ConfigDict(dict(inner or {}))
        node = node[group]
    with node.unlocked(), node.ignore_type():
        node[key] = value


def _drop(config: Any, path: str) -> None:
    """Remove what the file states at a path, if it states anything."""
    *groups, key = path.split(".")
    node = config
    for group in groups:
        node = node.get(group)
        if not isinstance(node, config_dict.ConfigDict):
            return
    if key in node:
        with node.unlocked():
            del node[key]
