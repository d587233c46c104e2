"""The entries of the config section `optim.groups`."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class GroupConfig:
    """One entry of `optim.groups`: parameters that are updated by a rule of their own.

    Attributes:
      optimizer: the rule, with its own hyper-parameters; `frozen` leaves the parameters as they are,
        and no gradient is computed for them.
      schedule: of this group's learning rate; None takes `optim.schedule`.
      match: regular expression that the whole path of a parameter must match, such as
        "discriminator/.*"; None matches every path.
      axes: logical axis names; the parameter must have one of them. Empty matches all.
    """

    optimizer: Mapping[str, Any]
    schedule: Mapping[str, Any] | None = None
    match: str | None = None
    axes: tuple[str, ...] = ()
