"""Curves that bend: broken power laws, Alabdulmohsin's M1 to M4, saturating vision laws."""

import functools

import jax
import jax.numpy as jnp

from scaling.laws.law import (
    ERROR,
    FLOPS,
    Law,
    Namespace,
    Published,
    Variable,
    coefficient,
    exponent,
    offset,
    power,
    shape,
)

X = Variable("examples", "x", "examples, parameters or FLOP")
CABALLERO = "Caballero et al. 2023, arXiv 2210.14891"


def _bnsl_formula(p: Namespace, v: Namespace, breaks: int) -> jax.Array:
    value = p.b * power(v.examples, -p.c0)
    for i in range(1, breaks + 1):
        c, d, f = (getattr(p, f"{k}{i}") for k in "cdf")
        # (1 + (x/d)^(1/f))^(-c f) without overflow for sharp breaks.
        value = value * jnp.exp(-c * f * jnp.logaddexp(0.0, (jnp.log(v.examples) - jnp.log(d)) / f))
    return p.a + value


def broken_power(breaks: int, *constants: Published) -> Law:
    """The smoothly broken power law with `breaks` breaks."""
    parameters = [offset("a"), coefficient("b"), exponent("c0", (0.0, 1.5), -10.0)]
    for i in range(1, breaks + 1):
        parameters.append(exponent(f"c{i}", (-2.0, 8.0), -50.0, 50.0))
        parameters.append(shape(f"d{i}", (1e1, 1e12)))
        parameters.append(shape(f"f{i}", (0.02, 2.0), 1e-3, 20.0))
    return Law(
        name=f"bnsl_{breaks}" if breaks != 1 else "bnsl",
        equation="y = a + b x^-c0 prod_i (1 + (x/d_i)^(1/f_i))^(-c_i f_i)",
        variables=(X,),
        parameters=tuple(parameters),
        formula=functools.partial(_bnsl_formula, breaks=breaks),
        linear=("a", "b"),
        space="log1p",
        published=constants,
        source=CABALLERO,
    )


ADDITION = Published(
    "four_digit_addition",
    {"a": 0.4139, "b": 2.277, "c0": 0.0551, "c1": 5.663, "d1": 612.6, "f1": 0.0592},
    CABALLERO,
    "recomputed from the 14 points of figure 4 left",
)
BNSL_0, BNSL = broken_power(0), broken_power(1, ADDITION)
BNSL_2, BNSL_3 = broken_power(2), broken_power(3)

ALABDULMOHSIN = "Alabdulmohsin et al. 2022, arXiv 2209.06640"
M1 = Law(
    name="m1",
    equation="e = b x^-c",
    variables=(X,),
    parameters=(coefficient("b"), exponent("c", (0.02, 2.0))),
    formula=lambda p, v: p.b * power(v.examples, -p.c),
    linear=("b",),
    source=ALABDULMOHSIN,
)
M2 = Law(
    name="m2",
    equation="e = e_inf + b x^-c",
    variables=(X,),
    parameters=(offset("e_inf"), coefficient("b"), exponent("c", (0.02, 2.0))),
    formula=lambda p, v: p.e_inf + p.b * power(v.examples, -p.c),
    linear=("e_inf", "b"),
    source=ALABDULMOHSIN,
)
M3 = Law(
    name="m3",
    equation="e = b (1/x + gamma)^c",
    variables=(X,),
    parameters=(coefficient("b"), exponent("c", (0.02, 2.0)), shape("gamma", (1e-14, 1e-1))),
    formula=lambda p, v: p.b * power(1.0 / v.examples + p.gamma, p.c),
    linear=("b",),
    source=ALABDULMOHSIN,
)
# Not in the paper, whose M3 levels off at b gamma^c alone.
M3_OFFSET = Law(
    name="m3_offset",
    equation="e = e_inf + b (1/x + gamma)^c",
    variables=(X,),
    parameters=(offset("e_inf"), *M3.parameters),
    formula=lambda p, v: p.e_inf + M3.formula(p, v),
    linear=("e_inf", "b"),
    source=f"m3 of {ALABDULMOHSIN}, with an irreducible loss",
)


