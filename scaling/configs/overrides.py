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

from scaling.configs import moved, resolution, tree, values
from scaling.configs.component import MISSING, find_component
from scaling.configs.errors import ConfigError, suggest
from scaling.configs.tree import Node, dig

DEFAULT = "DEFAULT"
_PATH = re.compile(r"\w+(\.\w[\w-]*)*")


@dataclasses.dataclass(frozen=True)
class Override:
    """One override: the key's path without `config.`, and the text after the equals sign."""

    path: str
    text: str

    @property
    def above(self) -> str:
        """The path of the section that the key is in."""
        return self.path.rpartition(".")[0]


def split(token: str) -> Override:
    """`--config.a.b=v`, `config.a.b=v` or `a.b=v` as an Override.

    Raises:
      ConfigError: no equals sign, or what stands before it is not a path.
    """
    path, equals, text = token.removeprefix("--").removeprefix("config.").partition("=")
    if not equals:
        raise ConfigError(path, "has no value", f"write --config.{path}=VALUE")
    if not _PATH.fullmatch(path):
        raise ConfigError(
            path or "--config.", "is not a path of keys", "write --config.SECTION.KEY=VALUE"
        )
    return Override(moved.path(path, text), text)


def apply(config: Any, tokens: Sequence[str], tree_type: type) -> None:
    """Lay overrides over a raw config, in place.

    Args:
      config: what the config file returned (ConfigDict).
      tokens: see `split`.
      tree_type: dataclass of the sections.

    Raises:
      ConfigError: a key that does not exist, a value that does not fit, or contradictory overrides.
    """
    overrides = list(dict.fromkeys(split(token) for token in tokens))
    _refuse_contradictions(overrides)
    edit = _Edit(config, tree_type, overrides)
    # Components come before the keys below them, and what is dropped before what is set.
    for override in sorted(overrides, key=edit.order):
        edit.set(override)
    for override in overrides:
        edit.refuse_stale(override)


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


@dataclasses.dataclass(frozen=True)
class _Edit:
    """A raw config while overrides are laid over it."""

    config: Any
    tree_type: type
    overrides: Sequence[Override]

    def find(self, path: str) -> tuple[Node, list[str]]:
        return tree.find(self.tree_type, resolution.plain(self.config), path)

    def order(self, one: Override) -> tuple[bool, int, bool]:
        _, rest = self.find(one.path)
        return bool(rest) and rest != ["name"], one.path.count("."), one.text != DEFAULT

    def is_name(self, path: str) -> bool:
        """Whether the path is the `name` of a component."""
        node, rest = self.find(path)
        return rest == ["name"] and node.section.family is not None

    def set(self, one: Override) -> None:
        node, rest = self.find(one.path)
        stated = dig(resolution.plain(self.config), one.above) or {}
        drops = one.text == DEFAULT and rest[-1:] != [] and rest[-1] in stated
        if not drops or not rest:
            self._refuse_new_entry(one.path)
        if not rest:
            self._set_section(node, one)
        elif drops:
            _drop(self.config, one.path)
        elif rest == ["name"] and node.section.family is not None:
            if one.text != DEFAULT:
                find_component(one.text, node.section.family.names, one.path)
                _assign(self.config, one.path, one.text)
        else:
            self._set_key(node, rest, one)

    def _set_section(self, node: Node, one: Override) -> None:
        """Replace, reset or drop a whole section."""
        family = node.section.family
        if one.text == DEFAULT:
            _drop(self.config, one.path)
        elif one.text == "None" and node.section.optional:
            _assign(self.config, one.path, None)
        elif family is not None and one.text != "None":
            find_component(one.text, family.names, tree.join(one.path, "name"))
            stated = node.stated if isinstance(node.stated, Mapping) else {}
            kept = {key: stated[key] for key in node.sections_below() if key in stated}
            _assign(self.config, one.path, config_dict.ConfigDict({"name": one.text, **kept}))
        else:
            reason = "cannot be None" if one.text == "None" else "is a group of keys, not one value"
            raise ConfigError(one.path, reason, f"set its keys: --config.{one.path}.KEY=VALUE")

    def _set_key(self, node: Node, rest: Sequence[str], one: Override) -> None:
        key, *below = rest
        params = node.params()
        if key not in params:
            top = tree.root(self.tree_type, resolution.plain(self.config))
            raise tree.unknown_key(node, key, top)
        annotation, path = params[key].annotation, tree.join(node.path, key)
        if below and dig(node.stated, key) is None and isinstance(params[key].default, Mapping):
            default = values.to_plain(params[key].default)
            _assign(self.config, path, config_dict.ConfigDict(default))
        for _ in below:
            inner = values.mapping_value(annotation)
            if inner is MISSING:
                raise ConfigError(
                    one.path,
                    f"{path} is one value, {values.describe(annotation)}, with no keys below it",
                    f"write --config.{path}=VALUE",
                )
            annotation = inner
        if one.text != DEFAULT:
            value = values.parse(one.text, annotation, one.path)
            _assign(self.config, one.path, values.to_plain(value))

    def _refuse_new_entry(self, path: str) -> None:
        """Refuse to start a new entry of a group by a typing error.

        Only an override that gives the entry a key that it requires, or its component, starts a new
        one: `--config.data.mixture.cod.weight=1` alone is a misspelt `code`.
        """
        parts = path.split(".")
        for depth in range(1, len(parts)):
            group, rest = self.find(".".join(parts[:depth]))
            if rest or group.section.entry is None or parts[depth] in group.names():
                continue
            entry = Node(tree.join(group.path, parts[depth]), group.section.entry, None)
            required = [key for key, p in entry.keys().items() if p.default is MISSING]
            starts = (
                [entry.path]
                if entry.section.family
                else [tree.join(entry.path, key) for key in required]
            )
            given = {one.path.removesuffix(".name") for one in self.overrides}
            if given & set(starts):
                continue
            hint = suggest(parts[depth], group.names(), prefix=group.path + ".", what="entries")
            new = f"For a new entry also give --config.{starts[0]}=..." if starts else ""
            reason = f"there is no entry {parts[depth]!r} in {group.path}"
            raise ConfigError(entry.path, reason, f"{hint} {new}".strip())

    def refuse_stale(self, one: Override) -> None:
        """After a change of component: refuse keys of the file that the new one does not have."""
        if not self.is_name(one.path):
            return
        node, _ = self.find(one.above)
        stale = [key for key in node.stated or () if key not in node.names()]
        if stale:
            drop = " ".join(f"--config.{node.path}.{key}={DEFAULT}" for key in stale)
            raise ConfigError(
                f"{node.path}.{stale[0]}",
                f"{one.text!r} has no key {', '.join(map(repr, stale))}, which the config file sets "
                f"for another component",
                f"drop it with {drop}, or take {one.text!r} with all its own defaults: "
                f"--config.{node.path}={one.text}",
            )


def _assign(config: Any, path: str, value: Any) -> None:
    """Set a value, making the groups on the way that the file does not state."""
    *groups, key = path.split(".")
    node, done = config, ""
    for group in groups:
        done = tree.join(done, group)
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
