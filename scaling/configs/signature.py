"""What a component accepts: its parameters, their types and their defaults, read from itself.

A component is a dataclass, a flax linen module or a plain function or class. Nothing is declared
twice: the keys of a config section are the parameters of the component that the section names.
"""

import dataclasses
import importlib
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from scaling.configs.errors import ConfigError, nearest
from scaling.configs.types import RuntimeNumber

Table = Mapping[str, str]


class _Missing:
    """The absence of a value, where None would be one."""

    def __repr__(self) -> str:
        return "(not set)"


MISSING: Any = _Missing()


@dataclasses.dataclass(frozen=True)
class Param:
    """One key of a section: its annotation and its default (MISSING where the user must choose)."""

    name: str
    annotation: Any
    default: Any = MISSING


def import_from(path: str) -> Any:
    """The object at "package.module:attribute".

    Raises:
      ImportError, AttributeError: there is no such module or attribute.
    """
    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module), attribute)


def find_component(name: str, table: Table, key: str) -> Callable[..., Any]:
    """The component that `name` stands for: an entry of the table, or "package.module:attribute".

    Args:
      name: a name in the table or an import path of the user's own component.
      table: the family's names.
      key: config path, for the error.

    Raises:
      ConfigError: no such name, or the import path does not lead to something callable.
    """
    path = table.get(name, name)
    if ":" not in path:
        close = nearest(name, table)
        hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
        raise ConfigError(
            key,
            f"there is no {name!r}",
            f"{hint}Choose one of {', '.join(sorted(table))}, or your own component as "
            "'package.module:attribute'",
        )
    try:
        found = import_from(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            key,
            f"{path!r} cannot be imported: {type(error).__name__}: {error}",
            "write 'package.module:attribute', with the package on PYTHONPATH",
        ) from error
    if not callable(found):
        raise ConfigError(
            key,
            f"{path!r} is {type(found).__name__}, not something to call",
            "name a dataclass, a flax module or a function",
        )
    return found


def parameters(component: Callable[..., Any]) -> dict[str, Param]:
    """Parameters by name, in their order. Those that no config could state are left out.

    Left out are flax's own `parent` and `name`, `*args`, `**kwargs`, `init=False` fields, and
    parameters whose default is code (an initialiser, an activation function).
    """
    if dataclasses.is_dataclass(component):
        found = _of_dataclass(component)
    else:
        found = _of_callable(component)
    return {name: param for name, param in found.items() if not _is_code(param.default)}


def marked(component: Callable[..., Any], mark: type) -> list[str]:
    """Parameters whose annotation carries a mark of this type."""
    return [
        name
        for name, param in parameters(component).items()
        if any(isinstance(m, mark) for one in alternatives(param.annotation) for m in strip(one)[1])
        or any(isinstance(m, mark) for m in strip(param.annotation)[1])
    ]


def numbers_at_run_time(component: Callable[..., Any]) -> list[str]:
    """Parameters that the compiled step takes as arrays."""
    return marked(component, RuntimeNumber)


def _of_dataclass(cls: Any) -> dict[str, Param]:
    hints = _hints(cls)
    own = {"parent", "name"} if _is_flax_module(cls) else set()
    found = {}
    for field in dataclasses.fields(cls):
        if not field.init or field.name in own:
            continue
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        default = MISSING if default is dataclasses.MISSING else default
        found[field.name] = Param(field.name, _hint(hints, field.name, default), default)
    return found


def _of_callable(component: Callable[..., Any]) -> dict[str, Param]:
    hints = _hints(component.__init__ if inspect.isclass(component) else component)
    found = {}
    for parameter in inspect.signature(component).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        default = MISSING if parameter.default is parameter.empty else parameter.default
        hint = _hint(hints, parameter.name, default)
        found[parameter.name] = Param(parameter.name, hint, default)
    return found


def _hints(component: Any) -> dict[str, Any]:
    """Annotations; those of names that exist only while type checking become Any."""
    try:
        return typing.get_type_hints(component, include_extras=True)
    except NameError:
        raw = inspect.get_annotations(component)
        return {name: Any if isinstance(hint, str) else hint for name, hint in raw.items()}


def _hint(hints: dict[str, Any], name: str, default: Any) -> Any:
    """The annotation of a parameter; where there is none, the type of a plain default."""
    if name in hints or not isinstance(default, (bool, int, float, str)):
        return hints.get(name, Any)
    return type(default)


def _is_flax_module(cls: type) -> bool:
    """Told by name, because importing flax takes a second and may not be needed."""
    return any(
        base.__name__ == "Module" and base.__module__.startswith("flax.linen")
        for base in cls.__mro__
    )


def _is_code(default: Any) -> bool:
    if default is MISSING or default is None or dataclasses.is_dataclass(default):
        return False
    plain = (bool, int, float, str, tuple, list, Mapping)
    return not isinstance(default, plain)


def strip(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """(type, marks): an annotation without its `Annotated` wrapper, and what the wrapper held."""
    if hasattr(annotation, "__value__"):  # `type Name = ...` of Python 3.12
        return strip(annotation.__value__)
    if typing.get_origin(annotation) is typing.Annotated:
        inner, *marks = typing.get_args(annotation)
        return inner, tuple(marks)
    return annotation, ()


def alternatives(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, None's type included; the annotation alone if it is no union."""
    inner, _ = strip(annotation)
    if typing.get_origin(inner) in (typing.Union, types.UnionType):
        return typing.get_args(inner)
    return (annotation,)


def nested_dataclass(annotation: Any) -> type | None:
    """The dataclass that a parameter holds (also inside an optional), else None."""
    for one in alternatives(annotation):
        inner, _ = strip(one)
        if inspect.isclass(inner) and dataclasses.is_dataclass(inner):
            return inner
    return None


def mapping_value(annotation: Any) -> Any:
    """The type of the values of a `Mapping[str, X]` (also inside an optional), else MISSING."""
    for one in alternatives(annotation):
        inner, _ = strip(one)
        origin = typing.get_origin(inner) or inner
        if inspect.isclass(origin) and issubclass(origin, Mapping):
            arguments = typing.get_args(inner)
            return arguments[1] if len(arguments) == 2 else Any
    return MISSING
