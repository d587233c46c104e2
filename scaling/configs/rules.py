"""Checks across sections that need no device. One small function each, listed in `RULES`."""

from collections.abc import Callable
from typing import Any

Rule = Callable[[Any], None]


def validate(config: Any) -> None:
    """Hold a resolved config to every rule.

    Raises:
      ConfigError: the first rule that it breaks.
    """
    for rule in RULES:
        rule(config)


RULES: tuple[Rule, ...] = ()
