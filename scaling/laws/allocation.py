"""Compute-optimal parameters and tokens for a budget, with intervals.

Any law with variables `params` and `tokens` is minimised under

    cost_per_token(N) D + 2 N D_inf = C

where the cost is 6 N, or an exact count, and D_inf tokens will be served (Sardana et al. 2024,
arXiv 2401.00448). Draws of a bootstrap give the intervals: each is optimised by itself.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from scaling.laws.backend import array_module, x64
from scaling.laws.fitting import Result
from scaling.laws.law import Law, LawError, Namespace
from scaling.laws.losses import A
from scaling.laws.problem import Array
from scaling.laws.resample import Draws
from scaling.laws.table import Table

Interval = tuple[float, float]
Scalars = Mapping[str, jax.Array]
GRID, ROUNDS = 65, 7
ODD = 30.0  # flops / (6 params tokens) beyond which a unit is more likely than a convention


@dataclasses.dataclass(frozen=True, eq=False)
class FlopsPerToken:
    """Training FLOP per token as a function of params.

    `log_ratio` holds ln of the ratio to 6 N at the knots `log_params`; outside them that of the
    nearest knot holds. Without knots the cost is 6 N.
    """

    name: str = "6ND"
    log_params: tuple[float, ...] = ()
    log_ratio: tuple[float, ...] = ()

    def per_token(self, params: A) -> A:
        """FLOP per token, for numpy and traced arrays."""
        if not self.log_params:
            return 6.0 * params
        xp = array_module(params)
        knots = (xp.asarray(self.log_params), xp.asarray(self.log_ratio))
        return 6.0 * params * xp.exp(xp.interp(xp.log(params), *knots))

    def spent(self, params: Array, tokens: Array) -> Array:
        """Training FLOP of runs as this cost counts them, [n]."""
        return self.per_token(params) * tokens

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is suspect about the counts of a table: most often their unit."""
        ratio = float(np.exp(np.median(self.log_ratio))) if self.log_ratio else 1.0
        if 1 / ODD < ratio < ODD:
            return ()
        return (
            f"the flops column is {ratio:.3g} times 6 params tokens: is it in FLOP, and params and "
            f"tokens in units? If not, --columns=flops=COLUMN*FACTOR; allocations rest on it",
        )

    @classmethod
    def from_table(cls, table: Table, name: str = "exact") -> "FlopsPerToken":
        """The cost that the table's own `flops` column implies: flops / tokens by params."""
        missing = [n for n in ("params", "tokens", "flops") if n not in table.columns]
        if missing:
            raise LawError(f"{table.source}: exact FLOPs need the columns {missing}")
        n, d, c = (table.columns[k] for k in ("params", "tokens", "flops"))
        good = np.isfinite(n * d * c) & (n > 0) & (d > 0) & (c > 0)
        if not good.any():
            raise LawError(f"{table.source}: no row has params, tokens and flops above 0")
        ratio = np.log(c[good] / (6 * n[good] * d[good]))
        knots, codes = np.unique(np.log(n[good]), return_inverse=True)
        means = np.bincount(codes, ratio) / np.bincount(codes)
        return cls(name, tuple(knots.tolist()), tuple(means.tolist()))


SIX_ND = FlopsPerToken()


@dataclasses.dataclass(frozen=True)
class Optimum:
    """Best split of one budget; intervals are None without draws. `warnings` may be empty."""

    flops: float
    params: float
    tokens: float
    loss: float
    intervals: dict[str, Interval] | None
    outside: float
    warnings: tuple[str, ...]


