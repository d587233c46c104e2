"""Names of a package that are imported from their module at first use (PEP 562).

    __getattr__, __all__ = lazy.names(__name__, {"mesh": "make_mesh", "axes": "rules check_devices"})

Importing such a package, or one light module of it, then does not wait for JAX.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def names(package: str, modules: Mapping[str, str]) -> tuple[Callable[[str], Any], list[str]]:
    """The `__getattr__` and the `__all__` of a package.

    Args:
      package: its `__name__`.
      modules: module -> the public names in it, separated by spaces.
    """
    homes = {name: module for module, line in modules.items() for name in line.split()}

    def getattr_(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{homes[name]}"), name)

    return getattr_, sorted(homes)
