"""From a law and arrays to a search problem: vector layout, bounds, ties, fixed values, units.

The search vector holds one slot per independent parameter, log-kind ones as ln(value). Tied
parameters share a slot; fixed ones keep theirs and are masked, so that profiles and fixed fits
reuse one compiled program.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from scaling.laws import leaning
from scaling.laws.backend import x64
from scaling.laws.law import Law, LawError, Namespace, Parameter
from scaling.laws.losses import Loss, link

Array = np.ndarray
# (vector [p], variables {name: [n]}, observed g(y) [n]) -> residuals [n]
Residuals = Callable[[jax.Array, Mapping[str, jax.Array], jax.Array], jax.Array]
SMALLEST = 64  # points of a table, padded: compiling costs more than fitting so few
LOG_LIMIT = 230.0  # |ln value| that still leaves room for products in float64


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """Points and search vector: arrays are float64, [n] over points and [p] over slots.

    `weights` hold those that lean on the large runs, compute^lean, see `leaning`.
    """

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
    lean: float = 0.0

    @property
    def compute(self) -> Array | None:
        """Compute of each point, [n], or the size that stands for it."""
        return leaning.compute_of(self.variables)

    @property
    def emphasis(self) -> Array | None:
        """The part of `weights` that leans on the large runs, [n]; None without."""
        return leaning.emphasis(self.compute, self.lean)

    @property
    def effective(self) -> float:
        """How many points of equal weight the leaning leaves; all of them without."""
        return leaning.effective(self.emphasis, self.points)

    def leaning(self, power: float) -> "Problem":
        """The same with weights that lean on the large runs instead of as they do now."""
        emphasis = leaning.emphasis(self.compute, power)
        if power and emphasis is None:
            raise LawError(
                f"law {self.law.name} has no variable that tells large runs from small ones "
                f"(it has {sorted(self.variables)}): leave --lean out"
            )
        plain = self.weights if self.emphasis is None else self.weights / self.emphasis
        weights = plain if emphasis is None else plain * emphasis
        return dataclasses.replace(self, weights=weights, lean=power)

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
        """Number of free parameters; of a combination, that of its richest member."""
        counts, start = [], 0
        for law in self.law.members or (self.law,):
            end = start + len(law.parameters)
            counts.append(int(self.free[list(set(self.slots[start:end]))].sum()))
            start = end
        return max(counts)

    def natural(self, vector: Array) -> dict[str, Array]:
        """Parameters by name from vectors of shape [..., p]; values have shape [...]."""
        raw = np.moveaxis(np.asarray(vector, dtype=np.float64), -1, 0)
        values = [np.exp(x) if k == "log" else x for x, k in zip(raw, self.kinds, strict=True)]
        return {n: values[slot] for n, slot in zip(self.law.names, self.slots, strict=True)}

    def vector(self, values: Mapping[str, float]) -> Array:
        """Search vector, shape [p], for parameters by name (missing ones take the base value)."""
        result = self.base.copy()
        for i, name in enumerate(self.names):
            if name in values:
                result[i] = to_internal(self.kinds[i], float(values[name]), name)
        return result

    def residuals(self, vector: Array) -> Array:
        """Residuals g(prediction) - g(target), shape [n], of one vector, shape [p]."""
        return self._apply(vector, derivatives=False)

    def jacobian(self, vector: Array) -> Array:
        """Derivatives of the residuals by slot, shape [n, p]."""
        return self._apply(vector, derivatives=True)

    def _apply(self, vector: Array, derivatives: bool) -> Array:
        """Compiled once for each padded number of points, as the solver is."""
        program = _program(self.law, self.slots, self.kinds, self.loss.space, derivatives)
        size = bucket(self.points)
        arrays = {k: padded(v, size) for k, v in self.variables.items()}
        with x64():
            end = program(np.asarray(vector), arrays, padded(self.linked_target(), size))
        return np.asarray(end)[: self.points]

    def linked_target(self) -> Array:
        """g(target), shape [n]."""
        return link(self.loss.space, self.target)

    def spread(self) -> float:
        """Standard deviation of g(target), the natural scale of residuals."""
        return float(np.std(self.linked_target()))


@functools.lru_cache(maxsize=256)
def residual_function(
    law: Law, slots: tuple[int, ...], kinds: tuple[str, ...], space: str
) -> Residuals:
    """The residuals of a law as a function that can be traced."""

    def residuals(
        vector: jax.Array, variables: Mapping[str, jax.Array], observed: jax.Array
    ) -> jax.Array:
        natural = [
            jnp.exp(x) if kind == "log" else x for x, kind in zip(vector, kinds, strict=True)
        ]
        values = {name: natural[slot] for name, slot in zip(law.names, slots, strict=True)}
        predicted = law.formula(Namespace(**values), Namespace(**variables))
        return link(space, predicted) + jnp.zeros_like(observed) - observed

    return residuals


@functools.lru_cache(maxsize=64)
def _program(
    law: Law, slots: tuple[int, ...], kinds: tuple[str, ...], space: str, derivatives: bool
) -> Callable[[Array, Mapping[str, Array], Array], jax.Array]:
    """Jitted residuals [n], or their derivatives by slot [n, p]."""
    function = residual_function(law, slots, kinds, space)
    return jax.jit(jax.jacfwd(function) if derivatives else function)


def bucket(count: int) -> int:
    """The padded number of points: few distinct sizes, so that programs are compiled once."""
    return max(SMALLEST, 1 << max(count - 1, 0).bit_length())


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


def _slot(
    parameter: Parameter, bounds: tuple[float, float], fixed: float | None
) -> tuple[float, float, Array, float]:
    """(low, high, start range [2], base value) of one parameter, as in the search vector."""
    name, (lower, upper) = parameter.name, bounds
    if not parameter.low <= lower < upper <= parameter.high:
        raise LawError(
            f"bounds ({lower}, {upper}) of {name} must be ordered and inside the law's "
            f"({parameter.low}, {parameter.high})"
        )
    if fixed is not None and not parameter.low <= fixed <= parameter.high:
        raise LawError(f"{name} is fixed at {fixed}, outside ({parameter.low}, {parameter.high})")
    start = np.clip(np.array(parameter.start), lower, upper)
    if start[0] == start[1]:
        start = np.array([lower, upper])
    if parameter.kind == "log":
        lower = np.log(lower) if lower > 0 else -LOG_LIMIT
        upper = np.log(upper) if np.isfinite(upper) else LOG_LIMIT
        start = np.log(np.maximum(start, 1e-100))
    base = start.mean() if fixed is None else to_internal(parameter.kind, float(fixed), name)
    return lower, upper, start, base


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
    laid = [_slot(p, bounds.get(p.name, (p.low, p.high)), fix.get(p.name)) for p in declared]
    low, high, start, base = (np.array(column) for column in zip(*laid, strict=True))
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
        start=start,
        free=np.array([p.name not in fix for p in declared]),
        base=base,
    )
