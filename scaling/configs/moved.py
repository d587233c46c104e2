"""Keys that moved: where a config or an override of an older version says them.

Old config files, the config.json of old runs and old command lines keep working; a config that
says a key in both places is refused.
"""

from typing import Any

from ml_collections import config_dict

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


def translate(config: Any) -> None:
    """Moves what a raw config (ConfigDict or dictionary) says in old places, in place.

    Raises:
      ConfigError: it says a key in the old place and in the new.
    """
    for old, new in MOVED.items():
        section, _, key = old.rpartition(".")
        node = _group(config, section)
        if node is None or key not in node:
            continue
        value = node[key]
        if old == "train.init_from" and not isinstance(value, str):
            continue  # None, or entries as they are now
        if old == "train.init_from_map" and not value:
            _change(node, key)  # as older runs wrote it beside init_from=None
            continue
        # A field reference moves as what it is, so that overrides still reach what refers to it.
        if isinstance(node, config_dict.ConfigDict) and not _is_group(value):
            value = node.get_ref(key)
        _change(node, key)
        *groups, last = new.split(".")
        target = config
        for group in groups:
            if not _is_group(target.get(group)):
                _change(target, group, type(config)())
            target = target[group]
        if last in target:
            raise ConfigError(new, f"is given, and so is {old}, its old place", f"drop {old}")
        _change(target, last, value)
    evaluation = _group(config, "eval")
    if evaluation is not None and _is_old_default(evaluation):
        _change(evaluation, "stop_metric", None)


def path(old: str, value: Any) -> str:
    """The path of a key as it is now; `value` is what is to stand there, or its text."""
    string = isinstance(value, str) and value not in ("None", "DEFAULT")
    if old.startswith("train.init_from.") or (old == "train.init_from" and not string):
        return old  # the new place
    for start, new in MOVED.items():
        if old == start or old.startswith(start + "."):
            return new + old.removeprefix(start)
    return old


def _is_old_default(evaluation: Any) -> bool:
    """Whether a complete section is of before the task named its objective (`None` since then)."""
    stated = {"stop_metric", "patience", "min_delta"} <= set(evaluation)
    return stated and "also" not in evaluation and evaluation["stop_metric"] == "eval/loss"


_NOTHING = object()


def _change(node: Any, key: str, value: Any = _NOTHING) -> None:
    """Sets a key, or removes it."""
    if isinstance(node, config_dict.ConfigDict):
        with node.unlocked(), node.ignore_type():
            _change_plain(node, key, value)
    else:
        _change_plain(node, key, value)


def _change_plain(node: Any, key: str, value: Any) -> None:
    if value is _NOTHING:
        del node[key]
    else:
        node[key] = value


def _group(config: Any, section: str) -> Any:
    node = config.get(section)
    return node if _is_group(node) else None


def _is_group(value: Any) -> bool:
    return isinstance(value, (dict, config_dict.ConfigDict))
