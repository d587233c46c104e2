"""Language-model loss against parameters, data, compute and steps: Kaplan to Chinchilla."""

import jax

from scaling.laws.law import (
    FLOPS,
    LOSS,
    PARAMS,
    STEPS,
    TOKENS,
    Law,
    Namespace,
    Parameter,
    Published,
    Variable,
    coefficient,
    each,
    exponent,
    offset,
    power,
    shape,
)

NON_EMBEDDING = "N counts non-embedding parameters"
KAPLAN = "Kaplan et al. 2020, arXiv 2001.08361"
PF_DAYS = Variable("pf_days", "C_min", "PF-days")


def _scale(name: str, high: float) -> Parameter:
    return shape(name, (high * 1e-12, high))


def _single(
    name: str, variable: Variable, scale: str, alpha: str, *values: float, note: str = ""
) -> Law:
    """L = (x_c / x)^alpha, one of Kaplan's three one-variable laws, and its two constants."""
    return Law(
        name=name,
        equation=f"L = ({scale}/{variable.symbol})^{alpha}",
        variables=(variable,),
        parameters=(_scale(scale, 1e24), exponent(alpha, (0.01, 1.0))),
        formula=lambda p, v: power(
            getattr(p, scale) / getattr(v, variable.name), getattr(p, alpha)
        ),
        published=(Published("kaplan", {scale: values[0], alpha: values[1]}, KAPLAN, note),),
        source=KAPLAN,
    )


KAPLAN_N = _single("kaplan_n", PARAMS, "Nc", "alpha_N", 8.8e13, 0.076, note=NON_EMBEDDING)
KAPLAN_D = _single("kaplan_d", TOKENS, "Dc", "alpha_D", 5.4e13, 0.095)
KAPLAN_C = _single("kaplan_c", PF_DAYS, "Cc", "alpha_C", 3.1e8, 0.050)

KAPLAN_ND = Law(
    name="kaplan_nd",
    equation="L = [(Nc/N)^(alpha_N/alpha_D) + Dc/D]^alpha_D",
    variables=(PARAMS, TOKENS),
    parameters=(
        _scale("Nc", 1e20),
        exponent("alpha_N", (0.01, 1.0)),
        _scale("Dc", 1e20),
        exponent("alpha_D", (0.01, 1.0)),
    ),
    formula=lambda p, v: power(
        power(p.Nc / v.params, p.alpha_N / p.alpha_D) + p.Dc / v.tokens, p.alpha_D
    ),
    published=(
        Published(
            "kaplan",
            {"Nc": 6.4e13, "alpha_N": 0.076, "Dc": 1.8e13, "alpha_D": 0.103},
            KAPLAN,
            NON_EMBEDDING,
        ),
    ),
    source=KAPLAN,
)

KAPLAN_NS = Law(
    name="kaplan_ns",
    equation="L = (Nc/N)^alpha_N + (Sc/S_min)^alpha_S",
    variables=(PARAMS, STEPS),
    parameters=(
        _scale("Nc", 1e20),
        exponent("alpha_N", (0.01, 1.0)),
        _scale("Sc", 1e9),
        exponent("alpha_S", (0.01, 2.0)),
    ),
    formula=lambda p, v: power(p.Nc / v.params, p.alpha_N) + power(p.Sc / v.steps, p.alpha_S),
    published=(
        Published(
            "kaplan",
            {"Nc": 6.5e13, "alpha_N": 0.077, "Sc": 2.1e3, "alpha_S": 0.76},
            KAPLAN,
            "Sc and alpha_S checked in a secondary source, Nc and alpha_N not",
        ),
    ),
    source=KAPLAN,
)

CRITICAL_BATCH = Law(
    name="critical_batch",
    equation="B_crit = B* / L^(1/alpha_B)",
    variables=(LOSS,),
    target=Variable("critical_batch", "B_crit", "tokens"),
    parameters=(coefficient("B_star", (1e2, 1e14)), exponent("alpha_B", (0.02, 2.0), low=1e-3)),
    formula=lambda p, v: p.B_star * power(v.loss, -1.0 / p.alpha_B),
    linear=("B_star",),
    published=(Published("kaplan", {"B_star": 2e8, "alpha_B": 0.21}, KAPLAN),),
    source="McCandlish et al. 2018, arXiv 1812.06162; " + KAPLAN,
)

