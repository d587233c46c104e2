"""Components: what a section with a `name` stands for, which keys that has, and how it is called.

A component is a dataclass, a flax linen module or a plain function or class. Nothing is declared
twice: the keys of a section are the parameters of the component that it names.
"""

import dataclasses
import functools
import importlib
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from scaling.configs.errors import ConfigError, nearest

Table = Mapping[str, str]


# The absence of a value, where None would be one.
MISSING: Any = dataclasses.MISSING


class FrozenMapping(Mapping[str, Any]):
    """A mapping that cannot be changed and has a hash."""

    def __init__(self, items: Mapping[str, Any] | None = None) -> None:
        self._items = dict(items or {})

    def __getitem__(self, key: str) -> Any:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __repr__(self) -> str:
        return repr(self._items)


@dataclasses.dataclass(frozen=True)
class Family:
    """Beside `Component` in an annotation: which components a section can name.

    Attributes:
      table: path of the table of names, "package.module:TABLE". A name that is not in it must be
        "package.module:attribute" itself.
      supplied: parameters that the code passes, which are therefore not keys of the config.
      default: the name where the config gives none; empty if the config must.
    """

    table: str
    supplied: tuple[str, ...] = ()
    default: str = ""

    @property
    def names(self) -> Table:
        """Name -> import path."""
        names: Table = import_from(self.table)
        return names


