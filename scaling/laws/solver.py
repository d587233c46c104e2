"""Batched local minimisation: saddle-free Newton with a continuation in Huber's delta.

One jitted float64 program advances a chunk of lanes (starts x resamples x profile points) by a few
Newton steps with exact derivatives; lanes that have converged leave the batch, so a slow lane costs
only itself. Each lane carries its own damping and its own delta: it begins with a delta so wide
that the loss is least squares, and narrows it to the target as it converges, which is what makes
near-L1 losses tractable from far away.

Stopping is scale-free: the gradient is compared with the sum of the absolute contributions that
cancel in it, so neither units, nor sum against mean, nor the size of the objective matter.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from scaling.laws.backend import parallel, platform
from scaling.laws.law import Law
from scaling.laws.losses import derivatives, rho
from scaling.laws.problem import Array, Problem, bucket, padded, residual_function

ROUND = 8  # Newton steps between compactions
STAGE = 8  # most steps at one delta before it narrows regardless
NARROW = 0.25
LOOSE = 1e-2  # scaled gradient at which a wider delta has done its work
# Smoothed L1 (pseudo-Huber): Newton's basin shrinks with delta, so each stage must be converged.
SMOOTH_STAGE, SMOOTH_NARROW, SMOOTH_LOOSE = 30, 0.1, 1e-6
GRADIENT_TOLERANCE = 1e-10


@dataclasses.dataclass(frozen=True)
class Residuals:
    """The traced residual function of a law and whether the loss is smoothed L1."""

    function: Callable[..., Any]
    smooth: bool

    def __call__(self, vector: Any, variables: Any, observed: Any) -> Any:
        """Residuals, [n], of one lane."""
        return self.function(vector, variables, observed)


@dataclasses.dataclass(frozen=True)
class Solution:
    """End points, one a lane: vectors [R, p], scaled gradients, iterations and flags [R]."""

    vectors: Array
    values: Array
    gradients: Array
    iterations: Array
    converged: Array


def _evaluate(residuals: Residuals, lane: Any, data: Any, vector: Any, delta: Any) -> Any:
    """Objective, gradient, Hessian, cancelling gradient mass and Gauss-Newton scale of one lane."""
    import jax
    import jax.numpy as jnp

    weights, observed = lane["weights"], lane["observed"]
    r = residuals(vector, data["variables"], observed)
    jacobian = jax.jacfwd(residuals)(vector, data["variables"], observed)
    psi, curvature, irls = derivatives(r, delta, data["over"], residuals.smooth)
    pull = jax.lax.stop_gradient(weights * psi)
    second = jax.hessian(lambda v: jnp.sum(pull * residuals(v, data["variables"], observed)))(
        vector
    )
    return {
        "value": jnp.sum(weights * rho(r, delta, data["over"], residuals.smooth)),
        "gradient": jacobian.T @ (weights * psi),
        "hessian": (jacobian.T * (weights * curvature)) @ jacobian + second,
        "mass": jnp.abs(jacobian).T @ (weights * jnp.abs(psi)),
        "scale": jnp.sqrt((jacobian * jacobian).T @ (weights * irls)),
        "largest": jnp.max(jnp.where(weights > 0, jnp.abs(r), 0.0)),
    }


def _begin(residuals: Residuals, lane: Any, data: Any) -> Any:
    """The first delta of a lane; everything else is evaluated by its first step."""
    import jax.numpy as jnp

    r = residuals(lane["start"], data["variables"], lane["observed"])
    size = jnp.where(lane["weights"] > 0, jnp.abs(r), 0.0)
    mean = jnp.sum(lane["weights"] * size) / jnp.sum(lane["weights"])
    wide = jnp.where(data["warm"], mean, 2.0 * jnp.max(size))
    return jnp.maximum(data["delta"], jnp.where(jnp.isfinite(wide), wide, 1e3))


def _blank(starts: Array, deltas: Array) -> dict[str, Array]:
    """States before the first evaluation, [R, ...]."""
    count, p = starts.shape
    flat = {k: np.zeros(count) for k in ("value", "largest")}
    wide = {k: np.zeros((count, p)) for k in ("gradient", "mass", "scale")}
    counters = {k: np.zeros(count, np.int32) for k in ("steps", "stage", "refused")}
    flags = {k: np.zeros(count, bool) for k in ("ok", "done")}
    return {
        **flat, **wide, **counters, **flags, "hessian": np.zeros((count, p, p)),
        "fresh": np.ones(count, bool), "vector": starts.copy(), "delta": deltas,
        "damping": np.full(count, 1e-2),
    }  # fmt: skip


def _newton_step(state: Any, lane: Any, data: Any) -> tuple[Any, Any, Any]:
    """(trial vector, expected decrease of an undamped step, scaled gradient) within the box."""
    import jax.numpy as jnp

    vector, gradient = state["vector"], state["gradient"]
    low, high = data["low"], data["high"]
    stuck = ((vector <= low) & (gradient > 0)) | ((vector >= high) & (gradient < 0))
    moves = lane["free"] & ~stuck
    scale = jnp.where(moves & (state["scale"] > 0), state["scale"], 1.0)
    g = jnp.where(moves, gradient, 0.0) / scale
    both = moves[:, None] & moves[None, :]
    h = jnp.where(both, state["hessian"] / (scale[:, None] * scale[None, :]), 0.0)
    h = h + jnp.diag(jnp.where(moves, 0.0, 1.0))
    finite = jnp.all(jnp.isfinite(h)) & jnp.all(jnp.isfinite(g))
    h = jnp.where(finite, h, jnp.eye(len(g)))
    eigenvalues, basis = jnp.linalg.eigh(h)
    size = jnp.maximum(jnp.abs(eigenvalues), 1e-14)
    along = basis.T @ jnp.where(finite, g, 0.0)
    step = -(basis @ (along / (size + state["damping"]))) / scale
    trial = jnp.clip(vector + jnp.where(moves, step, 0.0), low, high)
    mass = jnp.where(state["mass"] > 0, state["mass"], 1.0)
    scaled = jnp.max(jnp.where(moves, jnp.abs(gradient) / mass, 0.0))
    return trial, 0.5 * jnp.sum(along * along / size), scaled


def _advance(residuals: Residuals, state: Any, lane: Any, data: Any) -> Any:
    """One evaluation of one lane: a damped step, or the same point under a narrower delta."""
    import jax
    import jax.numpy as jnp

    trial, decrease, scaled = _newton_step(state, lane, data)
    final = state["delta"] <= data["delta"] * (1 + 1e-9)
    value = state["value"]
    exact = (state["largest"] < 1e-14) | (scaled < GRADIENT_TOLERANCE)
    exact |= decrease <= 1e-18 * jnp.abs(value)
    exact |= (state["refused"] > 0) & (decrease <= 1e-13 * jnp.abs(value))
    exact &= ~state["fresh"]
    stalled = state["damping"] > 1e10
    smooth = residuals.smooth
    loose, longest = (SMOOTH_LOOSE, SMOOTH_STAGE) if smooth else (LOOSE, STAGE)
    narrow = ~final & ((scaled < loose) | exact | stalled | (state["stage"] >= longest))
    narrow &= ~state["fresh"]
    factor = SMOOTH_NARROW if smooth else NARROW
    delta = jnp.where(narrow, jnp.maximum(factor * state["delta"], data["delta"]), state["delta"])
    narrow |= state["fresh"]  # the first step only evaluates
    new = _evaluate(residuals, lane, data, jnp.where(narrow, state["vector"], trial), delta)
    accept = (new["value"] <= value + 1e-15 * jnp.abs(value)) & jnp.isfinite(new["value"])
    accept &= jnp.all(jnp.isfinite(new["gradient"])) & jnp.all(jnp.isfinite(new["hessian"]))
    kept = jax.tree.map(
        lambda a, b: jnp.where(accept | narrow, a, b), new, {k: state[k] for k in new}
    )
    smaller = jnp.maximum(0.2 * state["damping"], 1e-14)
    damping = jnp.where(accept, smaller, jnp.maximum(8 * state["damping"], 1e-8))
    return {
        **kept,
        "vector": jnp.where(accept & ~narrow, trial, state["vector"]),
        "delta": delta,
        "damping": jnp.where(narrow, jnp.where(state["fresh"], 1e-2, 1e-3), damping),
        "stage": jnp.where(narrow, 0, state["stage"] + 1).astype(jnp.int32),
        "refused": jnp.where(accept | narrow, 0, state["refused"] + 1).astype(jnp.int32),
        "steps": state["steps"] + 1,
        "fresh": jnp.zeros((), bool),
        "ok": final & exact,
        "done": final & (exact | stalled),
    }


@functools.lru_cache(maxsize=64)
def _programs(
    law: Law, slots: tuple[int, ...], kinds: tuple[str, ...], space: str, smooth: bool
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Jitted (begin, round) over a chunk of lanes; compiled once per shape."""
    import jax
    import jax.numpy as jnp

    residuals = Residuals(residual_function(law, slots, kinds, space), smooth)

    def begin(lanes: Any, data: Any) -> Any:
        return jax.vmap(lambda lane: _begin(residuals, lane, data))(lanes)

    def advance(states: Any, lanes: Any, data: Any) -> Any:
        def one(state: Any, lane: Any) -> Any:
            following = _advance(residuals, state, lane, data)
            # A lane that is done keeps the point at which it was judged.
            judged = {**state, "done": following["done"], "ok": following["ok"]}
            return jax.tree.map(lambda a, b: jnp.where(following["done"], a, b), judged, following)

        body = jax.vmap(one)

        def going(carry: Any) -> Any:
            return (carry[0] < ROUND) & ~jnp.all(carry[1]["done"])

        first = (jnp.zeros((), jnp.int32), states)
        return jax.lax.while_loop(going, lambda c: (c[0] + 1, body(c[1], lanes)), first)[1]

    return jax.jit(begin), jax.jit(advance)