@jax.custom_jvp
def _m4_logit(target: jax.Array, alpha: jax.Array) -> jax.Array:
    """The t at which ln u - alpha ln(1 - u), u = sigmoid(t), equals `target`, elementwise.

    The equation is monotone and nearly linear in both tails. Newton's method from the line of the
    nearer tail never overshoots, for the curve is concave below alpha = 1 and convex above.
    """

    def step(_: int, t: jax.Array) -> jax.Array:
        tail = jnp.exp(-jnp.abs(t))
        both, large = jnp.log1p(tail), 1.0 / (1.0 + tail)
        error = jnp.minimum(t, 0.0) - both + alpha * (jnp.maximum(t, 0.0) + both) - target
        # sigmoid(-t) and sigmoid(t) are `large` and 1 - `large`, in the order of the sign.
        up = jnp.where(t > 0, large, tail * large)
        return t - error / (1.0 + (alpha - 1.0) * up)

    start = jnp.minimum(target, 0.0) + jnp.minimum(jnp.maximum(target, 0.0) / alpha, 700.0)
    return jax.lax.fori_loop(0, M4_STEPS, step, start)


@_m4_logit.defjvp
def _m4_logit_slope(
    at: tuple[jax.Array, jax.Array], by: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """The implicit derivative: no step of Newton's method is differentiated."""
    t = _m4_logit(*at)
    up = jax.nn.sigmoid(t)
    return t, (by[0] + jax.nn.log_sigmoid(-t) * by[1]) / (1.0 + (at[1] - 1.0) * up)


def _m4_formula(p: Namespace, v: Namespace) -> jax.Array:
    """Solve (e - e_inf)/(e0 - e)^alpha = b x^-c for e between e_inf and e0.

    With u = (e - e_inf)/(e0 - e_inf) and x0 the x at which u/(1 - u)^alpha is 1, the law reads
    e = e_inf + a x^-c (1 - u)^alpha: affine in e_inf and a, and a plain power law as x0 falls to 0.
    """
    log_x = jnp.log(v.examples)
    t = _m4_logit(p.c * (jnp.log(p.x0) - log_x), p.alpha)
    return p.e_inf + p.a * jnp.exp(p.alpha * jax.nn.log_sigmoid(-t) - p.c * log_x)


M4_STEPS = 10  # enough for alpha >= M4_ALPHA at any x
M4_ALPHA = 0.01


def _m4_gap(p: Namespace) -> float:
    """e0 - e_inf."""
    return p.a * p.x0**-p.c


M4 = Law(
    name="m4",
    equation="(e - e_inf)/(e0 - e)^alpha = b x^-c, a = b (e0 - e_inf)^alpha, x0^c = a/(e0 - e_inf)",
    variables=(X,),
    parameters=(
        offset("e_inf"),
        coefficient("a"),
        exponent("c", (0.05, 2.0)),
        exponent("alpha", (0.02, 3.0), low=M4_ALPHA),
        shape("x0", (1e0, 1e10)),
    ),
    formula=_m4_formula,
    linear=("e_inf", "a"),
    derived={
        "b": lambda p: p.a * _m4_gap(p) ** -p.alpha,
        "e0": lambda p: p.e_inf + _m4_gap(p),
    },
    source=ALABDULMOHSIN,
)

ZHAI_SOURCE = "Zhai et al. 2022, arXiv 2106.04560"
ZHAI = Law(
    name="zhai",
    equation="Err = c + a (C + d)^-b",
    variables=(FLOPS,),
    target=ERROR,
    parameters=(
        offset("c", (0.0, 1.0)),
        coefficient("a"),
        exponent("b", (0.02, 2.0)),
        shape("d", (1e-6, 1e6)),
    ),
    formula=lambda p, v: p.c + p.a * power(v.flops + p.d, -p.b),
    linear=("c", "a"),
    published=(
        Published(
            "imagenet_finetune",
            {"c": 0.09, "a": 0.26, "b": 0.35, "d": 0.01},
            ZHAI_SOURCE,
            "C in the paper's unit (TPU core-days, thousands); see the paper",
        ),
        Published("imagenet_10_shot", {"c": 0.12, "a": 0.63, "b": 0.32, "d": 0.52}, ZHAI_SOURCE),
    ),
    source=ZHAI_SOURCE,
)
