"""What a law is: variables with units, parameters with bounds, a formula, published constants.

A law is data. Everything else in `scaling.laws` (search, robust fit, bootstrap, profiles,
allocation, figures, report) works from this declaration alone, so a new law is a few lines:

    MINE = Law(
        name="mine",
        equation="L = E + A / N^alpha",
        variables=(PARAMS,),
        parameters=(offset("E"), coefficient("A"), exponent("alpha")),
        formula=lambda p, v: p.E + p.A * power(v.params, -p.alpha),
        linear=("E", "A"),
    )

`formula(p, v)` receives two namespaces (parameters: scalars; variables: float64 arrays, shape
[points]) and returns predictions, shape [points]. It is traced by JAX: use operators, `power` and
`jax.numpy`. `linear` names parameters in which the formula is affine; they are then solved exactly
inside the global search, so that it runs over the others (exponents) only.
"""

import dataclasses
import functools
import math
import types
from collections.abc import Callable, Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from scaling.laws.backend import x64

Namespace = types.SimpleNamespace
Columns = Mapping[str, ArrayLike]
Formula = Callable[[Namespace, Namespace], jax.Array]
Kind = Literal["log", "real"]
Space = Literal["log", "raw", "log1p"]


class LawError(ValueError):
    """A law, a table or an option that cannot be used; the message says what, where and the remedy."""


