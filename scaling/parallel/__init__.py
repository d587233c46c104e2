"""Meshes, logical axis names, shardings, and the start of many processes.

`parallel` knows names of axes, not models. The names below are loaded when first used, so that
importing this package costs nothing.
"""

# ruff: noqa: F401 (type checkers and editors read the first list, Python the second)
from typing import TYPE_CHECKING

from scaling import lazy

if TYPE_CHECKING:
    from scaling.parallel.audit import Row, format_rows
    from scaling.parallel.axes import check_devices, rules
    from scaling.parallel.batches import batch_sharding, put_batch
    from scaling.parallel.logical import active_rules, constrain, logical_rules, spec
    from scaling.parallel.mesh import MeshConfig, make_mesh
    from scaling.parallel.processes import Processes, discover, start_processes
    from scaling.parallel.sharding import (
        ShardingError,
        axis_names,
        param_shardings,
        replicated,
        state_shardings,
        unbox,
    )

__getattr__, __all__ = lazy.names(
    __name__,
    {
        "audit": "Row format_rows",
        "axes": "check_devices rules",
        "batches": "batch_sharding put_batch",
        "logical": "active_rules constrain logical_rules spec",
        "mesh": "MeshConfig make_mesh",
        "processes": "Processes discover start_processes",
        "sharding": "ShardingError axis_names param_shardings replicated state_shardings unbox",
    },
)
