"""Batched local minimisation: saddle-free Newton with a continuation in Huber's delta.

One jitted float64 program minimises a chunk of lanes (starts x resamples x profile points) with
exact derivatives. Each lane carries its own damping and its own delta: it begins with a delta so
wide that the loss is least squares, and narrows it to the target as it converges, which is what
makes near-L1 losses tractable from far away. Steps bend with the valley they are in: geodesic
acceleration (Transtrum and Sethna 2012, arXiv 1201.5885), without which a law whose terms trade
off takes many times as many.

Stopping is scale-free: the gradient is compared with the sum of the absolute contributions that
cancel in it, so neither units, nor sum against mean, nor the size of the objective matter.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scaling.laws import progress
from scaling.laws.backend import parallel, platform
from scaling.laws.law import Law
from scaling.laws.losses import derivatives, rho
from scaling.laws.problem import Array, Problem, Residuals, bucket, padded, residual_function

GRADIENT_TOLERANCE = 1e-10
RACE = 40
BEND = 0.75  # the longest acceleration of a step, in its lengths (the paper's alpha)
PAUSES = (15, 25, RACE, 60, 100, 160, 300, 600)  # steps after which lanes that are done leave

# One lane's start, weights, observations and free slots; what it is at; what all lanes share, the
# mapping of variables among it.
Lane = Mapping[str, jax.Array]
State = dict[str, jax.Array]
Data = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Continuation:
    """How delta narrows: by `factor`, once the scaled gradient is below `loose` or after `longest`
    steps."""

    factor: float
    loose: float
    longest: int


HUBER = Continuation(0.25, 1e-2, 8)
# Smoothed L1 (pseudo-Huber): Newton's basin shrinks with delta, so each stage must be converged.
SMOOTH = Continuation(0.1, 1e-6, 30)


@dataclasses.dataclass(frozen=True)
class Solution:
    """End points, one a lane: vectors [R, p] (and where they began), scaled gradients, flags [R]."""

    starts: Array
    vectors: Array
    values: Array
    gradients: Array
    iterations: Array
    converged: Array


@dataclasses.dataclass(frozen=True)
class _Objective:
    """The traced objective of one lane; `smooth` says that the loss is smoothed L1."""

    residuals: Residuals
    smooth: bool
    how: Continuation

    def of(self, lane: Lane, data: Data) -> Callable[[jax.Array], jax.Array]:
        """The lane's residuals, [n], of a vector."""
        return lambda v: self.residuals(v, data["variables"], lane["observed"])

    def bending(self, lane: Lane, data: Data, state: State, step: jax.Array) -> jax.Array:
        """What the residuals' second derivative along `step` adds to the gradient, [p]."""
        residuals = self.of(lane, data)
        r, back = jax.vjp(residuals, state["vector"])
        _, curvature, _ = derivatives(r, state["delta"], data["over"], self.smooth)

        def along(v: jax.Array) -> jax.Array:
            return jax.jvp(residuals, (v,), (step,))[1]

        second = jax.jvp(along, (state["vector"],), (step,))[1]
        return back(lane["weights"] * curvature * second)[0]

    def __call__(self, lane: Lane, data: Data, vector: jax.Array, delta: jax.Array) -> State:
        """Value, gradient, Hessian, cancelling gradient mass and Gauss-Newton scale."""
        weights, residuals = lane["weights"], self.of(lane, data)

        def pulled(v: jax.Array) -> tuple[jax.Array, jax.Array]:
            """The residuals and, with psi held, the gradient: one trace of the law for it all."""
            r, back = jax.vjp(residuals, v)
            psi, _, _ = derivatives(r, delta, data["over"], self.smooth)
            return r, back(jax.lax.stop_gradient(weights * psi))[0]

        (r, gradient), tangent = jax.linearize(pulled, vector)
        # One direction at a time: mapped all at once, XLA evaluates the law anew in each of them.
        rows, second = jax.lax.map(tangent, jnp.eye(len(vector)))
        jacobian = rows.T
        psi, curvature, irls = derivatives(r, delta, data["over"], self.smooth)
        return {
            "value": jnp.sum(weights * rho(r, delta, data["over"], self.smooth)),
            "gradient": gradient,
            "hessian": (jacobian.T * (weights * curvature)) @ jacobian + second,
            "mass": jnp.abs(jacobian).T @ (weights * jnp.abs(psi)),
            "scale": jnp.sqrt((jacobian * jacobian).T @ (weights * irls)),
            "largest": jnp.max(jnp.where(weights > 0, jnp.abs(r), 0.0)),
        }


