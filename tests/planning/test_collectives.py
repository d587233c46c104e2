import jax
import jax.numpy as jnp
import pytest
from hlo_samples import LOOP, entry
from jax.sharding import NamedSharding, PartitionSpec

from scaling.planning import collectives, hlo

MESH = {"replica": 2, "data": 1, "fsdp": 4, "tensor": 2}


def found(text: str, mesh=None, slices=None):
    return collectives.collectives(hlo.parse(text), mesh or MESH, slices)


def one(groups: str, opcode: str = "all-reduce", slices=None, mesh=None):
    text = entry(
        "%x = f32[256] parameter(0)",
        f"%c = f32[256] {opcode}(%x), channel_id=1, {groups}, use_global_device_ids=true",
    )
    (traffic,) = found(text, mesh, slices)
    return traffic


def test_pieces_of_one_asynchronous_chain_are_one_collective():
    (traffic,) = found(LOOP, {"fsdp": 4, "tensor": 2})
    assert (traffic.kind, traffic.axes, traffic.group, traffic.count) == (
        "all-gather",
        "fsdp",
        4,
        5,
    )
    assert traffic.bytes == 5 * 2 * 16 * 32
    assert traffic.wire_bytes == traffic.bytes * 3 / 4


@pytest.mark.parametrize(
    ("groups", "axes"),
    [
        ("replica_groups={{0,1},{2,3},{4,5},{6,7},{8,9},{10,11},{12,13},{14,15}}", "tensor"),
        ("replica_groups=[8,2]<=[16]", "tensor"),
        ("replica_groups=[4,4]<=[2,4,2]T(0,2,1)", "fsdp"),
        ("replica_groups=[2,8]<=[16]", "fsdp+tensor"),
        ("replica_groups=[8,2]<=[2,8]T(1,0)", "replica"),
        ("replica_groups={}", "replica+fsdp+tensor"),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=8] {'axis_1'}", "fsdp+tensor"),
        ("replica_groups=mesh['axis_0'=8,'axis_1'=2] {'axis_0'}", "replica+fsdp"),
        ("replica_groups=mesh['a'=8,'b'=2], device_ids=([2,8]T(1,0)) {'b'}", "replica"),
        ("replica_groups=something_new", "?"),
    ],
)
def test_mesh_axes_of_every_notation(groups, axes):
    assert one(groups).axes == axes


def test_permutes_and_the_axis_that_they_step_along():
    traffic = one("source_target_pairs={{0,2},{2,4},{4,6},{6,0}}", "collective-permute")
    assert (traffic.axes, traffic.group) == ("fsdp", 4)
    assert traffic.wire_bytes == traffic.bytes == 1024


def test_groups_that_span_slices():
    slices = [0] * 8 + [1] * 8
    assert one("replica_groups=[8,2]<=[2,8]T(1,0)", slices=slices).across
    assert not one("replica_groups=[2,8]<=[16]", slices=slices).across


def test_wire_bytes_of_rings():
    assert one("replica_groups=[4,4]<=[2,4,2]T(0,2,1)").wire_bytes == 1024 * 2 * 3 / 4


def test_a_program_of_this_machine():
    """A product with the contracted dimension split over four devices ends in one all-reduce."""
    mesh = jax.make_mesh((2, 4), ("data", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)

    def place(*spec):
        return NamedSharding(mesh, PartitionSpec(*spec))

    x = jax.ShapeDtypeStruct((8, 64), jnp.float32, sharding=place("data", "tensor"))
    w = jax.ShapeDtypeStruct((64, 16), jnp.float32, sharding=place("tensor", None))
    program = jax.jit(jnp.dot, out_shardings=place("data", None)).lower(x, w).compile()
    (traffic,) = found(program.as_text(), dict(mesh.shape))
    assert (traffic.kind, traffic.axes, traffic.group) == ("all-reduce", "tensor", 4)
    assert traffic.bytes == 4 * 4 * 16
