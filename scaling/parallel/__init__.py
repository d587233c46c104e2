"""Meshes, logical axis names, shardings, the start of many processes, attention kernels.

`parallel` knows names of axes, not models. The names below are loaded when first used, so that
importing this package costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scaling.experiment import MeshConfig
    from scaling.parallel.audit import Row, format_rows
    from scaling.parallel.axes import check_devices, rules
    from scaling.parallel.batches import batch_sharding, put_batch
    from scaling.parallel.logical import active_rules, constrain, logical_rules, spec
    from scaling.parallel.mesh import make_mesh
    from scaling.parallel.processes import Processes, discover, start_processes
    from scaling.parallel.sharding import (
        ShardingError,
        param_shardings,
        replicated,
        state_shardings,
        unbox,
    )

_HOME = {
    "MeshConfig": "mesh",
    "Processes": "processes",
    "Row": "audit",
    "ShardingError": "sharding",
    "active_rules": "logical",
    "batch_sharding": "batches",
    "check_devices": "axes",
    "constrain": "logical",
    "discover": "processes",
    "format_rows": "audit",
    "logical_rules": "logical",
    "make_mesh": "mesh",
    "param_shardings": "sharding",
    "put_batch": "batches",
    "replicated": "sharding",
    "rules": "axes",
    "spec": "logical",
    "start_processes": "processes",
    "state_shardings": "sharding",
    "unbox": "sharding",
}

__all__ = [
    "MeshConfig",
    "Processes",
    "Row",
    "ShardingError",
    "active_rules",
    "batch_sharding",
    "check_devices",
    "constrain",
    "discover",
    "format_rows",
    "logical_rules",
    "make_mesh",
    "param_shardings",
    "put_batch",
    "replicated",
    "rules",
    "spec",
    "start_processes",
    "state_shardings",
    "unbox",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