def _begin(objective: _Objective, lane: Lane, data: Data) -> State:
    """The state of a lane before its first evaluation, at the widest delta."""
    vector, weights = lane["start"], lane["weights"]
    size = jnp.abs(objective.of(lane, data)(vector))
    mean = jnp.sum(weights * size) / jnp.sum(weights)
    wide = jnp.where(data["warm"], mean, 2.0 * jnp.max(jnp.where(weights > 0, size, 0.0)))
    wide = jnp.maximum(data["delta"], jnp.where(jnp.isfinite(wide), wide, 1e3))
    flat = {k: jnp.zeros(()) for k in ("value", "largest", "scaled")}
    each = {k: jnp.zeros_like(vector) for k in ("gradient", "mass", "scale")}
    counters = {k: jnp.zeros((), jnp.int32) for k in ("steps", "stage", "refused")}
    return {
        **flat,
        **each,
        **counters,
        "hessian": jnp.zeros((len(vector), len(vector))),
        "vector": vector,
        "trial": vector,
        "damping": jnp.full((), 1e-2),
        # The first step narrows to the widest delta, which only evaluates.
        "delta": wide / objective.how.factor,
        "narrow": jnp.ones((), bool),
        "ok": jnp.zeros((), bool),
        "done": jnp.zeros((), bool),
    }


