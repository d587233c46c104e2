"""When data or its use is the limit: repetition, over-training, transfer, vocabulary."""

import jax
import jax.numpy as jnp

from scaling.laws.catalogue.language import MUENNIGHOFF, MUENNIGHOFF_C4, additive_loss
from scaling.laws.law import (
    PARAMS,
    TOKENS,
    UNIQUE_TOKENS,
    Law,
    Namespace,
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

# Narrower starts than Chinchilla's own: these laws search more parameters beside them.
ADDITIVE = (
    offset("E"),
    *each(coefficient, "A", "B", start=(1.0, 1e6)),
    *each(exponent, "alpha", "beta", start=(0.1, 1.0)),
)


def _worth(total: jax.Array, unique: jax.Array, rate: jax.Array) -> jax.Array:
    """Worth of `total` with `unique` distinct: unique (1 + (exp(rate R) - 1) / rate), R repeats.

    Less than one pass uses `total` of the distinct ones (U_D = min of the two in the paper).
    """
    unique = jnp.minimum(unique, total)
    return unique * (1.0 + bent(total / unique - 1.0, rate))


def data_constrained_loss(p: Namespace, v: Namespace) -> jax.Array:
    """Loss with repeated tokens and excess parameters, equations 5 and 6 of the paper."""
    scale = power(p.alpha * p.A / (p.beta * p.B), 1.0 / (p.alpha + p.beta))
    unique_params = jnp.minimum(v.params, scale * power(scale * v.unique_tokens, p.beta / p.alpha))
    params = _worth(v.params, unique_params, -1.0 / p.R_N)
    tokens = _worth(v.tokens, v.unique_tokens, -1.0 / p.R_D)
    return p.E + p.A * power(params, -p.alpha) + p.B * power(tokens, -p.beta)


DATA_CONSTRAINED = Law(
    name="data_constrained",
    equation="L = E + A/N'^alpha + B/D'^beta, X' = U (1 + R* (1 - exp(-(X/U - 1)/R*)))",
    variables=(PARAMS, TOKENS, UNIQUE_TOKENS),
    parameters=(*ADDITIVE, shape("R_D", (0.5, 200.0)), shape("R_N", (0.5, 200.0))),
    formula=data_constrained_loss,
    linear=("E",),
    published=(
        Published(
            "muennighoff",
            {**MUENNIGHOFF_C4, "R_D": 15.387756, "R_N": 5.309743},
            MUENNIGHOFF,
            "base law exp(.6254804), exp(6.255414), exp(7.3049974) frozen; R_D, R_N are a local "
            "minimum of the published objective and R_D is not identified by its 182 points",
        ),
    ),
    source=MUENNIGHOFF,
)


def _repeats(total: jax.Array, unique: jax.Array) -> jax.Array:
    """Passes after the first, never quite 0 so that its power has a slope."""
    return jnp.maximum(total / unique - 1.0, 0.0) + 1e-12


REPETITION_PENALTY = Law(
    name="repetition_penalty",
    equation="L = E + A/N^alpha + B/D^beta + K N^gamma (D/U - 1)^kappa / U^eta",
    variables=(PARAMS, TOKENS, UNIQUE_TOKENS),
    parameters=(
        *ADDITIVE,
        coefficient("K", (1e-8, 1e4)),
        exponent("gamma", (0.0, 1.5)),
        exponent("kappa", (0.2, 2.0)),
        exponent("eta", (0.0, 1.5)),
    ),
    formula=lambda p, v: (
        additive_loss(p, v)
        + p.K
        * power(v.params, p.gamma)
        * power(v.unique_tokens, -p.eta)
        * power(_repeats(v.tokens, v.unique_tokens), p.kappa)
    ),
    linear=("E", "A", "B", "K"),
    source="additive over-fitting penalty, the general form of the rival to decayed repetition "
    "(Lovelace et al. 2026, arXiv 2605.01640, names one parameter: fix the exponents for it)",
)

REPETITION_DECAY = Law(
    name="repetition_decay",
    equation="L = E + A/N^alpha + B/(U (1 + sum_r 2^(-r/tau)))^beta",
    variables=(PARAMS, TOKENS, UNIQUE_TOKENS),
    parameters=(*ADDITIVE, shape("tau", (0.2, 100.0))),
    formula=lambda p, v: (
        p.E
        + p.A * power(v.params, -p.alpha)
        + p.B * power(_worth(v.tokens, v.unique_tokens, -(jnp.log(2.0) / p.tau)), -p.beta)
    ),
    linear=("E", "A", "B"),
    source="utility that halves every tau repetitions, the continuous form of Goyal et al. 2024, "
    "arXiv 2404.07177 (its exponent on quality pools is not included)",
)


GADRE = "Gadre et al. 2024, arXiv 2403.08540"
OVER_TRAINING = Law(
    name="over_training",
    equation="L = E + a N^-eta + b D^-eta, D = M N (one exponent: the isoFLOP curves are parallel)",
    variables=(PARAMS, TOKENS),
    parameters=(offset("E"), *each(coefficient, "a", "b"), exponent("eta")),
    formula=lambda p, v: p.E + p.a * power(v.params, -p.eta) + p.b * power(v.tokens, -p.eta),
    linear=("E", "a", "b"),
    space="raw",
    derived={
        "compute_exponent": lambda p: p.eta / 2,
        "a_C": lambda p: p.a * 6.0 ** (p.eta / 2),
        "b_C": lambda p: p.b * 6.0 ** (p.eta / 2),
    },
    published=(
        Published(
            "redpajama",
            {"E": 1.8366, "a": 166.2, "b": 287.2, "eta": 0.27285},
            GADRE,
            "N includes embeddings; recomputed from their five points; their code prints "
            "366.7 = b 6^(eta/2)",
        ),
    ),
    source=GADRE + "; L = E + (a_C M^eta + b_C M^-eta) C^-eta of the paper with eta/2 for eta",
)

TRANSFER = Law(
    name="transfer",
    equation="D_T = k D_F^alpha N^beta",
    variables=(Variable("finetune_tokens", "D_F", "tokens"), PARAMS),
    target=Variable("effective_tokens", "D_T", "tokens"),
    parameters=(coefficient("k"), exponent("alpha"), exponent("beta")),
    formula=lambda p, v: p.k * power(v.finetune_tokens, p.alpha) * power(v.params, p.beta),
    linear=("k",),
    published=(
        Published("text_to_python", {"k": 1.9e4, "alpha": 0.18, "beta": 0.38}, "arXiv 2102.01293"),
        Published(
            "mixed_to_python", {"k": 2.1e5, "alpha": 0.096, "beta": 0.38}, "arXiv 2102.01293"
        ),
    ),
    source="Hernandez et al. 2021, arXiv 2102.01293",
)

VOCABULARY = Law(
    name="vocabulary",
    equation="L_u = -E + A1/N_nv^alpha1 + A2/N_v^alpha2 + B/H^beta",
    variables=(
        Variable("params_non_vocabulary", "N_nv", "parameters"),
        Variable("params_vocabulary", "N_v", "parameters"),
        Variable("characters", "H", "characters"),
    ),
    target=Variable("loss", "L_u", "unigram-normalised nats", positive=False),
    parameters=(
        offset("E", (0.0, 10.0), low=-1e3),
        *each(coefficient, "A1", "A2", "B"),
        *each(exponent, "alpha1", "alpha2", "beta"),
    ),
    formula=lambda p, v: (
        -p.E
        + p.A1 * power(v.params_non_vocabulary, -p.alpha1)
        + p.A2 * power(v.params_vocabulary, -p.alpha2)
        + p.B * power(v.characters, -p.beta)
    ),
    linear=("E", "A1", "A2", "B"),
    space="raw",
    tied={"beta": "alpha1"},
    published=(
        Published(
            "tao",
            {
                "E": 5.533,
                "A1": 1.831,
                "A2": 0.196,
                "B": 2.124,
                "alpha1": 0.447,
                "alpha2": 0.671,
                "beta": 0.447,
            },
            "Tao et al. 2024, arXiv 2407.13623",
            "units of N and H of the paper; secondary source",
        ),
    ),
    source="Tao et al. 2024, arXiv 2407.13623",
)

PROGRESS = Law(
    name="progress",
    equation="L = E + A/(N e^(a' t))^alpha + B/(D e^(b' t))^beta",
    variables=(PARAMS, TOKENS, Variable("year", "t", "years since the reference", positive=False)),
    parameters=(*ADDITIVE, *each(exponent, "a_year", "b_year", start=(0.0, 2.0), low=-10.0)),
    formula=lambda p, v: (
        p.E
        + p.A * power(v.params, -p.alpha) * jnp.exp(-p.alpha * p.a_year * v.year)
        + p.B * power(v.tokens, -p.beta) * jnp.exp(-p.beta * p.b_year * v.year)
    ),
    linear=("E", "A", "B"),
    derived={"doubling_months": lambda p: 12 * 0.6931471805599453 / (p.a_year + p.b_year)},
    source="Ho et al. 2024, arXiv 2403.05812",
)
