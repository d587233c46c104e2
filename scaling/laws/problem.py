"""From a law and arrays to a search problem: vector layout, bounds, ties, fixed values, units.

The search vector holds one slot per independent parameter, log-kind ones as ln(value). Tied
parameters share a slot; fixed ones keep theirs and are masked, so that profiles and fixed fits
reuse one compiled program.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from scaling.laws.law import Law, LawError, Namespace
from scaling.laws.losses import Loss, link

Array = np.ndarray
LOG_LIMIT = 230.0  # |ln value| that still leaves room for products in float64


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """Points and search vector: arrays are float64, [n] over points and [p] over slots."""

    law: Law
    loss: Loss
    variables: Mapping[str, Array]
    target: Array
    weights: Array
    clusters: Array
    names: tuple[str, ...]
    slots: tuple[int, ...]
    kinds: tuple[str, ...]
    low: Array
    high: Array
    start: Array
    free: Array
    base: Array

    @property
    def points(self) -> int:
        """Number of points."""
        return len(self.target)

    @property
    def free_names(self) -> tuple[str, ...]:
        """Names of the slots that are searched."""
        return tuple(n for n, f in zip(self.names, self.free, strict=True) if f)

    @property
    def freedom(self) -> int:
        """Number of free parameters."""
        return int(self.free.sum())

    def natural(self, vector: Array) -> dict[str, Array]:
        """Parameters by name from vectors of shape [..., p]; values have shape [...]."""
        vector = np.asarray(vector, dtype=np.float64)
        values: dict[str, Array] = {}
        for name, slot in zip(self.law.names, self.slots, strict=True):
            raw = vector[..., slot]
            values[name] = np.exp(raw) if self.kinds[slot] == "log" else raw
        return values

    def vector(self, values: Mapping[str, float]) -> Array:
        """Search vector, shape [p], for parameters by name (missing ones take the base value)."""
        result = self.base.copy()
        for i, name in enumerate(self.names):
            if name in values:
                result[i] = to_internal(self.kinds[i], float(values[name]), name)
        return result

    def residuals(self, vector: Array) -> Array:
        """Residuals g(prediction) - g(target), shape [n], of one vector, shape [p]."""
        from scaling.laws.backend import x64

        with x64():
            import jax.numpy as jnp

            function = residual_function(self.law, self.slots, self.kinds, self.loss.space)
            observed = link(self.loss.space, jnp.asarray(self.target))
            return np.asarray(function(jnp.asarray(vector), dict(self.variables), observed))

    def jacobian(self, vector: Array) -> Array:
        """Derivatives of the residuals by slot, shape [n, p]."""
        import jax

        from scaling.laws.backend import x64

        with x64():
            import jax.numpy as jnp

            function = residual_function(self.law, self.slots, self.kinds, self.loss.space)
            observed = link(self.loss.space, jnp.asarray(self.target))
            arrays = {k: jnp.asarray(v) for k, v in self.variables.items()}
            return np.asarray(jax.jacfwd(function)(jnp.asarray(vector), arrays, observed))

    def linked_target(self) -> Array:
        """g(target), shape [n]."""
        from scaling.laws.backend import x64

        with x64():
            import jax.numpy as jnp

            return np.asarray(link(self.loss.space, jnp.asarray(self.target)))

    def spread(self) -> float:
        """Standard deviation of g(target), the natural scale of residuals."""
        return float(np.std(self.linked_target()))

    def replace(self, **changes: Any) -> Problem:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)


@functools.lru_cache(maxsize=256)
def residual_function(
    law: Law, slots: tuple[int, ...], kinds: tuple[str, ...], space: str
) -> Callable[[Any, Any, Any], Any]:
    """`(vector [p], variables {name: [n]}, observed g(y) [n]) -> residuals [n]`, traceable."""

    def residuals(vector: Any, variables: Mapping[str, Any], observed: Any) -> Any:
        import jax.numpy as jnp

        values = {}
        for name, slot in zip(law.names, slots, strict=True):
            values[name] = jnp.exp(vector[slot]) if kinds[slot] == "log" else vector[slot]
        predicted = law.formula(Namespace(**values), Namespace(**variables))
        return link(space, predicted) + jnp.zeros_like(observed) - observed

    return residuals


def bucket(count: int) -> int:
    """The padded number of points: few distinct sizes, so that programs are compiled once."""
    size = 16
    while size < count:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size


def padded(values: Array, size: int, fill: float | None = None) -> Array:
    """The last axis extended to `size` by `fill`, or by its first element."""
    extra = size - values.shape[-1]
    if extra <= 0:
        return values
    tail = values[..., :1] if fill is None else np.full((*values.shape[:-1], 1), fill)
    return np.concatenate([values, np.repeat(tail, extra, axis=-1)], axis=-1)


def to_internal(kind: str, value: float, name: str = "") -> float:
    """A value as it stands in the search vector."""
    if kind == "real":
        return value
    if value < 0:
        raise LawError(f"parameter {name} = {value} must be positive")
    return float(np.clip(np.log(value), -LOG_LIMIT, LOG_LIMIT)) if value > 0 else -LOG_LIMIT


def build_problem(
    law: Law,
    variables: Mapping[str, Array],
    target: Array,
    loss: Loss,
    weights: Array | None = None,
    clusters: Array | None = None,
    fix: Mapping[str, float] | None = None,
    tie: Mapping[str, str] | None = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
) -> Problem:
    """Lay out the search vector. Raises LawError for names, ties, bounds or values that clash."""
    fix, bounds = dict(fix or {}), dict(bounds or {})
    ties = {**law.tied, **(tie or {})}
    for name in (*fix, *bounds, *ties, *ties.values()):
        law.parameter(name)
    for name, other in ties.items():
        if name in fix or other in ties:
            raise LawError(f"{name} is tied to {other}: fix or tie the leading parameter only")
    names = tuple(n for n in law.names if n not in ties)
    where = {name: i for i, name in enumerate(names)}
    slots = tuple(where[ties.get(n, n)] for n in law.names)
    declared = [law.parameter(n) for n in names]
    low, high, base = (np.zeros(len(names)) for _ in range(3))
    spans = np.zeros((len(names), 2))
    for i, p in enumerate(declared):
        lower, upper = bounds.get(p.name, (p.low, p.high))
        if not (lower < upper and lower >= p.low and upper <= p.high):
            raise LawError(
                f"bounds ({lower}, {upper}) of {p.name} must be ordered and inside the law's "
                f"({p.low}, {p.high})"
            )
        if p.name in fix and not p.low <= fix[p.name] <= p.high:
            raise LawError(f"{p.name} is fixed at {fix[p.name]}, outside ({p.low}, {p.high})")
        span = np.clip(np.array(p.start), lower, upper)
        if span[0] == span[1]:
            span = np.array([lower, upper])
        if p.kind == "log":
            low[i] = np.log(lower) if lower > 0 else -LOG_LIMIT
            high[i] = np.log(upper) if np.isfinite(upper) else LOG_LIMIT
            spans[i] = np.log(np.maximum(span, 1e-100))
        else:
            low[i], high[i], spans[i] = lower, upper, span
        base[i] = spans[i].mean()
        if p.name in fix:
            base[i] = to_internal(p.kind, float(fix[p.name]), p.name)
    n = len(target)
    return Problem(
        law=law,
        loss=loss,
        variables={v.name: np.asarray(variables[v.name], np.float64) for v in law.variables},
        target=np.asarray(target, np.float64),
        weights=np.ones(n) if weights is None else np.asarray(weights, np.float64),
        clusters=np.arange(n) if clusters is None else np.asarray(clusters),
        names=names,
        slots=slots,
        kinds=tuple(p.kind for p in declared),
        low=low,
        high=high,
        start=spans,
        free=np.array([p.name not in fix for p in declared]),
        base=base,
    )
