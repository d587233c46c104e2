"""Overrides from the command line: `--config.a.b=value` laid over what the config file states.

`RULES` says what they can do. Their order does not matter, and the same key twice with two values is
refused. Field references of the file follow: an override of a key also changes the keys that refer
to it.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections.config_dict import ConfigDict

from scaling.configs import annotations, moved, tree, values
from scaling.configs.component import MISSING, find_component
from scaling.configs.errors import ConfigError, suggest
from scaling.configs.tree import Node, dig, join

RULES = """\
Keys of the config: --config.SECTION.KEY=VALUE, as often as you like
  --config.train.steps=1e4          a value, of the key's own type
  --config.model.head_dim=None      no value, where the key may have none
  --config.mesh.rules='((mlp,None),)'           a tuple
  --config.data.mixture.code.weight=0.3         inside a group of named entries
  --config.eval.also.robust.evaluation=adversarial      a new entry of such a group
  --config.optim.name=lion          another component; the keys that the file sets stay, and one
                                    that lion does not have is refused
  --config.optim=lion               another component with its own defaults; sections below it,
                                    such as optim.schedule, stay
  --config.optim.b2=DEFAULT         forget what the file sets of a key or a section
  --config.data.eval_source=None    leave out an optional section"""

DEFAULT = "DEFAULT"
_PATH = re.compile(r"\w+(\.\w[\w-]*)*")


def split(token: str) -> tuple[str, str]:
    """`--config.a.b=v`, `config.a.b=v` or `a.b=v` as ("a.b", "v")."""
    path, equals, text = token.removeprefix("--").removeprefix("config.").partition("=")
    if not equals:
        raise ConfigError(path, "has no value", f"write --config.{path}=VALUE")
    if not _PATH.fullmatch(path):
        what = "is not a path of keys"
        raise ConfigError(path or "--config.", what, "write --config.SECTION.KEY=VALUE")
    return moved.path(path, text), text


def apply(config: ConfigDict, tokens: Sequence[str], tree_type: type) -> None:
    """Lay overrides over what a config file returned, in place."""
    texts: dict[str, str] = {}
    for path, text in map(split, tokens):
        if texts.setdefault(path, text) != text:
            what = f"is given twice, as {texts[path]!r} and as {text!r}"
            raise ConfigError(path, what, "give it once")
    for path in texts:
        _refuse_contradiction(path, texts)
    edit = _Edit(config, tree_type, texts)
    # Components come before the keys below them, and what is dropped before what is set.
    for path in sorted(texts, key=edit.order):
        edit.set(path, texts[path])
    for path in texts:
        edit.refuse_stale(path)


def _refuse_contradiction(path: str, texts: Mapping[str, str]) -> None:
    parts = path.split(".")
    for above in (".".join(parts[:depth]) for depth in range(1, len(parts))):
        if texts.get(above) in ("None", DEFAULT):
            what = f"is set, while --config.{above}={texts[above]} drops all of {above}"
            raise ConfigError(path, what, "give one of the two")
    section = path.removesuffix(".name")
    if section != path and texts.get(section, texts[path]) != texts[path]:
        what = f"is {texts[path]!r}, while --config.{section}={texts[section]} says otherwise"
        raise ConfigError(path, what, "give one of the two")


class _Edit:
    """The config of a file while overrides are laid over it."""

    def __init__(self, config: ConfigDict, tree_type: type, texts: Mapping[str, str]) -> None:
        self.config, self.tree_type, self.texts = config, tree_type, texts

    def find(self, path: str) -> tuple[Node, list[str]]:
        return tree.find(self.tree_type, annotations.to_plain(self.config), path)

    def order(self, path: str) -> tuple[bool, int, bool]:
        _, rest = self.find(path)
        return bool(rest) and rest != ["name"], path.count("."), self.texts[path] != DEFAULT

    def set(self, path: str, text: str) -> None:
        """Lays one override over the config."""
        node, rest = self.find(path)
        above, _, last = path.rpartition(".")
        family = node.section.family
        if text == DEFAULT and last in (dig(annotations.to_plain(self.config), above) or {}):
            _assign(self.config, path, MISSING)
            return
        self._refuse_new_entry(path)
        if not rest:
            self._set_section(node, text)
        elif family is None or rest != ["name"]:
            self._set_key(node, rest, text)
        elif text != DEFAULT:
            find_component(text, family.names, path)
            _assign(self.config, path, text)

    def _set_section(self, node: Node, text: str) -> None:
        family = node.section.family
        if text == "None" and node.section.optional:
            _assign(self.config, node.path, None)
        elif family is not None and text not in ("None", DEFAULT):
            find_component(text, family.names, join(node.path, "name"))
            stated = node.stated if isinstance(node.stated, Mapping) else {}
            kept = {key: stated[key] for key in node.sections_below() if key in stated}
            _assign(self.config, node.path, ConfigDict({"name": text, **kept}))
        elif text != DEFAULT:
            what = "cannot be None" if text == "None" else "is a group of keys, not one value"
            raise ConfigError(node.path, what, f"set its keys: --config.{node.path}.KEY=VALUE")

    def _set_key(self, node: Node, rest: Sequence[str], text: str) -> None:
        key, *below = rest
        params, place = node.params(), join(node.path, key)
        if key not in params:
            top = tree.root(self.tree_type, annotations.to_plain(self.config))
            raise tree.unknown_key(node, key, top)
        annotation, default = params[key].annotation, params[key].default
        if below and dig(node.stated, key) is None and isinstance(default, Mapping):
            _assign(self.config, place, ConfigDict(annotations.to_plain(default)))
        for inner in below:
            described = annotations.describe(annotation)
            annotation = annotations.mapping_value(annotation)
            if annotation is MISSING:
                what = f"{place} is one value, {described}, with no keys below it"
                raise ConfigError(f"{place}.{inner}", what, f"write --config.{place}=VALUE")
        if text != DEFAULT:
            path = ".".join([place, *below])
            value = values.parse(text, annotation, path)
            _assign(self.config, path, annotations.to_plain(value))

    def _refuse_new_entry(self, path: str) -> None:
        """Refuse to start a new entry of a group by a typing error.

        Only an override that gives the entry a key that it requires (its first key, where it
        requires none), or its component, starts a new one: `--config.data.mixture.cod.weight=1`
        alone is a misspelt `code`.
        """
        parts = path.split(".")
        for depth, name in enumerate(parts[1:], 1):
            group, rest = self.find(".".join(parts[:depth]))
            if rest or group.section.entry is None or name in group.names():
                continue
            entry = Node(join(group.path, name), group.section.entry, None)
            params = entry.keys()
            required = [key for key, p in params.items() if p.default is MISSING]
            keys = [] if entry.section.family else required or list(params)[:1]
            starts = [join(entry.path, key) for key in keys] or [entry.path]
            if {one.removesuffix(".name") for one in self.texts}.intersection(starts):
                continue
            hint = suggest(name, group.names(), prefix=group.path + ".", what="entries")
            remedy = f"{hint} For a new entry also give --config.{starts[0]}=..."
            raise ConfigError(
                entry.path, f"there is no entry {name!r} in {group.path}", remedy.strip()
            )

    def refuse_stale(self, path: str) -> None:
        """After a change of component: refuse keys of the file that the new one does not have."""
        node, rest = self.find(path)
        if rest != ["name"] or node.section.family is None:
            return
        text, where = self.texts[path], f"--config.{node.path}"
        stale = [key for key in node.stated or () if key not in node.names()]
        if stale:
            raise ConfigError(
                f"{node.path}.{stale[0]}",
                f"{text!r} has no key {', '.join(map(repr, stale))}, which the config file sets "
                "for another component",
                f"drop it with {' '.join(f'{where}.{key}={DEFAULT}' for key in stale)}, or take "
                f"{text!r} with all its own defaults: {where}={text}",
            )


def _assign(config: ConfigDict, path: str, value: Any) -> None:
    """Set a value (MISSING removes it), making the groups on the way that the file does not state."""
    *groups, key = path.split(".")
    node, done = config, ""
    for group in groups:
        done, inner = join(done, group), node.get(group)
        if not isinstance(inner, ConfigDict):
            if inner is not None and not isinstance(inner, Mapping):
                raise ConfigError(done, f"the config file sets {inner!r}, not a group of keys")
            with node.unlocked(), node.ignore_type():
                node[group] = ConfigDict(dict(inner or {}))
        node = node[group]
    with node.unlocked(), node.ignore_type():
        if value is MISSING:
            del node[key]
        else:
            node[key] = value