def chunk_size(points: int) -> int:
    """Lanes per call: few enough to stay in cache and in memory."""
    limit = 32 if platform() == "cpu" else 4096
    return max(1, min(limit, 2_000_000 // max(points, 1)))


def solve(
    problem: Problem,
    starts: Array,
    *,
    weights: Array | None = None,
    observed: Array | None = None,
    free: Array | None = None,
    warm: bool = False,
    max_steps: int = 300,
) -> Solution:
    """Minimise from every row of `starts`, shape [R, p].

    `weights` and `observed` (g of the target), shape [R, n], and `free`, shape [R, p], default to
    the problem's own for every lane. `warm` starts near the answer: delta begins at the mean
    residual instead of twice the largest.
    """
    count = len(starts)
    starts = np.clip(np.asarray(starts, np.float64), problem.low, problem.high)
    default, points = problem.linked_target(), bucket(problem.points)
    whole = {
        "start": starts,
        "weights": padded(weights if weights is not None else problem.weights, points, 0.0),
        "observed": padded(observed if observed is not None else default, points),
        "free": free if free is not None else problem.free,
    }
    data = {
        "variables": {k: padded(v, points) for k, v in problem.variables.items()},
        "over": np.float64(problem.loss.over),
        "delta": np.float64(problem.loss.threshold(problem.spread())),
        "low": problem.low,
        "high": problem.high,
        "warm": np.bool_(warm),
    }
    begin, advance = _programs(
        problem.law, problem.slots, problem.kinds, problem.loss.space, problem.loss.kind == "l1"
    )
    size = chunk_size(points)

    def gather(rows: Array) -> Any:
        filled = np.resize(rows, size)
        lanes = {}
        for key, value in whole.items():
            shared = value.ndim == 1
            lanes[key] = np.broadcast_to(value, (size, *value.shape)) if shared else value[filled]
        return filled, lanes

    def start_chunk(rows: Array) -> Any:
        _, lanes = gather(rows)
        return np.asarray(begin(lanes, data))[: len(rows)]

    def advance_chunk(rows: Array) -> Any:
        filled, lanes = gather(rows)
        state = advance({k: v[filled] for k, v in states.items()}, lanes, data)
        return {k: np.asarray(v)[: len(rows)] for k, v in state.items()}

    def chunks(rows: Array) -> list[Array]:
        return [rows[i : i + size] for i in range(0, len(rows), size)]

    states = _blank(starts, np.concatenate(parallel(start_chunk, chunks(np.arange(count)))))
    pending = np.arange(count)
    while len(pending):
        work = chunks(pending)
        for rows, part in zip(work, parallel(advance_chunk, work), strict=True):
            for key, value in part.items():
                states[key][rows] = value
        pending = pending[~states["done"][pending] & (states["steps"][pending] < max_steps)]
    return _collect(problem, states, data, free)


def _collect(problem: Problem, states: Any, data: Any, free: Array | None) -> Solution:
    """Read the end states; objectives in the units of `losses.objective` before reduction."""
    vectors, gradient = states["vector"], states["gradient"]
    moves = np.broadcast_to(problem.free if free is None else free, vectors.shape)
    moves = moves & ~((vectors <= problem.low) & (gradient > 0))
    moves = moves & ~((vectors >= problem.high) & (gradient < 0))
    mass = np.where(states["mass"] > 0, states["mass"], 1.0)
    scaled = np.max(np.where(moves, np.abs(gradient) / mass, 0.0), axis=1)
    scale = 1.0 if problem.loss.kind == "l1" else min(float(data["delta"]), 1.0)
    narrowed = states["delta"] <= data["delta"] * (1 + 1e-9)
    values = np.where(narrowed, states["value"] * scale, np.inf)
    return Solution(vectors, values, scaled, states["steps"], states["ok"])
