"""Names to partitions, and constraints inside and outside their context."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from scaling.experiment import MeshConfig
from scaling.parallel import active_rules, constrain, logical_rules, rules, spec
from scaling.parallel.axes import AXES, DEFAULT_RULES
from scaling.parallel.logical import no_rules
from scaling.parallel.mesh import make_mesh


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("embed", "mlp"), P("fsdp", "tensor")),
        (("layers", "embed", "heads"), P(None, "fsdp", "tensor")),
        (("batch", "length", "embed"), P(("replica", "data", "fsdp"), None, None)),
        (("embed", "embed"), P("fsdp", None)),
        (("vocab", "embed"), P("tensor", "fsdp")),
        ((None, "norm"), P(None, None)),
        ((), P()),
    ],
)
def test_spec(names: tuple[str | None, ...], expected: P) -> None:
    assert spec(names, DEFAULT_RULES) == expected


def test_every_default_axis_exists() -> None:
    assert {axis for axes in DEFAULT_RULES.values() for axis in axes} <= set(AXES)


def test_unknown_name_is_an_error_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"'embd'.*nearest is 'embed'.*mesh\.rules"):
        spec(("embd",), DEFAULT_RULES)


def test_config_rules_replace_and_extend() -> None:
    table = rules(
        MeshConfig(rules=(("embed", None), ("expert", ("data", "fsdp")), ("mlp", "fsdp")))
    )
    assert spec(("expert", "embed", "mlp"), table) == P(("data", "fsdp"), None, None)
    assert spec(("embed", "mlp"), table) == P(None, "fsdp")
    with pytest.raises(ValueError, match=r"'embed' -> 'fdsp'(?s:.*)did you mean fsdp"):
        rules(MeshConfig(rules=(("embed", "fdsp"),)))


def test_constrain_acts_only_inside_the_context() -> None:
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    x = jnp.ones((8, 4, 6))
    assert active_rules() is None
    assert constrain(x, ("any", "thing")) is x
    with logical_rules(mesh, DEFAULT_RULES):
        assert active_rules() == (mesh, DEFAULT_RULES)
        y = jax.jit(lambda x: constrain(x, ("batch", "length", "mlp")))(x)
        with no_rules():
            assert constrain(x, ("batch",)) is x
    assert y.sharding.shard_shape(y.shape) == (2, 4, 3)
    assert active_rules() is None


def test_constrain_under_vmap() -> None:
    mesh = make_mesh(MeshConfig(tensor=2))
    with logical_rules(mesh, DEFAULT_RULES):
        y = jax.jit(jax.vmap(lambda x: constrain(x, ("batch", "mlp"))))(jnp.ones((3, 4, 2)))
    assert y.shape == (3, 4, 2)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("batch",), "1 names"),
        (("batch", "mlp"), "dimension 1 of .*is 5, which mesh axis tensor of size 2"),
        (("batch", "nonsense"), "has no rule"),
    ],
)
def test_constrain_refuses(names: tuple[str, ...], words: str) -> None:
    mesh = make_mesh(MeshConfig(tensor=2))
    with logical_rules(mesh, DEFAULT_RULES), pytest.raises(ValueError, match=words):
        constrain(jnp.ones((4, 5)), names)