def _newton_step(
    objective: _Objective, state: State, lane: Lane, data: Data
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(trial vector, expected decrease of an undamped step, scaled gradient) within the box."""
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

    def solved(rotated: jax.Array) -> jax.Array:
        """The damped step against a scaled gradient in the eigenbasis."""
        return jnp.where(moves, -(basis @ (rotated / (size + state["damping"]))) / scale, 0.0)

    step = solved(along)
    bending = jnp.where(moves, objective.bending(lane, data, state, step), 0.0) / scale
    acceleration = solved(basis.T @ bending)
    bend = jnp.linalg.norm(acceleration * scale) / jnp.linalg.norm(step * scale)
    step += jnp.where(bend < BEND, 0.5 * acceleration, 0.0)  # no comparison holds of NaN
    trial = jnp.clip(vector + step, low, high)
    mass = jnp.where(state["mass"] > 0, state["mass"], 1.0)
    scaled = jnp.max(jnp.where(moves, jnp.abs(gradient) / mass, 0.0))
    return trial, 0.5 * jnp.sum(along * along / size), scaled


def _judged(objective: _Objective, state: State, lane: Lane, data: Data) -> State:
    """The state with its next trial, and whether it is done or its delta is to narrow."""
    trial, decrease, scaled = _newton_step(objective, state, lane, data)
    size = jnp.abs(state["value"])
    exact = (state["largest"] < 1e-14) | (scaled < GRADIENT_TOLERANCE)
    exact |= decrease <= data["enough"] * size
    exact |= (state["refused"] > 0) & (decrease <= 1e-13 * size)
    stalled = state["damping"] > 1e10
    final = state["delta"] <= data["delta"] * (1 + 1e-9)
    waited = state["stage"] >= objective.how.longest
    narrow = (scaled < objective.how.loose) | exact | stalled | waited
    judged = {"ok": final & exact, "done": final & (exact | stalled), "narrow": ~final & narrow}
    return {**state, **judged, "trial": trial, "scaled": scaled}


def _advance(objective: _Objective, state: State, lane: Lane, data: Data) -> State:
    """One evaluation of one lane: a damped step, or the same point under a narrower delta."""
    narrow, value, damping = state["narrow"], state["value"], state["damping"]
    narrower = jnp.maximum(objective.how.factor * state["delta"], data["delta"])
    delta = jnp.where(narrow, narrower, state["delta"])
    point = jnp.where(narrow, state["vector"], state["trial"])
    new = objective(lane, data, point, delta)
    accept = (new["value"] <= value + 1e-15 * jnp.abs(value)) & jnp.isfinite(new["value"])
    accept &= jnp.all(jnp.isfinite(new["gradient"])) & jnp.all(jnp.isfinite(new["hessian"]))
    moved = jnp.where(accept, jnp.maximum(0.2 * damping, 1e-14), jnp.maximum(8 * damping, 1e-8))
    first = jnp.where(state["steps"] > 0, 1e-3, 1e-2)
    taken = accept | narrow
    new["vector"] = point
    following = {
        **state,
        **{k: jnp.where(taken, v, state[k]) for k, v in new.items()},
        "delta": delta,
        "damping": jnp.where(narrow, first, moved),
        "stage": jnp.where(narrow, 0, state["stage"] + 1),
        "refused": jnp.where(taken, 0, state["refused"] + 1),
        "steps": state["steps"] + 1,
    }
    return _judged(objective, following, lane, data)


@functools.lru_cache(maxsize=64)
def _programs(
    law: Law, slots: tuple[int, ...], kinds: tuple[str, ...], space: str, smooth: bool
) -> tuple[Callable[[Lane, Data], State], Callable[[State, Lane, Data, np.int32], State]]:
    """Jitted `(lanes, data) -> states` before the first step, and `(states, lanes, data, limit) ->
    states` done or after `limit` steps, of a chunk; compiled once per shape."""
    residuals = residual_function(law, slots, kinds, space)
    objective = _Objective(residuals, smooth, SMOOTH if smooth else HUBER)

    def minimise(state: State, lane: Lane, data: Data, limit: jax.Array) -> State:
        return jax.lax.while_loop(
            lambda state: ~state["done"] & (state["steps"] < limit),
            lambda state: _advance(objective, state, lane, data),
            state,
        )

    begin = functools.partial(_begin, objective)
    return (
        jax.jit(jax.vmap(begin, in_axes=(0, None))),
        jax.jit(jax.vmap(minimise, in_axes=(0, 0, None, None))),
    )


def chunk_size(points: int) -> int:
    """Lanes per call: few enough to stay in cache and in memory, and to wait for few slow ones."""
    limit, most = (16, 16_384) if platform() == "cpu" else (4096, 2_000_000)
    return max(1, min(limit, most // max(points, 1)))


def solve(
    problem: Problem,
    starts: Array,
    *,
    weights: Array | None = None,
    observed: Array | None = None,
    free: Array | None = None,
    warm: bool = False,
    max_steps: int = 300,
    enough: float = 1e-18,
    survivors: int | None = None,
) -> Solution:
    """Minimise from every row of `starts`, shape [R, p].

    `weights` and `observed` (g of the target), shape [R, n], and `free`, shape [R, p], default to
    the problem's own for every lane. `warm` starts near the answer: delta begins at the mean
    residual instead of twice the largest. A lane is done once its objective can fall by no more
    than the share `enough`. After `RACE` steps only the best `survivors` lanes go on.
    """
    default, points = problem.linked_target(), bucket(problem.points)
    lanes = {
        "start": np.clip(np.asarray(starts, np.float64), problem.low, problem.high),
        "weights": padded(weights if weights is not None else problem.weights, points, 0.0),
        "observed": padded(observed if observed is not None else default, points),
        "free": free if free is not None else problem.free,
    }
    lanes = {k: np.broadcast_to(v, (len(starts), v.shape[-1])) for k, v in lanes.items()}
    delta = problem.loss.threshold(problem.spread())
    data = {
        "variables": {k: padded(v, points) for k, v in problem.variables.items()},
        "over": np.float64(problem.loss.over),
        "delta": np.float64(delta),
        "low": problem.low,
        "high": problem.high,
        "warm": np.bool_(warm),
        "enough": np.float64(enough),
    }
    smooth = problem.loss.kind == "l1"
    form = (problem.law, problem.slots, problem.kinds, problem.loss.space, smooth)
    end = _run(_programs(*form), lanes, data, chunk_size(points), max_steps, survivors)
    # Objectives in the units of `losses.objective` before reduction.
    scale = 1.0 if smooth else min(delta, 1.0)
    values = np.where(end["delta"] <= delta * (1 + 1e-9), end["value"] * scale, np.inf)
    return Solution(starts, end["vector"], values, end["scaled"], end["steps"], end["ok"])


def _run(
    programs: tuple[Callable[..., State], Callable[..., State]],
    lanes: Mapping[str, Array],
    data: Data,
    size: int,
    max_steps: int,
    survivors: int | None,
) -> dict[str, Array]:
    """End states of all lanes, in chunks of `size`.

    A chunk takes as many steps as its slowest lane. So lanes stop together after each of a few
    counts of steps, those that are done leave, and the others close ranks.
    """
    begin, minimise = programs
    ends: dict[str, Array] = {}

    def run(rows: Array, limit: int) -> tuple[Array, dict[str, Array]]:
        filled = np.resize(rows, size)
        chunk = {k: v[filled] for k, v in lanes.items()}
        # Of numpy at first too: arrays of the device would compile the program once more.
        state = {k: v[filled] for k, v in ends.items()} or jax.device_get(begin(chunk, data))
        state = minimise(state, chunk, data, np.int32(limit))
        arrays = {k: np.asarray(v)[: len(rows)] for k, v in state.items()}  # waits for the device
        progress.tick(len(rows) if limit == max_steps else int(arrays["done"].sum()))
        return rows, arrays

    left = np.arange(len(lanes["start"]))
    progress.expect(len(left))
    for limit in [n for n in PAUSES if n < max_steps] + [max_steps]:
        chunks = [left[i : i + size] for i in range(0, len(left), size)]
        parts = parallel(functools.partial(run, limit=limit), chunks)
        if not ends:
            ends = {k: np.concatenate([part[k] for _, part in parts]) for k in parts[0][1]}
        else:
            for rows, part in parts:
                for k, v in part.items():
                    ends[k][rows] = v
        if survivors and limit == RACE:
            final = ends["delta"] <= data["delta"] * (1 + 1e-9)
            left = np.argsort(np.where(final, ends["value"], np.inf), kind="stable")[:survivors]
        left = left[~ends["done"][left]]
        if not len(left):
            break
    return ends
