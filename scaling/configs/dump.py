"""Configs as text: JSON that comes back the same, a fingerprint, and differences leaf by leaf."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import config_dict

from scaling.configs import resolution, signature
from scaling.configs import schema as schema_lib
from scaling.configs.errors import ConfigError
from scaling.configs.schema import SCHEMA, Entries, Schema
from scaling.configs.signature import MISSING
from scaling.configs.suggestions import dig, stated_name
from scaling.configs.types import Ambient

# JSON has no infinity; the tag keeps files readable by every other JSON reader.
_FLOAT = "$float"


def to_json(config: Any) -> str:
    """A config as indented JSON; tuples become arrays, infinities {"$float": "inf"}.

    Raises:
      ConfigError: the config holds something that is not plain data.
    """
    return json.dumps(_encode(resolution.plain(config), ""), indent=2, allow_nan=False) + "\n"


def from_json(text: str) -> Any:
    """The locked ConfigDict that `to_json` wrote; arrays become tuples.

    Raises:
      ConfigError: the text is no JSON object.
    """
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(
            "config", f"is not JSON: {error}", "use a config.json of a run"
        ) from error
    if not isinstance(data, dict):
        raise ConfigError("config", "is not a JSON object", "use a config.json of a run")
    return config_dict.ConfigDict(_decode(data)).lock()


def fingerprint(config: Any, schema: Schema = SCHEMA, *, whole: bool = False) -> str:
    """16 hex digits that two configs share if they describe the same experiment.

    Left out is what changes how a run goes but not what comes out of it: ambient sections (mesh,
    checkpoints, tracking) and keys marked `Ambient`. The same for every process and Python version.

    Args:
      config: a resolved config.
      schema: the table of sections.
      whole: leave nothing out (to compare the hosts of one run).
    """
    kept = resolution.plain(config)
    if not whole:
        kept = _without_ambient("", kept, schema)
    text = json.dumps(_encode(kept, ""), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _without_ambient(path: str, raw: Any, schema: Schema) -> Any:
    known = schema_lib.pattern(path, schema)
    if known is None or not isinstance(raw, Mapping):
        return raw
    section = schema[known]
    marked: set[str] = set()
    if not isinstance(section, Entries):
        params = schema_lib.section_parameters(section, stated_name(section, raw), path)
        marked = {key for key, param in params.items() if _is_ambient(param.annotation)}
    kept = {}
    for key, value in raw.items():
        below = schema_lib.join(path, key)
        known = schema_lib.pattern(below, schema)
        if key not in marked and not (known is not None and schema[known].ambient):
            kept[key] = _without_ambient(below, value, schema)
    return kept


def _is_ambient(annotation: Any) -> bool:
    members = (annotation, *signature.alternatives(annotation))
    return any(isinstance(mark, Ambient) for one in members for mark in signature.strip(one)[1])


@dataclasses.dataclass(frozen=True)
class Difference:
    """One leaf that two configs do not share; a side that lacks the key has `MISSING`."""

    key: str
    left: Any
    right: Any


def diff(left: Any, right: Any) -> list[Difference]:
    """Every leaf in which two configs differ, keys that only one of them has included."""
    leaves = flatten(left), flatten(right)
    keys = sorted({*leaves[0], *leaves[1]})
    pairs = ((key, *(side.get(key, MISSING) for side in leaves)) for key in keys)
    return [Difference(*pair) for pair in pairs if not _same(pair[1], pair[2])]


def flatten(config: Any) -> dict[str, Any]:
    """{"optim.b1": 0.9, ...}: leaves by path; an empty group is a leaf."""
    leaves: dict[str, Any] = {}

    def visit(path: str, value: Any) -> None:
        if isinstance(value, Mapping) and value:
            for key, inner in value.items():
                visit(schema_lib.join(path, key), inner)
        else:
            leaves[path] = value

    raw = resolution.plain(config)
    for key, value in raw.items():
        visit(key, value)
    return leaves


def format_differences(differences: Sequence[Difference], left: str, right: str) -> str:
    """The differences as a table of three aligned columns, one line each."""
    if not differences:
        return f"no difference between {left} and {right}"
    rows = [("key", left, right)]
    rows += [(one.key, _show(one.left), _show(one.right)) for one in differences]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(f"{key:<{widths[0]}}  {a:<{widths[1]}}  {b}" for key, a, b in rows)


def get(config: Any, path: str, default: Any = None) -> Any:
    """The value at a dotted path; `default` where a key on the way is absent or None."""
    found = dig(config if isinstance(config, Mapping) else resolution.plain(config), path)
    return default if found is None else found


def _same(left: Any, right: Any) -> bool:
    """Equal in value and, for truth values, in kind: True is not 1, while 1 is 1.0."""
    if isinstance(left, bool) != isinstance(right, bool):
        return False
    if isinstance(left, (tuple, list)) and isinstance(right, (tuple, list)):
        return len(left) == len(right) and all(map(_same, left, right))
    return bool(left is right or left == right)


def _show(value: Any) -> str:
    return str(value) if value is MISSING else repr(value)


def _encode(value: Any, path: str) -> Any:
    if isinstance(value, Mapping):
        return {key: _encode(inner, schema_lib.join(path, key)) for key, inner in value.items()}
    if isinstance(value, (tuple, list)):
        return [_encode(inner, path) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {_FLOAT: repr(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ConfigError(path, f"{value!r} is not plain data", "resolve the config first")


def _decode(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {_FLOAT}:
            return float(value[_FLOAT])
        return {key: _decode(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return tuple(_decode(inner) for inner in value)
    return value
