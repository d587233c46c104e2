"""Configs: load a file, lay overrides over it, fill in defaults, check it, compare and name it.

    config = configs.load_resolved("experiments/gpt2.py:124m", ["train.steps=100"])
    config.train.steps                              # it is a `scaling.experiment.Experiment`, frozen
    model = configs.build(config.model, "scaling.models:MODELS")

A config file states only what it changes. Defaults, types and ranges live in the dataclasses of
`scaling.experiment` and in the signature of the component that a section names. Importing this
package starts no JAX backend and imports no JAX. Whatever is refused is a ConfigError that names the
key, what is wrong with its value, and what to do.
"""

# ruff: noqa: F401
from ml_collections.config_dict import ConfigDict

from scaling.configs.annotations import to_plain as plain
from scaling.configs.component import Component, Family, build, component
from scaling.configs.dump import (
    Difference,
    decode,
    diff,
    fingerprint,
    flatten,
    format_differences,
    from_json,
    get,
    to_json,
)
from scaling.configs.errors import ConfigError
from scaling.configs.files import compare, load, load_any, load_resolved, variant
from scaling.configs.resolution import replace, resolve, with_values
