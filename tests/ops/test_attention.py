"""Every implementation against a float64 reference in numpy, in value and gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.experiment import MeshConfig
from scaling.ops import attention as module
from scaling.ops.attention import attention
from scaling.parallel.axes import rules
from scaling.parallel.logical import logical_rules
from scaling.parallel.mesh import make_mesh


def reference(q, k, v, g, causal, segments, softcap):
    """(out, dq, dk, dv) in float64; g is the gradient of out. Arrays are [B, T, heads, K]."""
    q, k, v, g = (np.asarray(x, np.float64) for x in (q, k, v, g))
    repeat = q.shape[2] // k.shape[2]
    k, v = np.repeat(k, repeat, axis=2), np.repeat(v, repeat, axis=2)
    length, scale = q.shape[1], 1 / np.sqrt(q.shape[3])
    score = np.einsum("bthk,bshk->bhts", q, k) * scale
    slope = np.ones_like(score)
    if softcap is not None:
        slope = 1 - np.tanh(score / softcap) ** 2
        score = np.tanh(score / softcap) * softcap
    seen = np.ones((1, 1, length, length), bool)
    if causal:
        seen = seen & np.tril(np.ones((length, length), bool))[None, None]
    if segments is not None:
        seen = seen & (segments[:, None, :, None] == segments[:, None, None, :])
    score = np.where(seen, score, -np.inf)
    weight = np.exp(score - score.max(-1, keepdims=True))
    weight /= weight.sum(-1, keepdims=True)
    out = np.einsum("bhts,bshk->bthk", weight, v)
    dv = np.einsum("bhts,bthk->bshk", weight, g)
    dweight = np.einsum("bthk,bshk->bhts", g, v)
    dscore = weight * (dweight - (dweight * weight).sum(-1, keepdims=True)) * slope * scale
    dq = np.einsum("bhts,bshk->bthk", dscore, k)
    dk = np.einsum("bhts,bthk->bshk", dscore, q)
    grouped = (*k.shape[:2], k.shape[2] // repeat, repeat, k.shape[3])
    return out, dq, dk.reshape(grouped).sum(3), dv.reshape(grouped).sum(3)


def inputs(batch, length, heads, groups, width, segmented):
    rng = np.random.default_rng(0)
    shapes = [(batch, length, n, width) for n in (heads, groups, groups, heads)]
    q, k, v, g = (rng.normal(size=s).astype(np.float32) for s in shapes)
    segments = None
    if segmented:
        segments = np.sort(rng.integers(1, 4, size=(batch, length)), axis=1).astype(np.int32)
    return q, k, v, g, segments


def value_and_gradients(function, q, k, v, g, segments):
    @jax.jit
    def both(q, k, v):
        out, pullback = jax.vjp(lambda *qkv: function(*qkv, segments_BT=segments), q, k, v)
        return out, *pullback(g)

    return both(q, k, v)


def check(results, q, k, v, g, segments, *, causal, softcap, tolerance):
    expected = reference(q, k, v, g, causal, segments, softcap)
    for name, got, want in zip(("out", "dq", "dk", "dv"), results, expected, strict=True):
        error = np.abs(np.asarray(got, np.float64) - want).max() / np.abs(want).max()
        assert error < tolerance, f"{name}: relative error {error}"


CASES = {
    "plain": {"length": 9, "heads": 2, "groups": 2},
    "grouped": {"length": 9, "heads": 4, "groups": 2},
    "segments": {"length": 9, "heads": 2, "groups": 1, "segmented": True},
    "softcap": {"length": 9, "heads": 2, "groups": 2, "softcap": 2.0},
    "both ways": {"length": 9, "heads": 2, "groups": 2, "causal": False},
    "blocks": {"length": 300, "heads": 4, "groups": 2, "segmented": True, "softcap": 2.0},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("implementation", ["xla", "blocked"])
def test_xla_and_blocked(implementation, case):
    case = dict(CASES[case])
    causal, softcap = case.pop("causal", True), case.pop("softcap", None)
    case = {"segmented": False} | case
    if implementation == "blocked" and not causal:
        pytest.skip("blocked is causal")
    arrays = inputs(batch=2, width=8, **case)
    function = functools.partial(
        attention,
        causal=causal,
        softcap=softcap,
        implementation=implementation,
    )
    results = value_and_gradients(function, *arrays)
    check(results, *arrays, causal=causal, softcap=softcap, tolerance=3e-6)


@pytest.mark.parametrize("case", ["grouped", "blocks"])
def test_a_batch_in_parts(case):
    case = {"segmented": False, "softcap": None} | CASES[case]
    softcap = case.pop("softcap")
    arrays = inputs(batch=6, width=8, **case)
    function = functools.partial(module._blocked, softcap=softcap, parts=3)
    results = value_and_gradients(function, *arrays)
    check(results, *arrays, causal=True, softcap=softcap, tolerance=3e-6)


def test_gradients_of_parts_are_not_padded_to_the_batch():
    q, k, v, *_ = inputs(batch=6, width=8, length=300, heads=2, groups=2, segmented=False)

    def loss(*qkv):
        return module._blocked(*qkv, None, softcap=None, parts=3).sum()

    traced = str(jax.make_jaxpr(jax.grad(loss, (0, 1, 2)))(q, k, v))
    assert "concatenate[" in traced
    assert " pad[" not in traced


def test_a_batch_is_cut_on_one_cpu_only():
    assert [module._parts(batch, "cpu") for batch in (1, 7, 12, 16, 22)] == [1, 7, 6, 8, 2]
    assert module._parts(16, "gpu") == module._parts(16, "tpu") == 1
    mesh = make_mesh(MeshConfig(data=8))
    with logical_rules(mesh, rules(MeshConfig(data=8))):
        assert module._parts(16, "cpu") == 1


@pytest.mark.parametrize(
    ("segmented", "softcap", "causal"),
    [(False, None, True), (True, 3.0, True), (True, None, False)],
)
def test_splash_interpreted(segmented, softcap, causal):
    arrays = inputs(1, 256, 4, 2, 16, segmented)
    function = functools.partial(
        attention, causal=causal, softcap=softcap, implementation="splash", interpret=True
    )
    results = value_and_gradients(function, *arrays)
    check(results, *arrays, causal=causal, softcap=softcap, tolerance=3e-6)


def test_splash_on_a_mesh_equals_one_device():
    config = MeshConfig(data=2, fsdp=2, tensor=2)
    arrays = inputs(4, 128, 4, 2, 16, True)
    function = functools.partial(attention, causal=True, implementation="splash", interpret=True)
    with logical_rules(make_mesh(config), rules(config)):
        results = value_and_gradients(function, *arrays)
    check(results, *arrays, causal=True, softcap=None, tolerance=3e-6)


def test_splash_refuses_heads_that_do_not_divide():
    config = MeshConfig(data=2, tensor=4)
    q, k, v, _, _ = inputs(2, 128, 4, 2, 16, False)
    function = functools.partial(attention, causal=True, implementation="splash", interpret=True)
    with (
        logical_rules(make_mesh(config), rules(config)),
        pytest.raises(ValueError, match="kv_heads"),
    ):
        jax.eval_shape(function, q, k, v)


@pytest.mark.parametrize("width", [64, 128])
def test_splash_lowers_for_tpu(width):
    shape = jax.ShapeDtypeStruct((2, 256, 4, width), jnp.bfloat16)
    grouped = jax.ShapeDtypeStruct((2, 256, 2, width), jnp.bfloat16)
    segments = jax.ShapeDtypeStruct((2, 256), jnp.int32)

    def loss(q, k, v, segments):
        out = attention(q, k, v, causal=True, segments_BT=segments, platform="tpu")
        return jnp.sum(out.astype(jnp.float32))

    traced = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).trace(shape, grouped, grouped, segments)
    text = traced.lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("tpu_custom_call") >= 3  # forward, dq, dkv


def test_bfloat16_keeps_its_softmax_in_float32():
    q, k, v, g, _ = (x if x is None else jnp.bfloat16(x) for x in inputs(2, 64, 2, 2, 8, False))
    out = attention(q, k, v, causal=True, implementation="xla")
    want = reference(q, k, v, g, True, None, None)[0]
    assert out.dtype == jnp.bfloat16
    assert np.abs(np.asarray(out, np.float64) - want).max() < 0.02
    # A softmax in bfloat16 over 2048 equal scores would add up to well below one.
    ones = jnp.ones((1, 2048, 1, 8), jnp.bfloat16)
    out = attention(ones, ones, ones, causal=False, implementation="xla")
    np.testing.assert_allclose(np.asarray(out, np.float32), 1.0, atol=0.005)


def call(platform, **changes):
    defaults = {"length": 1024, "width": 64, "dtype": "bfloat16", "causal": True}
    defaults |= {"segments": False, "softcap": None}
    return module.Call(platform=platform, **(defaults | changes))


def test_auto_chooses_by_platform_type_and_shape():
    choose = functools.partial(module.choose, "auto")
    assert choose(call("cpu", length=64)) == "xla"
    assert choose(call("cpu", length=1024)) == "blocked"
    assert choose(call("cpu", length=1024, causal=False)) == "xla"
    assert choose(call("gpu")) == "cudnn"
    assert choose(call("gpu", dtype="float32")) == "blocked"
    assert choose(call("gpu", segments=True)) == "blocked"
    assert choose(call("gpu", width=192, causal=False)) == "xla"
    assert choose(call("tpu")) == "splash"
    assert choose(call("tpu", length=1000)) == "blocked"


@pytest.mark.parametrize(
    ("implementation", "arguments", "reason"),
    [
        ("splash", {"platform": "cpu"}, "TPU kernel"),
        ("splash", {"platform": "tpu", "length": 100}, "100 is not a multiple of 128"),
        ("cudnn", {"platform": "cpu"}, "platform is cpu"),
        ("cudnn", {"platform": "gpu", "dtype": "float32"}, "type is float32"),
        ("cudnn", {"platform": "gpu", "width": 60}, "head width 60"),
        ("cudnn", {"platform": "gpu", "length": 49}, "the length 49 is odd"),
        ("cudnn", {"platform": "gpu", "segments": True}, "segments"),
        ("cudnn", {"platform": "gpu", "softcap": 30.0}, "soft-cap"),
        ("blocked", {"platform": "cpu", "causal": False}, "not causal"),
    ],
)
def test_explicit_choices_that_cannot_be_are_refused(implementation, arguments, reason):
    with pytest.raises(ValueError, match=reason):
        module.choose(implementation, call(**arguments))


def test_unknown_platform():
    with pytest.raises(ValueError, match="'abacus'"):
        module.choose("auto", call("abacus"))
