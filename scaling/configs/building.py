"""From a resolved section to the thing it describes."""

from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import config_dict

from scaling.configs import signature
from scaling.configs.errors import ConfigError

# What the code passes to those components only that have a parameter of this name.
OPTIONAL = frozenset({"platform"})

Table = Mapping[str, str] | str | Callable[..., Any]


def component(section: Any, table: Table) -> Callable[..., Any]:
    """The dataclass, module or function that a section names.

    Args:
      section: resolved section; its `name` is looked up.
      table: the family's table, its path "package.module:TABLE", or the component of a section
        that is always the same.

    Raises:
      ConfigError: no such name.
    """
    found: Any = signature.import_from(table) if isinstance(table, str) else table
    if callable(found):
        return found
    return signature.find_component(section["name"], found, "name")


def build(section: Any, table: Table, **extra: Any) -> Any:
    """Call a section's component with its keys, and with `extra`, which the code supplies.

    Nested groups become the dataclasses that the component's annotations name. Sub-sections (such
    as `optim.schedule`) are passed only where the component has a parameter of that name.

    Raises:
      ConfigError: the section has a value that the component does not take.
      ValueError: whatever the component itself refuses.
    """
    found = component(section, table)
    params = signature.parameters(found)
    keywords = {}
    for key, value in section.items():
        is_group = isinstance(value, (Mapping, config_dict.ConfigDict))
        if key in extra or (key == "name" and key not in params):
            continue
        if key in params:
            keywords[key] = instantiate(value, params[key].annotation)
        elif not is_group and value is not None:
            raise ConfigError(key, f"{found.__name__} takes no {key!r}", "resolve the config first")
    takes = {k: v for k, v in extra.items() if k in params or k not in OPTIONAL}
    return found(**keywords, **takes)


def instantiate(value: Any, annotation: Any) -> Any:
    """A resolved value as annotated: groups become dataclasses or plain dictionaries."""
    if isinstance(value, config_dict.ConfigDict):
        value = value.to_dict()
    if not isinstance(value, Mapping):
        return value
    nested = signature.nested_dataclass(annotation)
    if nested is None:
        return dict(value)
    params = signature.parameters(nested)
    fields = {key: instantiate(inner, params[key].annotation) for key, inner in value.items()}
    return nested(**fields)