def optimum(
    result: Result,
    budgets: Sequence[float] | Array,
    draws: Draws | None = None,
    *,
    cost: FlopsPerToken = SIX_ND,
    inference_tokens: float = 0.0,
    at: Mapping[str, float] | None = None,
    level: float = 0.95,
) -> list[Optimum]:
    """The loss-optimal params and tokens for each budget in FLOP (training plus inference).

    `at` gives the other variables of the law. `Optimum.outside` is how many times the budget
    exceeds the largest in the data (1 inside).
    """
    others = other_variables(result.law, at)
    budget = np.asarray(budgets, np.float64)
    if not np.all(np.isfinite(budget) & (budget > 0)):
        raise LawError(f"budgets {list(budgets)} must be positive numbers of FLOP")
    program = _program(result.law, cost, tuple(sorted(others)))

    def split(parameters: Mapping[str, Array]) -> dict[str, Array]:
        with x64():
            splits = program(dict(parameters), budget, np.float64(inference_tokens), others)
            return {k: np.asarray(v) for k, v in splits.items()}

    point = split({k: np.asarray([v]) for k, v in result.parameters.items()})
    for c, loss in zip(budget, point["loss"][0], strict=True):
        if not np.isfinite(loss):
            served = f" once {inference_tokens:.3g} tokens are served" if inference_tokens else ""
            raise LawError(f"budget {c:.3g} FLOP leaves nothing to train with{served}: raise it")
    many = split(draws.parameters) if draws else None
    spent = cost.spent(result.problem.variables["params"], result.problem.variables["tokens"])
    largest, smallest = float(np.max(spent)), float(np.min(spent))
    optima = []
    for i, c in enumerate(budget):
        best = {k: float(point[k][0, i]) for k in ("params", "tokens", "loss")}
        intervals = None
        if draws and many:
            intervals = {k: draws.interval(many[k][:, i], level) for k in best}
        warnings = []
        if point["edge"][0, i]:
            warnings.append("no interior optimum: the law has no trade-off here")
        outside = float(max(c / largest, smallest / c, 1.0))
        if outside > 1.0:
            side = "above the largest" if c > largest else "below the smallest"
            warnings.append(f"budget {c:.3g} FLOP is {outside:.3g} times {side} in the data")
        optima.append(
            Optimum(
                float(c), **best, intervals=intervals, outside=outside, warnings=tuple(warnings)
            )
        )
    return optima


def other_variables(law: Law, at: Mapping[str, float] | None) -> dict[str, float]:
    """The variables besides params and tokens at which to allocate. Raises LawError."""
    names = {v.name for v in law.variables}
    if not {"params", "tokens"} <= names:
        raise LawError(
            f"law {law.name} has no params and tokens to allocate (it has {sorted(names)})"
        )
    others = names - {"params", "tokens"}
    strange = set(at or {}) - others
    if strange:
        raise LawError(
            f"law {law.name} allocates at {sorted(others)}; --at gives {sorted(strange)}"
        )
    missing = others - set(at or {})
    if missing:
        raise LawError(f"law {law.name} also depends on {sorted(missing)}: give --at=NAME=VALUE")
    return {k: float((at or {})[k]) for k in others}


@functools.lru_cache(maxsize=32)
def _program(law: Law, cost: FlopsPerToken, names: tuple[str, ...]) -> Callable[..., Scalars]:
    """Jitted `(parameters [R], budgets [m], served, others) -> dict of [R, m]`."""

    def split(p: Scalars, budget: jax.Array, served: jax.Array, others: Scalars) -> Scalars:
        def tokens(log_n: jax.Array) -> jax.Array:
            n = jnp.exp(log_n)
            return (budget - 2.0 * n * served) / cost.per_token(n)

        def loss(log_n: jax.Array) -> jax.Array:
            d = tokens(log_n)
            extra = {k: jnp.full_like(log_n, others[k]) for k in names}
            variables = Namespace(params=jnp.exp(log_n), tokens=jnp.maximum(d, 1.0), **extra)
            value = law.formula(Namespace(**p), variables)
            return jnp.where((d >= 1.0) & jnp.isfinite(value), value, jnp.inf)

        low, high = jnp.log(1e2), jnp.log(budget)
        low0, high0 = low, high
        for _ in range(ROUNDS):
            grid = jnp.linspace(low, high, GRID)
            k = jnp.argmin(loss(grid))
            low = grid[jnp.maximum(k - 1, 0)]
            high = grid[jnp.minimum(k + 1, GRID - 1)]
        # A parabola through three points a little apart beats rounding noise of the grid.
        step = 1e-3
        around = loss(0.5 * (low + high) + step * jnp.array([-1.0, 0.0, 1.0]))
        bend = around[0] - 2 * around[1] + around[2]
        shift = jnp.where(bend > 0, 0.5 * step * (around[0] - around[2]) / bend, 0.0)
        best = 0.5 * (low + high) + jnp.clip(shift, -step, step)
        edge = (best - low0 < 0.01) | (high0 - best < 0.01) | ~(tokens(best) >= 2.0)
        return {
            "params": jnp.exp(best),
            "tokens": tokens(best),
            "loss": loss(best[None])[0],
            "edge": edge,
        }

    inner = jax.vmap(split, in_axes=(None, 0, None, None))
    return jax.jit(jax.vmap(inner, in_axes=(0, None, None, None)))
