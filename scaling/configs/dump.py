"""Configs as text: JSON that comes back the same, a fingerprint, and differences leaf by leaf."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from scaling.configs import resolution, tree
from scaling.configs.annotations import AnyConfig, to_plain
from scaling.configs.component import MISSING, has_mark
from scaling.configs.errors import ConfigError
from scaling.configs.tree import Node
from scaling.configs.types import AddedLater, NotInFingerprint

if TYPE_CHECKING:
    from scaling.experiment import Experiment

# JSON has no infinity; the tag keeps files readable by every other JSON reader.
_FLOAT = "$float"

# Raised when keys move, so that no fingerprint of another layout is taken for one of this.
FORMAT = 2


def to_json(config: AnyConfig) -> str:
    """A config as indented JSON; tuples become arrays, infinities {"$float": "inf"}."""
    return json.dumps(_encode(to_plain(config), ""), indent=2, allow_nan=False) + "\n"


def from_json(text: str) -> "Experiment":
    """The complete config that `to_json` wrote, also an older version of this code.

    Keys that did not exist then get their defaults. What sections say of each other is not checked
    again, since the run exists.

    Raises:
      ConfigError: the text is not a JSON object, or does not resolve here (a component of the
        user's own is missing).
    """
    return resolution.resolve(decode(text), check=False)


def decode(text: str) -> dict[str, Any]:
    """The keys and values of a config.json as they stand there; arrays become tuples."""
    try:
        data = json.loads(text, object_hook=_decode)
        if not isinstance(data, dict):
            raise ValueError("it holds no object")
    except ValueError as error:
        what = f"is not JSON: {error}"
        raise ConfigError("config", what, "use a config.json of a run") from error
    decoded: dict[str, Any] = to_plain(data)
    return decoded


def fingerprint(config: AnyConfig, *, whole: bool = False, leave_out: Sequence[str] = ()) -> str:
    """16 hex digits that two configs share if they describe the same experiment.

    Left out are keys and sections marked `NotInFingerprint`, which change how a run goes but not
    what comes out of it, and keys marked `AddedLater` that have their default. The same for every
    process and Python version.

    Args:
      whole: leave nothing out (to compare the hosts of one run).
      leave_out: paths of further keys that do not count.
    """
    kept = to_plain(config) if whole else without(config, NotInFingerprint)
    for path in leave_out:
        *parents, last = path.split(".")
        (tree.dig(kept, ".".join(parents)) or {}).pop(last, None)
    text = json.dumps(
        [FORMAT, _encode(kept, "")], sort_keys=True, separators=(",", ":"), allow_nan=False
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def without(config: AnyConfig, mark: type) -> dict[str, Any]:
    """A resolved config as dictionaries, keys and sections that carry a mark left out.

    So are those that are `AddedLater` and have their default, whatever the mark.
    """
    return _without(tree.root(type(config), to_plain(config)), mark)


def _without(node: Node, mark: type) -> dict[str, Any]:
    params, kept = node.params(), {}
    for key, value in node.stated.items():
        param = params.get(key)
        if param and has_mark(param.annotation, mark):
            continue
        if param and has_mark(param.annotation, AddedLater) and value == param.default:
            continue
        below = node.child(key)
        kept[key] = value if below is None or value is None else _without(below, mark)
    return kept


@dataclasses.dataclass(frozen=True)
class Difference:
    """One leaf that two configs do not share; a side that lacks the key has `MISSING`."""

    key: str
    left: Any
    right: Any


def diff(left: AnyConfig, right: AnyConfig) -> list[Difference]:
    """Every leaf in which two configs differ, keys that only one of them has included."""
    leaves = flatten(left), flatten(right)
    keys = sorted({*leaves[0], *leaves[1]})
    pairs = ((key, *(side.get(key, MISSING) for side in leaves)) for key in keys)
    return [Difference(*pair) for pair in pairs if not _same(pair[1], pair[2])]


def flatten(config: AnyConfig) -> dict[str, Any]:
    """{"optim.b1": 0.9, ...}: leaves by path; an empty group is a leaf."""
    leaves: dict[str, Any] = {}
    for key, value in to_plain(config).items():
        below = flatten(value) if isinstance(value, Mapping) else {}
        leaves |= {tree.join(key, inner): leaf for inner, leaf in below.items()} or {key: value}
    return leaves


def format_differences(differences: Sequence[Difference], left: str, right: str) -> str:
    """The differences as a table of three aligned columns, one line each."""
    if not differences:
        return f"no difference between {left} and {right}"
    rows = [("key", left, right)]
    rows += [(one.key, _shown(one.left), _shown(one.right)) for one in differences]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(f"{key:<{widths[0]}}  {a:<{widths[1]}}  {b}" for key, a, b in rows)


def get(config: AnyConfig, path: str, default: Any = None) -> Any:
    """The value at a dotted path; `default` where a key on the way is absent or None."""
    value = tree.dig(config, path)
    return default if value is None else value


def _same(left: Any, right: Any) -> bool:
    """Equal in value and, for truth values, in kind: True is not 1, while 1 is 1.0."""
    if isinstance(left, bool) != isinstance(right, bool):
        return False
    if isinstance(left, (tuple, list)) and isinstance(right, (tuple, list)):
        return len(left) == len(right) and all(map(_same, left, right))
    return bool(left is right or left == right)


def _shown(value: Any) -> str:
    return "(not set)" if value is MISSING else repr(value)


def _encode(value: Any, path: str) -> Any:
    if isinstance(value, Mapping):
        return {key: _encode(inner, tree.join(path, key)) for key, inner in value.items()}
    if isinstance(value, (tuple, list)):
        return [_encode(inner, path) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {_FLOAT: repr(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ConfigError(path, f"{value!r} is not plain data", "resolve the config first")


def _decode(value: dict[str, Any]) -> Any:
    return float(value[_FLOAT]) if set(value) == {_FLOAT} else value
