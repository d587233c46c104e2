"""Keys that moved: an older config or override has them elsewhere, and means the same."""

from typing import Any

from scaling.configs.errors import ConfigError

# Old place -> new place; a section takes everything below it along.
MOVED = {
    "data.seq_len": "data.text.seq_len",
    "data.tokenizer": "data.text.tokenizer",
    "data.mask_documents": "data.text.mask_documents",
    "data.holdout": "data.text.holdout",
    "train.audit_bytes": "mesh.large_bytes",
    "mesh.waivers": "mesh.allow_replicated",
    "train.init_from": "train.init_from.source.run",
    "train.init_from_map": "train.init_from.source.map",
}


def translate(raw: dict[str, Any]) -> None:
    """Moves what nested dictionaries state in old places, in place; not over what the new place has."""
    for old, new in MOVED.items():
        section, _, key = old.rpartition(".")
        node = raw.get(section)
        if not isinstance(node, dict) or key not in node:
            continue
        if old == "train.init_from" and not isinstance(node[key], str):
            continue  # None, or entries as they are now
        value = node.pop(key)
        if old == "train.init_from_map" and not value:
            continue  # as older runs wrote it beside init_from=None
        target, last = parent(raw, new)
        if last in target:
            raise ConfigError(new, f"is given, and so is {old}, its old place", f"drop {old}")
        target[last] = value
    scoring = raw.get("eval") or {}
    # Before the task named its objective, whole sections said so; since then that is None.
    whole = "min_delta" in scoring and "also" not in scoring
    if whole and scoring.get("stop_metric") == "eval/loss":
        scoring["stop_metric"] = None


def parent(raw: dict[str, Any], path: str) -> tuple[dict[str, Any], str]:
    """(the dictionary that holds the last key of a path, that key); groups on the way are made."""
    *groups, key = path.split(".")
    for group in groups:
        if not isinstance(raw.get(group), dict):
            raw[group] = {}
        raw = raw[group]
    return raw, key


def path(old: str, value: Any) -> str:
    """The path of a key as it is now; `value` is what is to stand there, or its text."""
    string = isinstance(value, str) and value not in ("None", "DEFAULT")
    if old.startswith("train.init_from.") or (old == "train.init_from" and not string):
        return old  # the new place
    for start, new in MOVED.items():
        if old == start or old.startswith(start + "."):
            return new + old.removeprefix(start)
    return old
