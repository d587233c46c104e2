"""The audit lists large arrays and refuses copies that nobody decided on."""

import dataclasses

import jax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from scaling.experiment import MeshConfig
from scaling.parallel.audit import audit, format_rows
from scaling.parallel.mesh import make_mesh
from scaling.parallel.sharding import ShardingError


def check(
    config: MeshConfig, specs: dict[str, tuple[tuple[int, ...], P]], large: int = 1024
) -> list:
    mesh = make_mesh(config)
    tree = {k: jax.ShapeDtypeStruct(shape, "float32") for k, (shape, _) in specs.items()}
    shardings = {k: NamedSharding(mesh, spec) for k, (_, spec) in specs.items()}
    config = dataclasses.replace(config, large_bytes=large)
    return audit({"params": tree}, {"params": shardings}, mesh, config)


def test_rows_are_sorted_by_share_and_printable() -> None:
    rows = check(
        MeshConfig(data=2, fsdp=2, tensor=2),
        {
            "small": ((4,), P()),
            "both": ((64, 64), P("fsdp", "tensor")),
            "one": ((64, 32), P("fsdp", None)),
            "mixed": ((64, 128), P(("fsdp", "tensor"), None)),
        },
    )
    assert [(r.path, r.bytes, r.bytes_per_device) for r in rows] == [
        ("params/mixed", 32768, 8192),
        ("params/both", 16384, 4096),
        ("params/one", 8192, 4096),
    ]
    text = format_rows(rows)
    assert "params/mixed  64x128  float32  (fsdp+tensor, -)" in text
    assert len({len(line.rstrip()) for line in text.splitlines()[1:]}) == 1


@pytest.mark.parametrize(
    ("config", "spec", "problem"),
    [
        (MeshConfig(fsdp=2), P(), "mesh.fsdp=2"),
        (MeshConfig(fsdp=2), P("tensor", None), "mesh.fsdp=2"),
        (MeshConfig(tensor=2), P(), "mesh.tensor=2"),
        (MeshConfig(tensor=2), P("fsdp", None), ""),  # a rule placed it; this mesh has no fsdp
        (MeshConfig(), P(), ""),
        (MeshConfig(fsdp=2), P(None, "fsdp"), ""),
        (MeshConfig(fsdp=2), P("data", None), ""),
    ],
)
def test_silent_copies(config: MeshConfig, spec: P, problem: str) -> None:
    specs = {"w": ((64, 64), spec), "other": ((64, 64), P("fsdp", "tensor"))}
    if not problem:
        assert not any(row.problem for row in check(config, specs))
        return
    with pytest.raises(ShardingError, match="params/w .*" + problem) as error:
        check(config, specs)
    assert "params/other" not in str(error.value)
    waived = MeshConfig(fsdp=config.fsdp, tensor=config.tensor, allow_replicated=("*/w",))
    row = next(r for r in check(waived, specs) if r.path == "params/w")
    assert row.waived
    assert "waived: " + row.problem in format_rows([row])


def test_small_arrays_must_divide_too() -> None:
    with pytest.raises(ShardingError, match=r"params/w .*dimension 0 is not divisible by 2"):
        check(MeshConfig(fsdp=2), {"w": ((3,), P("fsdp"))})
