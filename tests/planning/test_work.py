import jax
import jax.numpy as jnp
import pytest
from hlo_samples import LOOP, entry

from scaling.planning import hlo, work


def counted(text: str) -> work.Work:
    return work.count(hlo.parse(text))


def test_a_fused_product_counts_once_a_turn():
    assert counted(LOOP).matmul_flops == 5 * 2 * 8 * 16 * 32


@pytest.mark.parametrize(
    ("kernel", "attributes", "out", "flops"),
    [
        ("bf16[16,32]", "dim_labels=bf_io->bf", "bf16[8,32]", 2 * 8 * 16 * 32),
        # A reshape to 4 heads as a window that is mostly padding: every output meets one element.
        (
            "bf16[4,8,16]",
            "window={size=4 pad=3_3 rhs_reversal=1}, dim_labels=bf0_0oi->b0f",
            "bf16[8,4,8]",
            2 * 8 * 16 * 4 * 8,
        ),
    ],
)
def test_products_as_convolutions(kernel, attributes, out, flops):
    left = (
        "bf16[8,16,1]" if "0" in attributes.split("->")[0].split("dim_labels=")[1] else "bf16[8,16]"
    )
    text = entry(
        f"%l = {left}{{1,0}} parameter(0)",
        f"%r = {kernel}{{1,0}} parameter(1)",
        f"%c = {out}{{1,0}} convolution(%l, %r), {attributes}",
    )
    assert counted(text).matmul_flops == flops


def test_a_real_convolution_counts_what_meets_the_image():
    text = entry(
        "%l = f32[1,4,3] parameter(0)",
        "%r = f32[3,3,5] parameter(1)",
        "%c = f32[1,4,5] convolution(%l, %r), window={size=3 pad=1_1}, dim_labels=b0f_0io->b0f",
    )
    assert counted(text).matmul_flops == 2 * 3 * 5 * (2 + 3 + 3 + 2)


def test_a_dot_of_many_dimensions():
    text = entry(
        "%l = f32[2,8,16] parameter(0)",
        "%r = f32[2,16,4] parameter(1)",
        "%c = f32[2,8,4] dot(%l, %r), lhs_batch_dims={0}, lhs_contracting_dims={2}, "
        "rhs_batch_dims={0}, rhs_contracting_dims={1}",
    )
    assert counted(text).matmul_flops == 2 * 2 * 8 * 16 * 4


@pytest.mark.parametrize(("name", "products"), [("fwd", 2), ("dq", 3), ("dkv", 4)])
def test_attention_kernels_by_formula(name, products):
    text = entry(
        "%m = s8[1,8,8] parameter(0)",
        "%q = bf16[4,256,128] parameter(1)",
        "%k = bf16[2,256,128] parameter(2)",
        "%v = bf16[2,256,128] parameter(3)",
        f"%splash_mha_{name}.1 = bf16[4,256,128] custom-call(%m, %q, %k, %v), "
        'custom_call_target="tpu_custom_call"',
    )
    found = counted(text)
    assert found.attention_flops == products * 2 * 4 * 256 * 256 * 128 / 2
    assert found.kernels == {f"splash_mha_{name}": 1.0}


def test_unknown_kernels_are_named_not_guessed():
    text = entry(
        "%q = bf16[4,256,128] parameter(0)",
        '%k.1 = bf16[4,256,128] custom-call(%q), custom_call_target="somebody_elses"',
    )
    assert counted(text).opaque == {"somebody_elses": 1.0}


def test_traffic_of_slices_updates_and_on_chip_arrays():
    text = entry(
        "%big = f32[100,8] parameter(0)",
        "%i = s32[] parameter(1)",
        "%s = f32[1,8] dynamic-slice(%big, %i, %i), dynamic_slice_sizes={1,8}",
        "%u = f32[100,8] dynamic-update-slice(%big, %s, %i, %i)",
        "%chip = f32[1,8]{1,0:T(8,128)S(1)} add(%s, %s)",
        "%out = f32[100,8] add(%u, %u)",
    )
    row, whole = 4 * 8, 4 * 800
    assert counted(text).memory_bytes == 2 * row + 2 * row + 2 * row + 3 * whole


def test_traffic_of_a_fusion_that_updates_in_place():
    before = """\
%fused (a: f32[100,8], b: f32[1,8], c: s32[]) -> f32[100,8] {
  %a = f32[100,8] parameter(0)
  %b = f32[1,8] parameter(1)
  %c = s32[] parameter(2)
  ROOT %u = f32[100,8] dynamic-update-slice(%a, %b, %c, %c)
}
"""
    text = entry(
        "%big = f32[100,8] parameter(0)",
        "%row = f32[1,8] parameter(1)",
        "%i = s32[] parameter(2)",
        "%f = f32[100,8] fusion(%big, %row, %i), kind=kLoop, calls=%fused",
        before=before,
    )
    assert counted(text).memory_bytes == pytest.approx(2 * 4 * 8 + 4)


def test_a_program_of_this_machine_counts_as_its_arithmetic_does():
    """A scanned stack of products, forward and backward, through XLA's compiler for the CPU."""

    def loss(w, x):
        def layer(x, w):
            return jnp.tanh(x @ w), None

        return jnp.sum(jax.lax.scan(layer, x, w)[0])

    w, x = jnp.zeros((7, 64, 64)), jnp.zeros((32, 64))
    text = jax.jit(jax.grad(loss)).lower(w, x).compile().as_text()
    # Per layer one product forward and two backward; the first layer's input needs no gradient,
    # but a scan computes it anyway.
    assert counted(text).matmul_flops == pytest.approx(7 * 3 * 2 * 32 * 64 * 64)
