"""From loss to task performance: error, ladders, reinforcement learning, repeated sampling."""

import jax.numpy as jnp

from scaling.laws.catalogue.data import GADRE
from scaling.laws.catalogue.language import ADDITIVE, additive_loss
from scaling.laws.law import (
    ERROR,
    FLOPS,
    LOSS,
    PARAMS,
    TOKENS,
    Law,
    Published,
    Variable,
    coefficient,
    exponent,
    offset,
    power,
    shape,
)

TASK_ERROR = Law(
    name="task_error",
    equation="Err = epsilon - k exp(-gamma L)",
    variables=(LOSS,),
    target=ERROR,
    parameters=(
        offset("epsilon", (0.0, 1.0)),
        coefficient("k", (1e-3, 1e4)),
        exponent("gamma", (0.05, 5.0)),
    ),
    formula=lambda p, v: p.epsilon - p.k * jnp.exp(-p.gamma * v.loss),
    linear=("epsilon", "k"),
    space="raw",
    published=(
        Published(
            "redpajama_17",
            {"epsilon": 0.857, "k": 2.2065, "gamma": 0.7146},
            GADRE,
            "average of 17 tasks, recomputed from their points",
        ),
    ),
    source=GADRE,
)

LADDER_LOSS = Law(
    name="ladder_loss",
    equation="L_task = E + A/N^alpha + B/D^beta",
    variables=(PARAMS, TOKENS),
    target=Variable("task_loss", "L_task", "bits per byte of the answer"),
    parameters=ADDITIVE,
    formula=additive_loss,
    linear=("E", "A", "B"),
    source="Bhagia et al. 2024, arXiv 2412.04403 (step 1 of 2)",
)

LADDER_ACCURACY = Law(
    name="ladder_accuracy",
    equation="acc = b + a/(1 + exp(k (L_task - L0))), k > 0: accuracy rises as loss falls",
    variables=(Variable("task_loss", "L_task", "bits per byte of the answer"),),
    target=Variable("accuracy", "acc", "fraction", positive=False),
    parameters=(
        offset("b", (0.0, 1.0)),
        coefficient("a", (0.01, 2.0)),
        shape("k", (0.3, 50.0)),
        shape("L0", (0.05, 5.0)),
    ),
    formula=lambda p, v: p.b + p.a / (1.0 + jnp.exp(p.k * (v.task_loss - p.L0))),
    linear=("b", "a"),
    space="raw",
    source="Bhagia et al. 2024, arXiv 2412.04403 (step 2 of 2)",
)

LLAMA_NLL = Law(
    name="llama_answer_loss",
    equation="NLL = c - s ln C",
    variables=(FLOPS,),
    target=Variable("answer_loss", "NLL", "nats per character"),
    parameters=(
        offset("c", (0.0, 10.0), low=-1e4),
        shape("s", (0.0, 1.0), -1e3, 1e3, "real"),
    ),
    formula=lambda p, v: p.c - p.s * jnp.log(v.flops),
    linear=("c", "s"),
    space="raw",
    source="Grattafiori et al. 2024 (Llama 3), arXiv 2407.21783, section 3.2.1 (step 1 of 2)",
)


LLAMA_TOKENS = Law(
    name="llama_tokens",
    equation="D* = A C^alpha",
    variables=(FLOPS,),
    target=Variable("optimal_tokens", "D*", "tokens"),
    parameters=(coefficient("A", (1e-8, 1e6)), exponent("alpha", (0.2, 1.0))),
    formula=lambda p, v: p.A * power(v.flops, p.alpha),
    linear=("A",),
    published=(
        Published("llama3", {"A": 0.29, "alpha": 0.53}, "arXiv 2407.21783", "rounded as printed"),
    ),
    source="Grattafiori et al. 2024 (Llama 3), arXiv 2407.21783",
)

SCALE_RL = Law(
    name="scale_rl",
    equation="R = R0 + (A - R0)/(1 + (C_mid/C)^B)",
    variables=(FLOPS,),
    target=Variable("reward", "R", "pass rate", positive=False),
    parameters=(
        offset("R0", (0.0, 0.6)),
        offset("gain", (0.01, 1.0)),
        shape("C_mid", (1e0, 1e26)),
        exponent("B", (0.1, 4.0)),
    ),
    formula=lambda p, v: p.R0 + p.gain / (1.0 + power(p.C_mid / v.flops, p.B)),
    linear=("R0", "gain"),
    space="raw",
    derived={"A": lambda p: p.R0 + p.gain},
    source="Khatri et al. 2025 (ScaleRL), arXiv 2510.13786; gain is A - R0",
)

REPEATED_SAMPLING = Law(
    name="repeated_sampling",
    equation="coverage = exp(-a k^-b)",
    variables=(Variable("samples", "k", "samples per problem"),),
    target=Variable("coverage", "c", "fraction solved"),
    parameters=(coefficient("a", (1e-3, 1e3)), exponent("b", (0.02, 3.0))),
    formula=lambda p, v: jnp.exp(-p.a * power(v.samples, -p.b)),
    source="Brown et al. 2024, arXiv 2407.21787, exp(a k^b) with signs written out",
)
