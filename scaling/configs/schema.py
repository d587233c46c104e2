"""The one table of config sections: where each section's keys, types and defaults come from.

A section is either fixed (always the same component, mostly a dataclass) or named (its key `name`
chooses a component of a family), or a group of entries under names that the user chooses. In a
path, `*` stands for such a name. To add a section, add a line to `SCHEMA`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from scaling.configs import signature
from scaling.configs.errors import ConfigError
from scaling.configs.types import Ambient, NonNegativeInt


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The keys of the top level.

    Attributes:
      name: of the experiment; the config file's own name where the file does not say.
      seed: every random stream of the run derives from it.
      platform: what the run must be on; `auto` takes what there is. Asking for `gpu` or `tpu` and
        coming up on anything else ends the run.
    """

    name: Annotated[str, Ambient()] = "experiment"
    seed: NonNegativeInt = 0
    platform: Annotated[Literal["auto", "cpu", "gpu", "tpu"], Ambient()] = "auto"


@dataclasses.dataclass(frozen=True)
class Fixed:
    """A section that is always the same component.

    Attributes:
      path: of the component, "package.module:attribute".
      ambient: the section does not change the result, so the fingerprint leaves it out.
    """

    path: str
    ambient: bool = False
    optional: bool = False


@dataclasses.dataclass(frozen=True)
class Named:
    """A section whose key `name` chooses the component.

    Attributes:
      table: path of the family's table of names, "package.module:ATTRIBUTE". A sibling attribute
        `EXTERNAL` (names, or a mapping from ATTRIBUTE to names) lists the parameters that the
        code supplies, which are therefore no config keys.
      default: the name where the config gives none; empty if the config must.
      optional: the section may be None, and is when the config does not mention it.
    """

    table: str
    default: str = ""
    optional: bool = False
    ambient: bool = False


@dataclasses.dataclass(frozen=True)
class Entries:
    """A group of sections under names that the user chooses; `PATH.*` says what each is.

    Attributes:
      optional: the group may be None, and is when the config does not mention it.
    """

    optional: bool = True
    ambient: bool = False


Section = Fixed | Named | Entries
Schema = Mapping[str, Section]

SCHEMA: Schema = {
    "": Fixed("scaling.configs.schema:Experiment"),
    "task": Named("scaling.tasks:TASKS"),
    "task.over": Named("scaling.tasks:TASKS", optional=True),
    "task.over.over": Named("scaling.tasks:TASKS", optional=True),
    "model": Named("scaling.models:MODELS"),
    "data": Fixed("scaling.data.config:DataConfig"),
    "data.source": Named("scaling.data:SOURCES", optional=True),
    "data.eval_source": Named("scaling.data:SOURCES", optional=True),
    "data.tokenizer": Named("scaling.data:TOKENIZERS", default="bytes"),
    "data.mixture": Entries(),
    "data.mixture.*": Fixed("scaling.data.config:MixtureEntry"),
    "data.mixture.*.source": Named("scaling.data:SOURCES"),
    "optim": Named("scaling.optim:OPTIMIZERS"),
    "optim.schedule": Named("scaling.optim:SCHEDULES"),
    "optim.groups": Entries(),
    "optim.groups.*": Fixed("scaling.optim.config:GroupConfig"),
    "optim.groups.*.optimizer": Named("scaling.optim:OPTIMIZERS"),
    "optim.groups.*.schedule": Named("scaling.optim:SCHEDULES", optional=True),
    "mesh": Fixed("scaling.parallel.mesh:MeshConfig", ambient=True),
    "train": Fixed("scaling.train.config:TrainConfig"),
    "eval": Fixed("scaling.train.config:EvalConfig"),
    "eval.also": Entries(),
    "eval.also.*": Fixed("scaling.train.config:EvaluationEntry"),
    "checkpoint": Fixed("scaling.train.config:CheckpointConfig", ambient=True),
    "track": Fixed("scaling.track.config:TrackConfig", ambient=True),
    "track.profile": Fixed("scaling.track.config:ProfileConfig", ambient=True, optional=True),
    "track.callbacks": Entries(ambient=True),
    "track.callbacks.*": Named("scaling.train.callbacks:CALLBACKS", ambient=True),
}


def pattern(path: str, schema: Schema) -> str | None:
    """The schema's path for a config path ("data.mixture.a" -> "data.mixture.*"), or None."""
    if path in schema:
        return path
    known = ""
    for part in path.split("."):
        for step in (part, "*"):
            candidate = f"{known}.{step}" if known else step
            if candidate in schema:
                known = candidate
                break
        else:
            return None
    return known


def children(path: str, schema: Schema) -> dict[str, str]:
    """Sections directly below a path of the schema: {key: path}, the `*` of entries left out."""
    prefix = f"{path}." if path else ""
    found = {}
    for other in schema:
        key = other.removeprefix(prefix)
        if other and other.startswith(prefix) and key not in ("", "*") and "." not in key:
            found[key] = other
    return found


def join(path: str, key: str) -> str:
    """A config path one key longer."""
    return f"{path}.{key}" if path else key


def section_component(section: Fixed | Named, name: Any, path: str) -> Any:
    """The component of a section; for a named one that of `name`.

    Raises:
      ConfigError: the name is missing, is no string or stands for nothing.
    """
    if isinstance(section, Fixed):
        return signature.import_from(section.path)
    table = signature.import_from(section.table)
    key = join(path, "name")
    if name is None:
        raise ConfigError(key, "is required", "choose one of " + ", ".join(sorted(table)))
    if not isinstance(name, str):
        raise ConfigError(key, f"{name!r} is no name", "choose one of " + ", ".join(sorted(table)))
    return signature.find_component(name, table, key)


def section_parameters(section: Fixed | Named, name: Any, path: str) -> dict[str, signature.Param]:
    """Parameters of a section's component that the config may state.

    Raises:
      ConfigError: see `section_component`.
    """
    params = signature.parameters(section_component(section, name, path))
    if isinstance(section, Fixed):
        return params
    external = {"name", *external_parameters(section)}
    return {key: param for key, param in params.items() if key not in external}


def external_parameters(section: Named) -> Any:
    """Names of parameters that the code supplies to the components of a family."""
    module, _, attribute = section.table.partition(":")
    try:
        listed = signature.import_from(f"{module}:EXTERNAL")
    except AttributeError:
        return ()
    return listed.get(attribute, ()) if isinstance(listed, Mapping) else listed