BATCH_STEPS = Law(
    name="batch_steps",
    equation="S = S_min (1 + B_crit/B), from (S/S_min - 1)(E/E_min - 1) = 1",
    variables=(Variable("batch", "B", "tokens"),),
    target=Variable("steps", "S", "optimizer steps to a loss"),
    parameters=(coefficient("S_min", (1, 1e8)), shape("B_crit", (1e2, 1e10))),
    formula=lambda p, v: p.S_min * (1.0 + p.B_crit / v.batch),
    linear=("S_min",),
    source="McCandlish et al. 2018, arXiv 1812.06162",
)


def _saturating(name: str, variable: Variable) -> Law:
    """L = L_inf + (x0/x)^alpha (Henighan et al. 2020), written with the coefficient A = x0^alpha."""
    return Law(
        name=name,
        equation=f"L = L_inf + A/{variable.symbol}^alpha",
        variables=(variable,),
        parameters=(offset("L_inf"), coefficient("A"), exponent("alpha")),
        formula=lambda p, v: p.L_inf + p.A * power(getattr(v, variable.name), -p.alpha),
        linear=("L_inf", "A"),
        derived={"x0": lambda p: p.A ** (1.0 / p.alpha)},
        source="Henighan et al. 2020, arXiv 2010.14701",
    )


HENIGHAN_N = _saturating("henighan_n", PARAMS)
HENIGHAN_D = _saturating("henighan_d", TOKENS)
HENIGHAN_C = _saturating("henighan_c", FLOPS)


def optimal_scale(p: Namespace) -> float:
    """G of N* = G (C/6)^a (Hoffmann et al. 2022, equation 4)."""
    return (p.alpha * p.A / (p.beta * p.B)) ** (1.0 / (p.alpha + p.beta))


def additive_loss(p: Namespace, v: Namespace) -> jax.Array:
    """E + A/N^alpha + B/D^beta, shape [points]: the loss that many laws add a term to."""
    return p.E + p.A * power(v.params, -p.alpha) + p.B * power(v.tokens, -p.beta)


ADDITIVE = (offset("E"), *each(coefficient, "A", "B"), *each(exponent, "alpha", "beta"))
HOFFMANN = "Hoffmann et al. 2022, arXiv 2203.15556"
BESIROGLU = "Besiroglu et al. 2024, arXiv 2404.10102"
MUENNIGHOFF = "Muennighoff et al. 2023, arXiv 2305.16264"
MUENNIGHOFF_C4 = {
    "E": 1.8691436784054858,
    "A": 520.8249516599187,
    "B": 1487.716093782861,
    "alpha": 0.3526596,
    "beta": 0.3526596,
}

CHINCHILLA = Law(
    name="chinchilla",
    equation="L = E + A/N^alpha + B/D^beta",
    variables=(PARAMS, TOKENS),
    parameters=ADDITIVE,
    formula=additive_loss,
    linear=("E", "A", "B"),
    derived={
        "a": lambda p: p.beta / (p.alpha + p.beta),
        "b": lambda p: p.alpha / (p.alpha + p.beta),
        "G": optimal_scale,
        "compute_exponent": lambda p: p.alpha * p.beta / (p.alpha + p.beta),
    },
    published=(
        Published(
            "hoffmann",
            {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28},
            HOFFMANN,
            "rounded; the unrounded beta .2849 moves the data term by 13 % at 1e11",
        ),
        Published(
            "hoffmann_unrounded",
            {
                "E": 1.69337368,
                "A": 406.401018,
                "B": 410.722827,
                "alpha": 0.33917084,
                "beta": 0.2849083,
            },
            HOFFMANN + "; from the source of the paper, via " + BESIROGLU,
        ),
        Published(
            "besiroglu",
            {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658},
            BESIROGLU,
            "A and B are an L1 fit, E is the Huber 1e-3 fit",
        ),
        Published(
            "muennighoff_c4",
            MUENNIGHOFF_C4,
            MUENNIGHOFF,
            "exp of e .6254804, a 6.255414, b 7.3049974",
        ),
    ),
    source=HOFFMANN,
)
