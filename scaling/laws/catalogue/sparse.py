"""Mixtures of experts and sparse weights."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from scaling.laws.law import (
    EXPERTS,
    PARAMS,
    TOKENS,
    Law,
    Namespace,
    Parameter,
    Published,
    Variable,
    bent,
    coefficient,
    each,
    exponent,
    offset,
    power,
    shape,
)

CLARK = "Clark et al. 2022, arXiv 2202.01169"
LN10 = 2.302585092994046


def _clark_formula(p: Namespace, v: Namespace) -> jax.Array:
    """log10 L = a log10 N + b log10 Eh + c log10 N log10 Eh + d, Eh the saturated expert count."""
    # 1/Eh = 1/(E - 1 + (1/E_start - 1/E_max)^-1) + 1/E_max
    shifted = v.experts - 1.0 + 1.0 / (1.0 / p.E_start - 1.0 / p.E_max)
    log_e = -jnp.log(1.0 / shifted + 1.0 / p.E_max) / LN10
    log_n = jnp.log(v.params) / LN10
    return jnp.exp(LN10 * (p.a * log_n + p.b * log_e + p.c * log_n * log_e + p.d))


def _real(bound: float, **starts: tuple[float, float]) -> tuple[Parameter, ...]:
    """Parameters of either sign, from -bound to bound, by their start ranges."""
    return tuple(shape(name, start, -bound, bound, "real") for name, start in starts.items())


def _clark(label: str, *values: float) -> Published:
    names = ("a", "b", "c", "d", "E_start", "E_max")
    constants = dict(zip(names, values, strict=True))
    return Published(label, constants, CLARK, "rounded; E_start and E_max are weakly identified")


ROUTED = Law(
    name="routed",
    equation="log10 L = a log10 N + b log10 Eh + c log10 N log10 Eh + d",
    variables=(PARAMS, EXPERTS),
    parameters=(
        *_real(5.0, a=(-0.3, 0.0), b=(-0.5, 0.2)),
        *_real(2.0, c=(-0.05, 0.1)),
        *_real(50.0, d=(0.0, 3.0)),
        shape("E_start", (1.05, 16.0), 1.0, 1e3),
        shape("E_max", (64.0, 4096.0), 17.0, 1e6),
    ),
    formula=_clark_formula,
    published=(
        _clark("s_base", -0.082, -0.108, 0.009, 1.104, 1.847, 314.478),
        _clark("rl_r", -0.083, -0.126, 0.012, 1.111, 1.880, 469.982),
        _clark("hash", -0.087, -0.136, 0.012, 1.157, 4.175, 477.741),
    ),
    source=CLARK,
)

# Not in the paper, whose loss falls to 0 as N grows.
ROUTED_OFFSET = Law(
    name="routed_offset",
    equation="L = E + 10^(a log10 N + b log10 Eh + c log10 N log10 Eh + d)",
    variables=ROUTED.variables,
    parameters=(offset("E"), *ROUTED.parameters),
    formula=lambda p, v: p.E + _clark_formula(p, v),
    linear=("E",),
    source=f"routed of {CLARK}, with an irreducible loss",
)

KRAJEWSKI = "Krajewski et al. 2024, arXiv 2402.07871"
FINE_GRAINED = Law(
    name="fine_grained_moe",
    equation="L = c + (g/G^gamma + a)/N^alpha + b/D^beta",
    variables=(PARAMS, TOKENS, Variable("granularity", "G", "experts per feed-forward size")),
    parameters=(
        offset("c"),
        coefficient("g", (1e-2, 1e4)),
        *each(coefficient, "a", "b"),
        exponent("gamma", (0.05, 2.0)),
        *each(exponent, "alpha", "beta"),
    ),
    formula=lambda p, v: (
        p.c
        + (p.g * power(v.granularity, -p.gamma) + p.a) * power(v.params, -p.alpha)
        + p.b * power(v.tokens, -p.beta)
    ),
    linear=("c", "g", "a", "b"),
    published=(
        Published(
            "krajewski",
            {
                "a": 18.1,
                "alpha": 0.115,
                "b": 30.8,
                "beta": 0.147,
                "g": 2.1,
                "gamma": 0.58,
                "c": 0.47,
            },
            KRAJEWSKI,
        ),
    ),
    source=KRAJEWSKI,
)

ABNAR = "Abnar et al. 2025, arXiv 2501.12370"
MOE_SPARSITY = Law(
    name="moe_sparsity",
    equation="L = e + a/N^alpha + b/D^beta + c/(1-S)^lambda + d/((1-S)^delta N^gamma)",
    variables=(PARAMS, TOKENS, Variable("sparsity", "S", "inactive fraction", positive=False)),
    parameters=(
        offset("e"),
        *each(coefficient, "a", "b"),
        coefficient("c", (1e-4, 1e2)),
        coefficient("d"),
        *each(exponent, "alpha", "beta"),
        *each(exponent, "lambda_", "delta", start=(-1.0, 1.0), low=-5.0),
        exponent("gamma"),
    ),
    formula=lambda p, v: (
        p.e
        + p.a * power(v.params, -p.alpha)
        + p.b * power(v.tokens, -p.beta)
        + p.c * power(1 - v.sparsity, -p.lambda_)
        + p.d * power(1 - v.sparsity, -p.delta) * power(v.params, -p.gamma)
    ),
    linear=("e", "a", "b", "c", "d"),
    published=(
        Published(
            "abnar",
            {
                "alpha": 0.5962,
                "beta": 0.3954,
                "lambda_": -0.1666,
                "delta": 0.1603,
                "gamma": 0.1595,
                "a": 16612.5,
                "b": 5455.67,
                "c": 0.4598,
                "d": 17.26,
                "e": 0.94,
            },
            ABNAR,
            "secondary source; R2 99 % on the fit, 68 % held out",
        ),
    ),
    source=ABNAR,
)

JOINT_MOE = Law(
    name="joint_moe",
    equation="L = a Eh^delta N^(alpha + gamma ln Eh) + b Eh^omega D^(beta + zeta ln Eh) + c",
    variables=(PARAMS, TOKENS, EXPERTS),
    parameters=(
        *each(coefficient, "a", "b"),
        offset("c"),
        *_real(5.0, alpha=(-1.0, 0.0), beta=(-1.0, 0.0)),
        *_real(1.0, gamma=(-0.05, 0.05), zeta=(-0.05, 0.05)),
        *_real(5.0, delta=(-1.0, 1.0), omega=(-1.0, 1.0)),
    ),
    formula=lambda p, v: (
        p.c
        + p.a * power(v.experts, p.delta + p.gamma * jnp.log(v.params)) * power(v.params, p.alpha)
        + p.b * power(v.experts, p.omega + p.zeta * jnp.log(v.tokens)) * power(v.tokens, p.beta)
    ),
    linear=("a", "b", "c"),
    source="Ludziejewski et al. 2025, arXiv 2502.05172; its constants were not legible, so none here",
)

FRANTAR = Law(
    name="weight_sparsity",
    equation="L = (a_S (1-S)^b_S + c_S) N^-b_N + (a_D/D)^b_D + c",
    variables=(PARAMS, TOKENS, Variable("sparsity", "S", "zero fraction", positive=False)),
    parameters=(
        *each(coefficient, "a_S", "c_S", "K_D"),
        offset("c"),
        exponent("b_S", (0.05, 3.0)),
        *each(exponent, "b_N", "b_D"),
    ),
    formula=lambda p, v: (
        (p.a_S * power(1 - v.sparsity, p.b_S) + p.c_S) * power(v.params, -p.b_N)
        + p.K_D * power(v.tokens, -p.b_D)
        + p.c
    ),
    linear=("a_S", "c_S", "K_D", "c"),
    derived={"a_D": lambda p: p.K_D ** (1.0 / p.b_D)},
    source="Frantar et al. 2023, arXiv 2309.08520; K_D is a_D^b_D",
)


SIZE, DATA = 1e9, 1e10  # parameters and tokens at which the coefficients of `farseer` are stated


def _farseer(p: Namespace, v: Namespace) -> jax.Array:
    """The paper's form by values and slopes at one size, which data determine: a and b trade off
    without end as an exponent nears 0."""
    x = jnp.log(v.params / SIZE)
    rate = p.rate * jnp.exp(p.rate_N * bent(x, p.al))
    start = p.rate * math.log(DATA) + _start_slope(p) * bent(x, p.be)
    return p.E * jnp.exp(p.E_N * bent(x, p.g)) + p.B * jnp.exp(start - rate * jnp.log(v.tokens))


def _start_slope(p: Namespace) -> float:
    """Slope in ln N, at `SIZE`, of the logarithm of the data's term at one token."""
    return p.B_N + p.rate * p.rate_N * math.log(DATA)


