"""Every optimizer against its formulas in float64 numpy, written out by hand."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.optim.build import Optimizer, Rule
from scaling.optim.optimizers import Adafactor, AdamW, Lion, Muon, Sgd

NAMES: dict[str, Any] = {
    "w": ("embed", "mlp"),
    "b": ("mlp",),
    "stack": ("layers", "mlp", "embed"),
    "stack_b": ("layers", "embed"),
    "emb": ("vocab", "embed"),
    "conv": (None, None, "conv_in", "conv_out"),
    "plain": None,
}
SHAPES = {
    "w": (4, 6),
    "b": (6,),
    "stack": (2, 6, 4),
    "stack_b": (2, 4),
    "emb": (5, 4),
    "conv": (2, 2, 3, 4),
    "plain": (3, 5),
}
MATRICES = {"w", "stack", "emb", "conv", "plain"}
MUON = MATRICES - {"emb"}
STEPS, LR = 6, 0.03


def rate(step: int) -> float:
    return 1.0 / (1 + step)


def tree(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {k: rng.normal(size=shape) for k, shape in SHAPES.items()}


def gradient(step: int) -> dict[str, np.ndarray]:
    return tree(100 + step)


def run(rule: Any) -> dict[str, np.ndarray]:
    """The parameters after STEPS steps of the code under test, in float32."""
    optimizer = Optimizer({"": Rule(rule, lambda step, peak: peak / (1 + step))}, NAMES)
    hparams = {k: jnp.float32(v) for k, v in optimizer.hparams.items()}
    params = jax.tree.map(jnp.float32, tree(0))
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for step in range(STEPS):
        grads = jax.tree.map(jnp.float32, gradient(step))
        norms = optimizer.norms(grads)
        updates, state = update(grads, norms, state, params, jnp.int32(step), hparams)
        params = jax.tree.map(jnp.add, params, updates)
    return jax.device_get(params)


def reference(
    one_step: Callable[[str, np.ndarray, np.ndarray, dict[str, Any], int], np.ndarray],
    clip: float | None,
) -> dict[str, np.ndarray]:
    """The same in float64: `one_step(key, parameter, gradient, its own memory, step from 1)`."""
    params, memory = tree(0), {k: {} for k in SHAPES}
    for step in range(STEPS):
        grads = gradient(step)
        norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
        factor = 1.0 if clip is None or norm < clip else clip / norm
        for k in params:
            delta = one_step(k, params[k], grads[k] * factor, memory[k], step + 1)
            params[k] = params[k] + delta
    return params


def check(rule: Any, one_step: Any, clip: float | None = None, tolerance: float = 2e-5) -> None:
    ours, theirs = run(rule), reference(one_step, clip)
    for key in SHAPES:
        np.testing.assert_allclose(
            ours[key], theirs[key], rtol=tolerance, atol=tolerance, err_msg=key
        )


def adam_direction(
    g: np.ndarray, memory: dict[str, Any], t: int, b1: float, b2: float, eps: float
) -> np.ndarray:
    m = memory["m"] = b1 * memory.get("m", 0) + (1 - b1) * g
    v = memory["v"] = b2 * memory.get("v", 0) + (1 - b2) * g**2
    return (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)


def decayed(key: str, mask: str) -> bool:
    return mask == "all" or (mask == "matrices" and key in MATRICES)


@pytest.mark.parametrize("mask", ["matrices", "all", "none"])
@pytest.mark.parametrize("clip", [None, 2.0, 1e6])
def test_adamw(mask: Any, clip: float | None) -> None:
    def step(key: str, p: np.ndarray, g: np.ndarray, memory: dict, t: int) -> np.ndarray:
        u = adam_direction(g, memory, t, 0.8, 0.9, 1e-3)
        return -LR * rate(t - 1) * (u + (0.2 * p if decayed(key, mask) else 0))

    rule = AdamW(LR, b1=0.8, b2=0.9, eps=1e-3, weight_decay=0.2, decay_mask=mask, clip_norm=clip)
    check(rule, step, clip)


def newton_schulz(x: np.ndarray, steps: int, eps: float) -> np.ndarray:
    """Jordan et al. 2024: five times X <- aX + (bA + cAA)X with A = XX^T."""
    a, b, c = 3.4445, -4.7750, 2.0315
    flip = x.shape[0] > x.shape[1]
    x = x.T if flip else x
    x = x / (np.linalg.norm(x) + eps)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if flip else x


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("scale", ["width", "rms"])
def test_muon(nesterov: bool, scale: Any) -> None:
    mu, eps = 0.9, 1e-7

    def orthogonal(m: np.ndarray, key: str) -> np.ndarray:
        if key == "stack":
            return np.stack([orthogonal(layer, "") for layer in m])
        matrix = m.reshape(-1, m.shape[-1])
        inputs, outputs = matrix.shape
        size = (
            0.2 * max(inputs, outputs) ** 0.5 if scale == "rms" else max(1, outputs / inputs) ** 0.5
        )
        return size * newton_schulz(matrix, 5, eps).reshape(m.shape)

    def step(key: str, p: np.ndarray, g: np.ndarray, memory: dict, t: int) -> np.ndarray:
        if key not in MUON:
            u = adam_direction(g, memory, t, 0.8, 0.9, eps)
            decay = 0.3 * p if key == "emb" else 0
            return -0.01 * rate(t - 1) * (u + decay)
        m = memory["m"] = mu * memory.get("m", 0) + (1 - mu) * g
        if nesterov:
            m = mu * m / (1 - mu ** (t + 1)) + (1 - mu) * g / (1 - mu**t)
        return -LR * rate(t - 1) * (orthogonal(m, key) + 0.1 * p)

    rule = Muon(
        LR,
        momentum=mu,
        nesterov=nesterov,
        update_scale=scale,
        weight_decay=0.1,
        adam_learning_rate=0.01,
        adam_b1=0.8,
        adam_b2=0.9,
        eps=eps,
        adam_weight_decay=0.3,
        clip_norm=None,
    )
    check(rule, step, tolerance=2e-4)


@pytest.mark.parametrize("momentum", [None, 0.7])
@pytest.mark.parametrize("scale_parameter", [True, False])
def test_adafactor(momentum: float | None, scale_parameter: bool) -> None:
    def rms(x: np.ndarray, key: str) -> np.ndarray:
        axes = tuple(range(1 if key.startswith("stack") else 0, x.ndim))
        return np.sqrt((x**2).mean(axes, keepdims=True))

    def step(key: str, p: np.ndarray, g: np.ndarray, memory: dict, t: int) -> np.ndarray:
        beta = 1 - t**-0.8
        square = g**2 + 1e-30
        if key in ("w", "stack", "emb"):  # both of its largest dimensions have at least 4
            row = memory["r"] = beta * memory.get("r", 0) + (1 - beta) * square.mean(-1)
            col = memory["c"] = beta * memory.get("c", 0) + (1 - beta) * square.mean(-2)
            mean = row.mean(-1, keepdims=True)[..., None]
            v = row[..., :, None] * col[..., None, :] / mean
        else:
            v = memory["v"] = beta * memory.get("v", 0) + (1 - beta) * square
        u = g / np.sqrt(v)
        u = u / np.maximum(1, rms(u, key) / 0.5)
        if scale_parameter:
            u = u * np.maximum(rms(p, key), 1e-3)
        if momentum is not None:
            u = memory["m"] = momentum * memory.get("m", 0) + (1 - momentum) * u
        return -LR * rate(t - 1) * (u + (0.2 * p if key in MATRICES else 0))

    rule = Adafactor(
        LR,
        update_clip=0.5,
        scale_parameter=scale_parameter,
        momentum=momentum,
        min_dim_size_to_factor=4,
        weight_decay=0.2,
    )
    check(rule, step)


def test_lion() -> None:
    def step(key: str, p: np.ndarray, g: np.ndarray, memory: dict, t: int) -> np.ndarray:
        m = memory.get("m", np.zeros_like(g))
        u = np.sign(0.8 * m + 0.2 * g)
        memory["m"] = 0.95 * m + 0.05 * g
        return -LR * rate(t - 1) * (u + (0.4 * p if key in MATRICES else 0))

    check(Lion(LR, b1=0.8, b2=0.95, weight_decay=0.4, clip_norm=1.5), step, 1.5)


@pytest.mark.parametrize(("momentum", "nesterov"), [(None, False), (0.8, False), (0.8, True)])
def test_sgd(momentum: float | None, nesterov: bool) -> None:
    def step(key: str, p: np.ndarray, g: np.ndarray, memory: dict, t: int) -> np.ndarray:
        u = g
        if momentum is not None:
            m = memory["m"] = momentum * memory.get("m", 0) + g
            u = g + momentum * m if nesterov else m
        return -LR * rate(t - 1) * (u + (0.2 * p if key in MATRICES else 0))

    check(Sgd(LR, momentum=momentum, nesterov=nesterov, weight_decay=0.2), step)


def test_muon_updates_are_nearly_orthogonal() -> None:
    optimizer = Optimizer({"": Rule(Muon(1.0, weight_decay=0.0), lambda step, peak: peak)}, NAMES)
    params = jax.tree.map(jnp.float32, tree(0))
    hparams = {k: jnp.float32(v) for k, v in optimizer.hparams.items()}
    grads = jax.tree.map(jnp.float32, gradient(0))
    state = optimizer.init(params)
    norms = optimizer.norms(grads)
    updates, _ = jax.jit(optimizer.update)(grads, norms, state, params, jnp.int32(0), hparams)
    for matrix in updates["stack"]:
        values = np.linalg.svd(np.asarray(matrix), compute_uv=False)
        assert (values > 0.5).all()
        assert (values < 1.3).all()
