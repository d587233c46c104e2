"""Walks a config along the annotations of its dataclasses: which sections and keys are where.

There are three kinds of sections, told from the annotation of the field that holds them:

    a dataclass                             always the same keys
    Annotated[Component, Family(...)]       the key `name` chooses a component; its parameters, and
                                            the fields of a subclass of `Component`, are the keys
    Mapping[str, X] with X a section        entries under names that the user chooses

Each may be optional (`X | None`).
"""

import dataclasses
import inspect
import types
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections.config_dict import ConfigDict

from scaling.configs.annotations import mapping_value
from scaling.configs.component import (
    MISSING,
    Component,
    Family,
    Param,
    alternatives,
    find_component,
    parameters,
    section_fields,
    strip,
)
from scaling.configs.errors import ConfigError, nearest, suggest


@dataclasses.dataclass(frozen=True)
class Section:
    """What an annotation says of a section.

    Attributes:
      cls: the dataclass, or `Component` or a subclass of it.
      family: of a component.
      entry: what each entry is.
      optional: whether None may stand in its place.
    """

    cls: Any = Component
    family: Family | None = None
    entry: "Section | None" = None
    optional: bool = False


def section_of(annotation: Any) -> Section | None:
    """The section that an annotation describes; None if it describes a value."""
    members = [one for one in alternatives(annotation) if one is not types.NoneType]
    if len(members) != 1:
        return None
    inner, marks = strip(members[0])
    if len(alternatives(inner)) > 1:
        return section_of(inner)  # Annotated[X | None, mark]
    optional = len(alternatives(annotation)) > 1
    family = next((mark for mark in marks if isinstance(mark, Family)), None)
    if family or (inspect.isclass(inner) and dataclasses.is_dataclass(inner)):
        return Section(inner, family, optional=optional)
    element = mapping_value(inner)
    entry = None if element is MISSING else section_of(element)
    return Section(entry=entry, optional=optional) if entry else None


@dataclasses.dataclass(frozen=True)
class Node:
    """A section at its place in a config, as far as that is stated.

    Attributes:
      section: what the annotations say.
      stated: what the config states there: a mapping, None, or (wrongly) something else.
    """

    path: str
    section: Section
    stated: Any

    @property
    def name(self) -> Any:
        """The component that is stated, or the family's default."""
        name = self.stated.get("name") if isinstance(self.stated, Mapping) else None
        return name or (self.section.family.default if self.section.family else None)

    def sections_below(self) -> dict[str, Param]:
        """Fields that a subclass of `Component` adds to the parameters of what it names."""
        if self.section.family is None:
            return {}
        params = parameters(self.section.cls)
        return {key: params[key] for key in section_fields(self.section.cls)}

    def params(self) -> dict[str, Param]:
        """The keys of the section, `name` of a component left out; none for entries."""
        family = self.section.family
        if family is None:
            return {} if self.section.entry else parameters(self.section.cls)
        called = find_component(self.name, family.names, join(self.path, "name"))
        below = self.sections_below()
        skipped = {"name", *family.supplied, *below}
        return {k: param for k, param in parameters(called).items() if k not in skipped} | below

    def keys(self) -> dict[str, Param]:
        """`params`, or what is known without the component where there is none of the name."""
        try:
            return self.params()
        except ConfigError:
            return self.sections_below()

    def names(self) -> list[str]:
        """All keys that may be stated, entries as far as they are."""
        if self.section.entry is not None:
            return list(self.stated) if isinstance(self.stated, Mapping) else []
        return [*(["name"] if self.section.family else []), *self.keys()]

    def child(self, key: str) -> "Node | None":
        """The section below; None if the key holds a value or does not exist."""
        section = self.section.entry
        if section is None:
            param = self.sections_below().get(key) or self.keys().get(key)
            section = section_of(param.annotation) if param else None
        stated = self.stated.get(key) if isinstance(self.stated, Mapping) else None
        return None if section is None else Node(join(self.path, key), section, stated)


def root(tree: type, raw: Mapping[str, Any]) -> Node:
    """The whole config as a node."""
    return Node("", Section(tree), raw)


def find(tree: type, raw: Mapping[str, Any], path: str) -> tuple[Node, list[str]]:
    """(deepest section on the way to a path, the keys of the path below it)."""
    node, rest = root(tree, raw), path.split(".") if path else []
    while rest:
        below = node.child(rest[0])
        if below is None:
            break
        node, rest = below, rest[1:]
    return node, rest


def join(path: str, key: str) -> str:
    """A config path one key longer."""
    return f"{path}.{key}" if path else key


def dig(config: Any, path: str) -> Any:
    """The value at a path of nested mappings or dataclasses; None where there is none."""
    for key in path.split(".") if path else ():
        if isinstance(config, (Mapping, ConfigDict)):
            config = config.get(key)
        else:
            config = getattr(config, key, None) if dataclasses.is_dataclass(config) else None
    return config


def all_keys(node: Node) -> Iterator[str]:
    """Paths of all keys below a node, entries as far as the config names them."""
    for key in node.names():
        yield join(node.path, key)
        below = node.child(key)
        if below is not None and (below.stated is not None or below.section.family is None):
            yield from all_keys(below)


def unknown_key(node: Node, key: str, top: Node) -> ConfigError:
    """The error for a key that a section does not have: which component has it, what is near.

    `top` is the whole config, for keys that stand elsewhere.
    """
    here, path, family = node.names(), join(node.path, key), node.section.family
    if family is not None:
        if key in family.supplied:
            what = "is supplied by the code, not by the config"
            return ConfigError(path, what, "leave it out of the config")
        named = {other: Node("", node.section, {"name": other}) for other in family.names}
        owners = [other for other, one in named.items() if key in one.names() != here]
        if owners:
            what = f"{node.name!r} has no key {key!r}; it is a key of {', '.join(owners)}"
            return ConfigError(path, what, f"the keys of {node.name!r} are: {', '.join(here)}")
    reason = f"there is no key {key!r} in {node.path or 'the top level'}"
    elsewhere = nearest(path, [other for other in all_keys(top) if other not in here])
    if elsewhere and not nearest(key, here):
        return ConfigError(path, reason, f"did you mean {' or '.join(elsewhere)}?")
    return ConfigError(path, reason, suggest(key, here, prefix=node.path and node.path + "."))
