"""Products by group and the dispatch to experts, against loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.ops.grouped import block_size, experts, grouped_matmul
from scaling.parallel import MeshConfig, make_mesh
from scaling.parallel.axes import rules
from scaling.parallel.logical import logical_rules

D, F = 6, 5
SIZES = {
    "even": [16, 16, 16, 16],
    "uneven": [40, 1, 7, 16],
    "one group only": [0, 64, 0, 0],
    "rows behind": [3, 0, 9, 2],
    "none": [0, 0, 0, 0],
}


def operands(sizes, rows=64):
    rng = np.random.default_rng(0)
    x_MD, kernel_EDF = rng.normal(size=(rows, D)), rng.normal(size=(len(sizes), D, F))
    y_MF, start = np.zeros((rows, F)), 0
    for size, kernel_DF in zip(sizes, kernel_EDF, strict=True):
        y_MF[start : start + size] = x_MD[start : start + size] @ kernel_DF
        start += size
    return jnp.float32(x_MD), jnp.float32(kernel_EDF), jnp.int32(sizes), y_MF


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_rows_meet_the_kernel_of_their_group(sizes, platform):
    x_MD, kernel_EDF, sizes_E, y_MF = operands(sizes)
    got = grouped_matmul(x_MD, kernel_EDF, sizes_E, platform)
    np.testing.assert_allclose(got, y_MF, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_blocks_have_the_gradients_of_ragged_dot(sizes):
    x_MD, kernel_EDF, sizes_E, _ = operands(sizes)

    def gradients(platform):
        def loss(x_MD, kernel_EDF):
            return jnp.sum(jnp.sin(grouped_matmul(x_MD, kernel_EDF, sizes_E, platform)))

        return jax.grad(loss, (0, 1))(x_MD, kernel_EDF)

    compare = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)  # noqa: E731
    jax.tree.map(compare, gradients("cpu"), gradients("tpu"))


def test_rows_behind_the_last_group_take_nothing_from_the_kernel(monkeypatch):
    """Whatever an accelerator leaves there, in the product or in its gradient."""
    x_MD, kernel_EDF, sizes_E, y_MF = operands(SIZES["rows behind"])
    ragged_dot = jax.lax.ragged_dot

    @jax.custom_vjp
    def careless(x_MD, kernel_EDF, sizes_E):
        return spoiled(ragged_dot(x_MD, kernel_EDF, sizes_E))

    def spoiled(rows):
        return rows.at[int(sum(SIZES["rows behind"])) :].set(jnp.nan)

    def forward(x_MD, kernel_EDF, sizes_E):
        pull = jax.vjp(lambda x, k: ragged_dot(x, k, sizes_E), x_MD, kernel_EDF)[1]
        return careless(x_MD, kernel_EDF, sizes_E), pull

    def backward(pull, grad_MF):
        grad_MD, grad_EDF = pull(grad_MF)
        return spoiled(grad_MD), grad_EDF, None

    careless.defvjp(forward, backward)
    monkeypatch.setattr(jax.lax, "ragged_dot", careless)
    run = lambda x: jnp.sum(jnp.sin(grouped_matmul(x, kernel_EDF, sizes_E, "tpu")))  # noqa: E731
    value, gradient = jax.value_and_grad(run)(x_MD)
    assert float(value) == pytest.approx(np.sin(y_MF).sum(), rel=1e-4)
    assert np.isfinite(gradient).all()


def test_the_work_does_not_grow_with_the_number_of_groups():
    """Nor does any array hold all rows for all groups."""

    def cost(platform, groups, rows=2048, width=64):
        x_MD = jnp.zeros((rows, width))
        kernel_EDF, sizes_E = jnp.zeros((groups, width, width)), jnp.zeros(groups, jnp.int32)
        run = jax.jit(lambda *a: grouped_matmul(*a, platform))
        compiled = run.lower(x_MD, kernel_EDF, sizes_E).compile()
        return compiled.cost_analysis()["flops"] / (2 * rows * width * width)

    assert block_size(2048, 16) == 32
    assert cost("cpu", 16) < 1.5
    assert cost("tpu", 16) > 15, "JAX now has a ragged product on CPU: the blocks may go"


def dispatch(x_BTD, chosen_BTK, weights_BTK, up_EDF, down_EFD):
    return experts(x_BTD, chosen_BTK, weights_BTK, [up_EDF], down_EFD, jnp.tanh, "cpu")


def tokens(batch=8, length=4, count=8, per_token=2):
    rng = np.random.default_rng(1)
    x_BTD = rng.normal(size=(batch, length, D))
    chosen_BTK = np.argsort(rng.normal(size=(batch, length, count)) + np.arange(count))
    chosen_BTK = chosen_BTK[..., -per_token:].astype("int32")
    weights_BTK = rng.normal(size=chosen_BTK.shape)
    # A hidden width that divides by the devices too.
    up_EDF, down_EFD = rng.normal(size=(count, D, 8)), rng.normal(size=(count, 8, D))
    return x_BTD, chosen_BTK, weights_BTK, up_EDF, down_EFD


def single(arguments):
    return [jnp.asarray(a, jnp.int32 if a.dtype == np.int32 else jnp.float32) for a in arguments]


def test_every_token_gets_its_experts():
    x_BTD, chosen_BTK, weights_BTK, up_EDF, down_EFD = arguments = tokens()
    wanted = np.zeros_like(x_BTD)
    for b, t, k in np.ndindex(chosen_BTK.shape):
        e = chosen_BTK[b, t, k]
        hidden = np.tanh(x_BTD[b, t] @ up_EDF[e])
        wanted[b, t] += weights_BTK[b, t, k] * (hidden @ down_EFD[e])
    got = jax.jit(dispatch)(*single(arguments))
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


MESHES = {
    "rows": (MeshConfig(data=8), ()),
    "gathered": (MeshConfig(data=1, fsdp=8), (("embed", None), ("experts", "fsdp"))),
    "hidden units": (MeshConfig(data=2, tensor=4), ()),
    "experts": (MeshConfig(data=2, tensor=4), (("experts", "tensor"),)),
}


@pytest.mark.parametrize(("mesh", "more"), MESHES.values(), ids=MESHES)
def test_a_mesh_changes_neither_values_nor_gradients(mesh, more):
    x, chosen, weights, up, down = single(tokens())
    table = rules(mesh) | {name: (axis,) if axis else () for name, axis in more}

    def loss(x, weights, up, down):
        y = dispatch(x, chosen, weights, up, down)
        return jnp.sum(jnp.sin(y)), y

    both = jax.grad(loss, (0, 1, 2, 3), has_aux=True)
    alone = both(x, weights, up, down)
    with logical_rules(make_mesh(mesh), table):
        meshed = jax.jit(both)(x, weights, up, down)
    compare = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)  # noqa: E731
    jax.tree.map(compare, alone, meshed)