FARSEER = Law(
    name="farseer",
    equation="L = exp(a3 N^g + b3) + exp(a2 N^be + b2) D^(-exp(a1 N^al + b1))",
    variables=(PARAMS, TOKENS),
    parameters=(
        *each(coefficient, "E", "B", start=(0.05, 10.0)),
        coefficient("rate", (0.05, 1.0)),
        *_real(10.0, E_N=(-0.3, 0.3), B_N=(-0.3, 0.3), rate_N=(-0.3, 0.3)),
        *_real(5.0, g=(-0.5, 0.5), be=(-0.5, 0.5), al=(-0.5, 0.5)),
    ),
    formula=_farseer,
    linear=("E", "B"),
    derived={
        "a1": lambda p: p.rate_N / p.al * SIZE**-p.al,
        "b1": lambda p: np.log(p.rate) - p.rate_N / p.al,
        "a2": lambda p: _start_slope(p) / p.be * SIZE**-p.be,
        "b2": lambda p: np.log(p.B) + p.rate * math.log(DATA) - _start_slope(p) / p.be,
        "a3": lambda p: p.E_N / p.g * SIZE**-p.g,
        "b3": lambda p: np.log(p.E) - p.E_N / p.g,
    },
    source="Li et al. 2025 (Farseer), arXiv 2506.10972; form only. E, B and rate: the two terms and "
    "the exponent of the data at 1e9 parameters and 1e10 tokens, _N their slopes in ln N there",
)
