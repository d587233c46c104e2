"""Config files: python files with `get_config(arg)`, or the `config.json` of a run."""

import importlib.util
import inspect
import pathlib
import sys
import traceback
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ml_collections import config_dict

from scaling.configs import dump, moved, overrides, resolution
from scaling.configs.errors import ConfigError, suggest

if TYPE_CHECKING:
    from scaling.experiment import Experiment


def load(spec: str, tokens: Sequence[str] = (), tree_type: type | None = None) -> Any:
    """What a config file states, with overrides laid over it; defaults are not filled in.

    Args:
      spec: "experiments/gpt2.py:124m" (file and argument of its `get_config`), or a `config.json`.
      tokens: overrides, "train.steps=100" with or without "--config." before; see `overrides`.
      tree_type: dataclass of the sections; None takes `scaling.experiment.Experiment`.

    Returns:
      ConfigDict. Where the file gives no `name`, it is the file's own (`gpt2-124m`).

    Raises:
      ConfigError: the file cannot be read or fails, or an override does not fit.
    """
    path, argument = split_spec(spec)
    if path.suffix == ".json":
        raw = dump.decode(_read(path))
        moved.translate(raw)
        config = config_dict.ConfigDict(raw)
    else:
        config = _call_get_config(import_file(path), path, argument)
        if "name" not in config:
            with config.unlocked():
                config.name = path.stem + (f"-{argument}" if argument else "")
    overrides.apply(config, tokens, tree_type or resolution.experiment_type())
    return config


def load_resolved(spec: str, tokens: Sequence[str] = ()) -> "Experiment":
    """`load` and `resolve`: the complete config that a run is made from; raises ConfigError."""
    return resolution.resolve(load(spec, tokens))


def load_any(path: str) -> "Experiment":
    """The complete config of a run directory, of a `config.json` or of an experiment file.

    Raises ConfigError where there is none.
    """
    folder = pathlib.Path(path)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ConfigError("--diff", f"{path} holds no config.json", "name a run directory")
        folder = folder / "config.json"
    if folder.suffix == ".json" and folder.is_file():
        return dump.from_json(_read(folder))
    return load_resolved(path)


def compare(left: str, right: str) -> str:
    """Every key in which two runs (or config files) differ, as a table; see `load_any`."""
    return dump.format_differences(dump.diff(load_any(left), load_any(right)), left, right)


def split_spec(spec: str) -> tuple[pathlib.Path, str]:
    """ "dir/file.py:arg" -> (path, arg); arg is "" where there is none."""
    head, suffix, argument = spec.partition(".py:")
    path = pathlib.Path(head + ".py" if suffix else spec)
    folder = path.parent
    if path.suffix not in (".py", ".json"):
        nearby = folder / f"{path.name}.py"
        hint = f"did you mean {nearby}?" if nearby.exists() else "name a .py file"
        raise ConfigError("--config", f"{spec!r} is not a config file", hint)
    if not path.is_file():
        others = sorted(one.name for one in folder.glob(f"*{path.suffix}"))
        there = f"{folder}/" if folder != pathlib.Path() else ""
        hint = suggest(path.name, others, prefix=there, what=f"files in {folder.resolve()}")
        what = f"there is no file {path}"
        raise ConfigError("--config", what, hint or f"looked in {folder.resolve()}")
    return path, argument


def variants(path: pathlib.Path) -> list[str] | None:
    """Arguments that a config file takes: its `VARIANTS`, or [""]; None if it is not a config file."""
    module = import_file(path)
    if not hasattr(module, "get_config"):
        return None
    return list(getattr(module, "VARIANTS", ("",)))


def variant(argument: str, choices: Mapping[str, Any] | Sequence[str], default: str = "") -> str:
    """The variant of a config file that its argument names; for use inside `get_config`."""
    chosen = argument or default
    if chosen not in choices:
        what = f"there is no variant {chosen!r}" if chosen else "lacks a variant, FILE.py:VARIANT"
        raise ConfigError("--config", what, suggest(chosen, list(choices), what="variants"))
    return chosen


def import_file(path: pathlib.Path) -> ModuleType:
    """Run a python file as a module of its own."""
    name = f"_scaling_config_{path.stem}"
    module_spec = importlib.util.spec_from_file_location(name, path)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module  # dataclasses look their module up while they are made
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:
        raise _failed(path, error) from error
    finally:
        sys.modules.pop(name, None)
    return module


def _call_get_config(module: ModuleType, path: pathlib.Path, argument: str) -> Any:
    get_config = getattr(module, "get_config", None)
    if get_config is None:
        what = f"{path} has no function get_config"
        raise ConfigError("--config", what, "define `def get_config(arg='')`")
    takes = list(inspect.signature(get_config).parameters.values())
    if argument and not takes:
        what = f"{path} takes no argument, and got {argument!r}"
        raise ConfigError("--config", what, f"write --config={path}")
    # Without an argument the file's own default counts, whatever it is.
    arguments = [argument] if argument or (takes and takes[0].default is takes[0].empty) else []
    try:
        config = get_config(*arguments)
    except ConfigError:
        raise
    except Exception as error:
        raise _failed(path, error) from error
    if isinstance(config, config_dict.FrozenConfigDict):
        return config.as_configdict()
    if isinstance(config, Mapping):
        return config_dict.ConfigDict(config)
    if not isinstance(config, config_dict.ConfigDict):
        what = f"get_config of {path} returned {type(config).__name__}"
        raise ConfigError("--config", what, "return an ml_collections.ConfigDict")
    return config


def _failed(path: pathlib.Path, error: Exception) -> ConfigError:
    frames = traceback.extract_tb(error.__traceback__)
    lines = [one.lineno for one in frames if pathlib.Path(one.filename).name == path.name]
    where = f"{path} line {lines[-1]}" if lines else str(path)
    return ConfigError("--config", f"{where}: {type(error).__name__}: {error}", "correct the file")


def _read(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("--config", f"{path} cannot be read: {error}") from error
