"""Configs: load a file, lay overrides over it, fill in defaults, check it, compare and name it.

    config = configs.load_resolved("experiments/gpt2.py:124m", ["train.steps=100"])
    model = configs.build(config.model, "scaling.models:MODELS")

A config file states only what it changes. Defaults, types and ranges live in the signature of the
component that each section names; `schema.SCHEMA` says which. Importing this package starts no JAX
backend and imports no JAX.
"""

from scaling.configs.building import build, component
from scaling.configs.dump import (
    Difference,
    diff,
    fingerprint,
    flatten,
    format_differences,
    from_json,
    get,
    to_json,
)
from scaling.configs.errors import ConfigError
from scaling.configs.files import compare, load, load_any, load_recorded, load_resolved, variant
from scaling.configs.resolution import ConfigDict, resolve
from scaling.configs.rules import validate

__all__ = [
    "ConfigDict",
    "ConfigError",
    "Difference",
    "build",
    "compare",
    "component",
    "diff",
    "fingerprint",
    "flatten",
    "format_differences",
    "from_json",
    "get",
    "load",
    "load_any",
    "load_recorded",
    "load_resolved",
    "resolve",
    "to_json",
    "validate",
    "variant",
]
