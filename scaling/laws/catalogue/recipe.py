"""Laws for the recipe: learning rate, batch size, precision, distillation."""

import jax
import jax.numpy as jnp

from scaling.laws.catalogue.language import ADDITIVE
from scaling.laws.law import (
    FLOPS,
    PARAMS,
    TOKENS,
    Law,
    Namespace,
    Published,
    Variable,
    coefficient,
    each,
    exponent,
    power,
    shape,
)

LEARNING_RATE = Variable("learning_rate", "eta", "peak learning rate")
BATCH = Variable("batch", "B", "tokens per step")
DEEPSEEK = "DeepSeek-AI 2024, arXiv 2401.02954"
STEPLAW = "Li et al. 2025 (Step Law), arXiv 2503.04715"


def _in_compute(name: str, target: Variable, values: dict[str, float]) -> Law:
    return Law(
        name=name,
        equation=f"{target.symbol} = k C^gamma",
        variables=(FLOPS,),
        target=target,
        parameters=(coefficient("k", (1e-10, 1e10)), exponent("gamma", (-1.0, 1.0), -5.0, 5.0)),
        formula=lambda p, v: p.k * power(v.flops, p.gamma),
        linear=("k",),
        published=(Published("deepseek", values, DEEPSEEK),),
        source=DEEPSEEK,
    )


DEEPSEEK_LR = _in_compute("lr_compute", LEARNING_RATE, {"k": 0.3118, "gamma": -0.1250})
DEEPSEEK_BATCH = _in_compute("batch_compute", BATCH, {"k": 0.2920, "gamma": 0.3271})
DEEPSEEK_MODEL = _in_compute(
    "model_compute",
    Variable("flops_per_token", "M_opt", "non-embedding FLOP per token"),
    {"k": 0.1715, "gamma": 0.5243},
)
DEEPSEEK_DATA = _in_compute(
    "data_compute", Variable("optimal_tokens", "D_opt", "tokens"), {"k": 5.8316, "gamma": 0.4757}
)

STEPLAW_LR = Law(
    name="lr_step_law",
    equation="eta = k N^alpha D^beta",
    variables=(PARAMS, TOKENS),
    target=LEARNING_RATE,
    parameters=(
        coefficient("k", (1e-8, 1e8)),
        exponent("alpha", (-1.5, 1.0), -5.0, 5.0),
        exponent("beta", (-1.0, 1.0), -5.0, 5.0),
    ),
    formula=lambda p, v: p.k * power(v.params, p.alpha) * power(v.tokens, p.beta),
    linear=("k",),
    published=(
        Published(
            "step_law",
            {"k": 1.797, "alpha": -0.7129, "beta": 0.3075},
            STEPLAW,
            "mean of their 1000 bootstraps, recomputed",
        ),
    ),
    source=STEPLAW,
)

STEPLAW_BATCH = Law(
    name="batch_step_law",
    equation="B = k D^beta",
    variables=(TOKENS,),
    target=BATCH,
    parameters=(coefficient("k", (1e-8, 1e8)), exponent("beta", (-1.0, 2.0), -5.0, 5.0)),
    formula=lambda p, v: p.k * power(v.tokens, p.beta),
    linear=("k",),
    published=(Published("step_law", {"k": 0.581, "beta": 0.5709}, STEPLAW),),
    source=STEPLAW,
)


def _precision_formula(p: Namespace, v: Namespace) -> jax.Array:
    share = -jnp.expm1(-v.weight_bits / p.gamma_w)
    return p.E + p.A * power(v.params * share, -p.alpha) + p.B * power(v.tokens, -p.beta)


PRECISION = Law(
    name="precision",
    equation="L = E + A/(N (1 - exp(-P/gamma_w)))^alpha + B/D^beta",
    variables=(PARAMS, TOKENS, Variable("weight_bits", "P", "bits")),
    parameters=(*ADDITIVE, shape("gamma_w", (0.2, 20.0))),
    formula=_precision_formula,
    linear=("E", "A", "B"),
    source="Kumar et al. 2024, arXiv 2411.04330, training precision of weights",
)

POST_TRAINING = Law(
    name="post_training_quantisation",
    equation="delta = C_T D^gamma_D / N^gamma_N exp(-P/gamma_P)",
    variables=(PARAMS, TOKENS, Variable("weight_bits", "P", "bits")),
    target=Variable("degradation", "delta", "nats per token"),
    parameters=(
        coefficient("C_T", (1e-8, 1e8)),
        *each(exponent, "gamma_D", "gamma_N"),
        shape("gamma_P", (0.1, 10.0)),
    ),
    formula=lambda p, v: (
        p.C_T
        * power(v.tokens, p.gamma_D)
        * power(v.params, -p.gamma_N)
        * jnp.exp(-v.weight_bits / p.gamma_P)
    ),
    linear=("C_T",),
    source="Kumar et al. 2024, arXiv 2411.04330",
)


def _distillation_formula(p: Namespace, v: Namespace) -> jax.Array:
    """Student loss from the teacher's loss and what the student reaches alone, `student_loss`."""
    bracket = power(p.A * power(v.params, -p.alpha) + p.B * power(v.tokens, -p.beta), p.gamma)
    ratio = (jnp.log(v.teacher_loss) - jnp.log(v.student_loss) - jnp.log(p.d1)) / p.f1
    damp = jnp.exp(-p.c1 * p.f1 * jnp.logaddexp(0.0, ratio) - p.c0 * jnp.log(v.teacher_loss))
    return v.teacher_loss + damp * bracket


DISTILLATION = Law(
    name="distillation",
    equation="L_S = L_T + L_T^-c0 (1 + (L_T/(L_s d1))^(1/f1))^(-c1 f1) (A/N^al + B/D^be)^gamma",
    variables=(
        PARAMS,
        TOKENS,
        Variable("teacher_loss", "L_T", "nats per token"),
        Variable("student_loss", "L_s", "nats per token, supervised"),
    ),
    parameters=(
        *each(coefficient, "A", "B", start=(1.0, 1e5)),
        *each(exponent, "alpha", "beta"),
        exponent("gamma", (0.3, 2.0)),
        exponent("c0", (-1.0, 3.0), -20.0, 20.0),
        exponent("c1", (0.0, 3.0), -50.0, 50.0),
        shape("d1", (0.3, 3.0)),
        shape("f1", (0.02, 1.0), 1e-3, 20.0),
    ),
    formula=_distillation_formula,
    source="Busbridge et al. 2025, arXiv 2502.08606; constants not found",
)
