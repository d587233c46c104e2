"""The head's two forms against plain automatic differentiation of the same loss."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.ops import cross_entropy as head
from scaling.parallel import MeshConfig, make_mesh
from scaling.parallel.axes import rules
from scaling.parallel.logical import logical_rules
from scaling.tasks.language_model import objective

B, T, D, V = 2, 12, 8, 16
NUMBERS = {"z_loss": 1e-2, "label_smoothing": 0.1}


def test_the_head_has_float32_results_and_gradients_of_the_compute_type():
    keys = jax.random.split(jax.random.key(0))
    x_ND, kernel_DV = jax.random.normal(keys[0], (6, 4)), jax.random.normal(keys[1], (4, 5))

    def loss(product, dtype):
        return lambda x, w: jnp.sum(jnp.sin(product(x.astype(dtype), w.astype(dtype))))

    ours = jax.jit(jax.grad(loss(head.logits, "float32"), (0, 1)))(x_ND, kernel_DV)
    plain = jax.jit(jax.grad(loss(jnp.dot, "float32"), (0, 1)))(x_ND, kernel_DV)
    jax.tree.map(np.testing.assert_array_equal, ours, plain)
    assert head.logits(x_ND.astype("bfloat16"), kernel_DV.astype("bfloat16")).dtype == "float32"
    jaxpr = str(jax.make_jaxpr(jax.grad(loss(head.logits, "bfloat16")))(x_ND, kernel_DV))
    assert "bf16[6,5] = convert_element_type" in jaxpr  # the gradient of the logits, once rounded
    stacked = jax.vmap(jax.grad(loss(head.logits, "float32"), (0, 1)))(
        jnp.stack([x_ND, x_ND]), jnp.stack([kernel_DV, kernel_DV])
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b, rtol=1e-6), stacked, ours)


@functools.cache
def operands():
    keys = jax.random.split(jax.random.key(1), 4)
    return (
        jax.random.normal(keys[0], (B, T, D)),
        jax.random.normal(keys[1], (D, V)),
        jax.random.randint(keys[2], (B, T), 0, V),
        jax.random.uniform(keys[3], (B, T)),
    )


def value_and_grads(loss, dtype="float32"):
    x, kernel, targets, weights = operands()

    def total(x, kernel):
        return jnp.sum(weights * loss(x.astype(dtype), kernel.astype(dtype), targets))

    return jax.jit(jax.value_and_grad(total, (0, 1)))(x, kernel)


def by_pieces(x, kernel, targets):
    return head.chunked_loss(objective, x, kernel, targets, NUMBERS)[0]


def at_once(x, kernel, targets):
    logits = jnp.dot(x, kernel, preferred_element_type=jnp.float32)
    return objective(logits, targets, NUMBERS)[0]


@pytest.mark.parametrize("rows", [T, 4, 1, 2.5])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_loss_by_pieces_has_the_gradients_of_the_loss_at_once(monkeypatch, rows, dtype):
    """Also per token weights; bfloat16 differs by the rounding of the gradient of the logits.

    Pieces of 2.5 rows: 5 are needed, 6 of 2 rows divide the sequence.
    """
    monkeypatch.setattr(head, "PIECE_BYTES", 4 * B * rows * V)
    assert head._count((B, T), V) == {2.5: 6}.get(rows, T // rows)
    value, grads = value_and_grads(by_pieces, dtype)
    expected, wanted = value_and_grads(at_once, dtype)
    tolerance = 1e-6 if dtype == "float32" else 2e-2
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for ours, plain in zip(grads, wanted, strict=True):
        np.testing.assert_allclose(ours, plain, atol=tolerance * np.abs(plain).max(), rtol=0)


def test_a_sequence_that_no_count_divides_is_filled_up(monkeypatch):
    """11 of the 12 tokens in pieces of at most 4: three, and the last has one row of filling."""
    monkeypatch.setattr(head, "PIECE_BYTES", 4 * B * 4 * V)
    x, kernel, targets, _ = operands()
    assert head._count((B, 11), V) == 3

    def sums(loss):
        def total(x, kernel):
            return loss(x[:, :11], kernel, targets[:, :11]).sum()

        return jax.jit(jax.value_and_grad(total, (0, 1)))(x, kernel)

    for a, b in zip(*map(jax.tree.leaves, (sums(by_pieces), sums(at_once))), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6 * np.abs(b).max(), rtol=0)


def test_the_slope_is_kept_in_the_compute_type_and_no_logits_are():
    x, kernel, targets, _ = operands()
    narrow = (x.astype("bfloat16"), kernel.astype("bfloat16"))

    def kept(loss):
        _, pull = jax.vjp(lambda x, kernel: loss(x, kernel, targets).sum(), *narrow)
        return sorted(str(a.dtype) for a in jax.tree.leaves(pull) if a.size == B * T * V)

    assert kept(by_pieces) == ["bfloat16"]
    assert "float32" in kept(at_once)


def test_what_the_score_reports_beside_the_objective(monkeypatch):
    monkeypatch.setattr(head, "PIECE_BYTES", 1)
    x, kernel, targets, _ = operands()
    found = jax.jit(functools.partial(head.chunked_loss, objective))(x, kernel, targets, {})
    plain = objective(jnp.dot(x, kernel), targets, {})
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, plain)


def test_members_of_a_population_score_as_alone(monkeypatch):
    monkeypatch.setattr(head, "PIECE_BYTES", 4 * B * 4 * V)
    x, kernel, targets, _ = operands()

    def grads(x, smoothing):
        def total(x):
            numbers = {"label_smoothing": smoothing}
            return head.chunked_loss(objective, x, kernel, targets, numbers)[0].sum()

        return jax.grad(total)(x)

    many = jax.vmap(grads)(jnp.stack([x, 2 * x]), jnp.array([0.0, 0.2]))
    np.testing.assert_allclose(many[1], grads(2 * x, 0.2), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("length_axis", [(), "data"])
def test_pieces_count_the_logits_of_one_device(monkeypatch, length_axis):
    """Eight devices hold an eighth of the logits each; a sequence that is split is not cut again."""
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    monkeypatch.setattr(head, "PIECE_BYTES", 4 * 4 * T * V // 8 // 3)
    config = MeshConfig(
        data=2, fsdp=2, tensor=2, rules=(("batch", "fsdp"), ("length", length_axis))
    )
    table = rules(config)
    with logical_rules(mesh, table):
        expected = 1 if length_axis else 6
        assert head._count((4, T), V) == expected
    assert head._count((4, T), V) == 12


@pytest.mark.parametrize("loss", [by_pieces, "logits"])
def test_the_gradients_can_be_differentiated_forwards(monkeypatch, loss):
    """jvp(grad(f)), the product of a Hessian with a vector, against the same of plain operations."""
    monkeypatch.setattr(head, "PIECE_BYTES", 4 * B * 4 * V)
    x, kernel, targets, _ = operands()
    if loss == "logits":

        def loss(x, kernel, targets):
            logits = head.logits(x.reshape(B * T, D), kernel)
            return objective(logits.reshape(B, T, V), targets, NUMBERS)[0]

    def times_vector(loss):
        def total(x, kernel):
            return jnp.sum(loss(x, kernel, targets))

        tangents = jnp.cos(x), jnp.sin(kernel)
        return jax.jit(lambda: jax.jvp(jax.grad(total, (0, 1)), (x, kernel), tangents)[1])()

    for ours, plain in zip(times_vector(loss), times_vector(at_once), strict=True):
        np.testing.assert_allclose(ours, plain, atol=2e-6 * np.abs(plain).max(), rtol=0)