@dataclasses.dataclass(frozen=True)
class Component(Mapping[str, Any]):
    """A resolved section with a `name`: the name, and a value for each parameter of what it names.

    A mapping of all keys, which can be read as attributes too (`model.num_layers`). A subclass may
    add fields; these are sections below this one, whatever it names.
    """

    name: str
    arguments: Mapping[str, Any] = FrozenMapping()

    def __getattr__(self, key: str) -> Any:
        if not key.startswith("_") and key in self.__dict__.get("arguments", {}):
            return self.arguments[key]
        raise AttributeError(f"{self.__dict__.get('name')!r} has no key {key!r}")

    def __getitem__(self, key: str) -> Any:
        if key not in self._keys():
            raise KeyError(key)
        # A parameter may have the name of a method of mappings, such as `items`.
        return self.arguments[key] if key in self.arguments else getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys())

    def __len__(self) -> int:
        return len(self._keys())

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key, or the default where the component has no such key."""
        return super().get(key, default)

    def _keys(self) -> list[str]:
        return ["name", *self.arguments, *section_fields(type(self))]


def section_fields(cls: type[Component]) -> list[str]:
    """Names of the fields that a subclass of `Component` adds."""
    return [field.name for field in dataclasses.fields(cls)][2:]


@dataclasses.dataclass(frozen=True)
class Param:
    """One key of a section: its annotation and its default (MISSING where the user must choose)."""

    name: str
    annotation: Any
    default: Any = MISSING


def component(section: Mapping[str, Any], table: Table | str) -> Callable[..., Any]:
    """The dataclass, module or function that a section names."""
    names = import_from(table) if isinstance(table, str) else table
    return find_component(section["name"], names, "name")


def build(section: Mapping[str, Any], table: Table | str, **supplied: Any) -> Any:
    """Call what a section names with its keys, and with those of `supplied` that it declares.

    Args:
      section: a `Component`, or a mapping with a key `name`. The sections below it are passed only
        to a parameter of that name.
      **supplied: what the code knows and the config does not.

    Raises:
      ConfigError: the section has a key that the component does not take.
      ValueError: whatever the component itself refuses.
    """
    called = component(section, table)
    params = parameters(called)
    keywords = {}
    for key, value in {**section, **supplied}.items():
        if key in params:
            keywords[key] = dict(value) if isinstance(value, FrozenMapping) else value
        elif key not in supplied and key != "name" and value is not None:
            if isinstance(value, Mapping) or hasattr(value, "to_dict"):
                continue  # a section below
            name = getattr(called, "__name__", section["name"])
            raise ConfigError(key, f"{name} takes no {key!r}", "resolve the config first")
    return called(**keywords)


def import_from(path: str) -> Any:
    """The object at "package.module:attribute"; raises ImportError or AttributeError."""
    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module), attribute)


def find_component(name: str, table: Table, key: str) -> Callable[..., Any]:
    """The component that `name` stands for: of the table, or the user's own "package.module:attribute".

    Raises:
      ConfigError (of the config path `key`): no such name, or the import path does not lead to
        something callable.
    """
    choices = ", ".join(sorted(table))
    if not name or not isinstance(name, str):
        what = f"{name!r} is not a name" if name else "is required"
        raise ConfigError(key, what, f"choose one of {choices}")
    path = table.get(name, name)
    if ":" not in path:
        close = " or ".join(map(repr, nearest(name, table)))
        hint = f"did you mean {close}? " if close else ""
        own = "or your own component as 'package.module:attribute'"
        raise ConfigError(key, f"there is no {name!r}", f"{hint}Choose one of {choices}, {own}")
    try:
        target: Callable[..., Any] = import_from(path)
    except (ImportError, AttributeError, ValueError) as error:
        what = f"{path!r} cannot be imported: {type(error).__name__}: {error}"
        remedy = "write 'package.module:attribute', with the package on PYTHONPATH"
        raise ConfigError(key, what, remedy) from error
    if not callable(target):
        what = f"{path!r} is {type(target).__name__}, which cannot be called"
        raise ConfigError(key, what, "name a dataclass, a flax module or a function")
    return target


@functools.cache
def parameters(called: Callable[..., Any]) -> dict[str, Param]:
    """Parameters by name, in their order. Those that no config could state are left out.

    Left out are flax's own `parent` and `name`, `*args`, `**kwargs`, `init=False` fields, and
    parameters whose default is code (an initialiser, an activation function).
    """
    source = called.__init__ if inspect.isclass(called) else called
    fields = getattr(called, "__dataclass_fields__", {})
    try:
        hints = typing.get_type_hints(called if fields else source, include_extras=True)
    except NameError:  # a name that exists only while type checking
        raw = inspect.get_annotations(called if fields else source)
        hints = {name: Any if isinstance(hint, str) else hint for name, hint in raw.items()}
    skipped = ("parent", "name") if _is_flax_module(called) else ()
    params = {}
    for name, parameter in inspect.signature(called).parameters.items():
        if name in skipped or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        default = MISSING if parameter.default is parameter.empty else parameter.default
        if name in fields and fields[name].default_factory is not MISSING:
            default = fields[name].default_factory()
        simple = isinstance(default, (bool, int, float, str))  # tells the type where nothing does
        if not _is_code(default):
            params[name] = Param(name, hints.get(name, type(default) if simple else Any), default)
    return params


def marked(called: Callable[..., Any], mark: type) -> list[str]:
    """Parameters whose annotation carries a mark of this type."""
    return [name for name, param in parameters(called).items() if has_mark(param.annotation, mark)]


def has_mark(annotation: Any, mark: type) -> bool:
    """Whether an annotation, or a member of it if it is a union, carries a mark of this type."""
    members = (annotation, *alternatives(annotation))
    return any(isinstance(found, mark) for member in members for found in strip(member)[1])


def strip(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """(type, marks): an annotation without its `Annotated` wrapper, and what the wrapper held."""
    if hasattr(annotation, "__value__"):  # `type Name = ...` of Python 3.12
        return strip(annotation.__value__)
    if typing.get_origin(annotation) is typing.Annotated:
        inner, *marks = typing.get_args(annotation)
        return inner, tuple(marks)
    return annotation, ()


def alternatives(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, None's type included; the annotation alone if it is not a union."""
    inner, _ = strip(annotation)
    if typing.get_origin(inner) in (typing.Union, types.UnionType):
        return typing.get_args(inner)
    return (annotation,)


def _is_flax_module(called: Any) -> bool:
    """Told by name, because importing flax takes a second and may not be needed."""
    bases = getattr(called, "__mro__", ())
    return any(one.__name__ == "Module" and one.__module__.startswith("flax.") for one in bases)


def _is_code(default: Any) -> bool:
    plain = (bool, int, float, str, tuple, list, Mapping, types.NoneType, type(MISSING))
    return not isinstance(default, plain) and not dataclasses.is_dataclass(default)