@dataclasses.dataclass(frozen=True)
class Variable:
    """One input or target column: `name` is the column, `symbol` is for figures and equations."""

    name: str
    symbol: str
    unit: str
    positive: bool = True


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One parameter of a law.

    `kind` "log" searches in ln(value) (strictly positive, scale-free); "real" searches in the value.
    `low` and `high` bound the value; `start` is the range in which the global search looks (it may
    leave it, never the bounds). `role` decides how the parameter is described: exponents are what
    papers compare, coefficients depend on units.
    """

    name: str
    kind: Kind
    start: tuple[float, float]
    low: float = float("-inf")
    high: float = float("inf")
    role: Literal["coefficient", "exponent", "offset", "shape"] = "shape"

    def __post_init__(self) -> None:
        if not self.low <= self.start[0] <= self.start[1] <= self.high:
            raise LawError(
                f"parameter {self.name}: start {self.start} is not inside "
                f"[{self.low}, {self.high}]; give start=(low, high) within the bounds"
            )
        if self.kind == "log" and self.start[0] <= 0:
            raise LawError(f"parameter {self.name}: a log parameter needs a start range above 0")


def coefficient(name: str, start: tuple[float, float] = (1e-2, 1e8)) -> Parameter:
    """A positive multiplier, searched in its logarithm."""
    return Parameter(name, "log", start, low=0.0, role="coefficient")


def exponent(
    name: str, start: tuple[float, float] = (0.02, 1.5), low: float = 0.0, high: float = 10.0
) -> Parameter:
    """An exponent, non-negative unless `low` says otherwise."""
    return Parameter(name, "real", start, low=low, high=high, role="exponent")


def offset(
    name: str, start: tuple[float, float] = (0.0, 5.0), low: float = 0.0, high: float = float("inf")
) -> Parameter:
    """An additive constant (irreducible loss): non-negative unless `low` says otherwise.

    Non-negative ones are searched in their logarithm; one that tends to zero is reported.
    """
    if low >= 0:
        span = (max(start[0], 1e-3 * start[1]), start[1])
        return Parameter(name, "log", span, low=low, high=high, role="offset")
    return Parameter(name, "real", start, low=low, high=high, role="offset")


def shape(
    name: str,
    start: tuple[float, float],
    low: float | None = None,
    high: float = float("inf"),
    kind: Kind = "log",
) -> Parameter:
    """Any other parameter (a break point, a saturation constant)."""
    floor = (0.0 if kind == "log" else float("-inf")) if low is None else low
    return Parameter(name, kind, start, low=floor, high=high, role="shape")


def each(
    declare: Callable[..., Parameter], *names: str, **options: object
) -> tuple[Parameter, ...]:
    """Several parameters declared alike: `each(coefficient, "A", "B", start=(1.0, 1e6))`."""
    return tuple(declare(name, **options) for name in names)


@dataclasses.dataclass(frozen=True)
class Published:
    """Constants that a paper printed, with the source and how far they can be trusted."""

    label: str
    values: Mapping[str, float]
    source: str
    note: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Law:
    """A declared law; see the module docstring. Compared and cached by identity."""

    name: str
    equation: str
    variables: tuple[Variable, ...]
    parameters: tuple[Parameter, ...]
    formula: Formula
    linear: tuple[str, ...] = ()
    target: Variable = Variable("loss", "L", "nats per token")
    space: Space = "log"
    derived: Mapping[str, Callable[[Namespace], float]] = dataclasses.field(default_factory=dict)
    published: tuple[Published, ...] = ()
    source: str = ""
    tied: Mapping[str, str] = dataclasses.field(default_factory=dict)
    # Of a combination (`combined.py`), whose formula is their median.
    members: tuple["Law", ...] = ()

    def __post_init__(self) -> None:
        names = [p.name for p in self.parameters]
        if len(set(names)) != len(names):
            raise LawError(f"law {self.name}: a parameter is declared twice in {names}")
        for used in (*self.linear, *self.tied, *self.tied.values()):
            if used not in names:
                raise LawError(f"law {self.name}: {used!r} is not one of its parameters {names}")
        for constants in self.published:
            unknown = set(constants.values) - set(names)
            if unknown:
                raise LawError(f"law {self.name}: published {sorted(unknown)} are not parameters")

    @property
    def names(self) -> tuple[str, ...]:
        """Parameter names in the order of declaration."""
        return tuple(p.name for p in self.parameters)

    def parameter(self, name: str) -> Parameter:
        """The declaration of one parameter."""
        for parameter in self.parameters:
            if parameter.name == name:
                return parameter
        raise LawError(f"law {self.name} has no parameter {name!r}; it has {list(self.names)}")

    def evaluate(self, parameters: Mapping[str, float], variables: Columns) -> np.ndarray:
        """Predictions at `variables` (float64 numpy, any broadcastable shapes) for one law."""
        flat, common = self._points(variables)
        with x64():
            values = self.formula(_namespace(parameters), _namespace(flat))
            result = np.asarray(values, dtype=np.float64)
        return np.broadcast_to(result, flat["size"].shape).reshape(common)

    def evaluate_draws(self, draws: Columns, variables: Columns) -> np.ndarray:
        """Predictions, shape [draws, *points], for parameters given as arrays of shape [draws]."""
        flat, common = self._points(variables)
        with x64():
            points = _namespace(flat)
            values = jax.vmap(lambda p: self.formula(Namespace(**p), points) + 0.0 * points.size)(
                vars(_namespace(draws))
            )
            result = np.asarray(values, dtype=np.float64)
        return result.reshape(len(result), *common)

    def _points(self, variables: Columns) -> tuple[dict[str, np.ndarray], tuple[int, ...]]:
        arrays = {k: np.asarray(v, dtype=np.float64) for k, v in variables.items()}
        missing = [v.name for v in self.variables if v.name not in arrays]
        if missing:
            raise LawError(f"law {self.name} needs the variables {missing}; got {sorted(arrays)}")
        common = np.broadcast_shapes(*(a.shape for a in arrays.values()))
        flat = {k: np.broadcast_to(a, common).reshape(-1) for k, a in arrays.items()}
        flat["size"] = np.ones(int(np.prod(common, dtype=np.int64)))
        return flat, common

    def constants(self, label: str | None = None) -> dict[str, float]:
        """Published constants by label (the first if None)."""
        for entry in self.published:
            if label is None or entry.label == label:
                return dict(entry.values)
        known = [entry.label for entry in self.published]
        raise LawError(f"law {self.name} has no published constants {label!r}; it has {known}")


def _namespace(values: Columns) -> Namespace:
    return Namespace(**{k: jnp.asarray(v, dtype=jnp.float64) for k, v in values.items()})


def power(base: jax.Array, exponent_: jax.Array) -> jax.Array:
    """`base ** exponent` for positive bases: exp(exponent ln base), so ln of data is hoisted."""
    return jnp.exp(exponent_ * jnp.log(base))


def bent(x: jax.Array, exponent_: jax.Array) -> jax.Array:
    """(exp(exponent x) - 1) / exponent, which is x where the exponent is 0 (Box and Cox 1964).

    Its derivatives hold near 0 too, where those of the closed form are differences of equal numbers:
    a fit whose exponent goes to 0 never converged.
    """
    return x * _moment(0, exponent_ * x)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _moment(k: int, z: jax.Array) -> jax.Array:
    """The integral of t^k exp(t z) from 0 to 1: derivative k of (exp(z) - 1) / z."""
    small = jnp.abs(z) < 0.1
    safe = jnp.where(small, 1.0, z)
    closed = jnp.expm1(safe) / safe
    for i in range(1, k + 1):  # by parts
        closed = (jnp.exp(safe) - i * closed) / safe
    series = jnp.zeros_like(z)
    for j in range(10, -1, -1):  # eleven terms, by Horner's rule: to 1e-19 at 0.1
        series = series * z + 1.0 / (math.factorial(j) * (j + k + 1))
    return jnp.where(small, series, closed)


@_moment.defjvp
def _moment_slope(
    k: int, primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    (z,), (dz,) = primals, tangents
    return _moment(k, z), _moment(k + 1, z) * dz


# Variables that many laws share; a law may declare its own.
PARAMS = Variable("params", "N", "parameters")
TOKENS = Variable("tokens", "D", "tokens")
FLOPS = Variable("flops", "C", "FLOP")
STEPS = Variable("steps", "S", "optimizer steps")
UNIQUE_TOKENS = Variable("unique_tokens", "U", "tokens")
EXPERTS = Variable("experts", "E", "experts")
LOSS = Variable("loss", "L", "nats per token")
ERROR = Variable("error", "Err", "fraction")
