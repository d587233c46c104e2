"""Designs and true parameters under which each law of the catalogue can be recovered."""

import numpy as np

from scaling.laws.screen import quasi_random

RANGES = {
    "params": (1e7, 1e10), "tokens": (1e9, 3e11), "flops": (1e18, 1e22), "pf_days": (1e-5, 1e2),
    "steps": (1e3, 1e6), "loss": (1.8, 4.0), "batch": (1e4, 1e7), "unique_tokens": (3e8, 1e9),
    "experts": (1, 512), "finetune_tokens": (1e5, 1e9), "params_non_vocabulary": (1e1, 1e4),
    "params_vocabulary": (1e0, 1e3), "characters": (1e0, 1e3), "year": (0, 10),
    "task_loss": (0.3, 1.5), "samples": (1, 1e4), "examples": (1e2, 1e6), "granularity": (1, 32),
    "sparsity": (0, 0.95), "weight_bits": (3, 16), "teacher_loss": (1.9, 2.6),
    "student_loss": (2.0, 3.2),
}  # fmt: skip
OVERRIDES = {
    "zhai": {"flops": (1e-2, 1e4)},
    "bnsl": {"examples": (100, 2000)},
    "m4": {"examples": (1e0, 1e6)},
    "scale_rl": {"flops": (1e18, 1e23)},
}
TRUTH = {
    "henighan_n": {"L_inf": 1.7, "A": 40.0, "alpha": 0.2},
    "henighan_d": {"L_inf": 1.7, "A": 400.0, "alpha": 0.28},
    "henighan_c": {"L_inf": 1.7, "A": 2000.0, "alpha": 0.16},
    "ladder_loss": {"E": 0.4, "A": 40.0, "B": 200.0, "alpha": 0.25, "beta": 0.3},
    "llama_answer_loss": {"c": 3.0, "s": 0.05},
    "scale_rl": {"R0": 0.1, "gain": 0.5, "C_mid": 1e20, "B": 0.7},
    "weight_sparsity": {
        "a_S": 30.0, "c_S": 10.0, "K_D": 400.0, "c": 1.2, "b_S": 0.7, "b_N": 0.25, "b_D": 0.3
    },
    "m1": {"b": 5.0, "c": 0.3}, "m2": {"e_inf": 0.1, "b": 5.0, "c": 0.3},
    "m4": {"e_inf": 0.1, "a": 2.8, "c": 0.5, "alpha": 0.7, "x0": 10.0},
    "repetition_decay": {
        "E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37, "tau": 4.0
    },
    "progress": {
        "E": 1.2, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37, "a_year": 0.4,
        "b_year": 0.3,
    },
    "precision": {
        "E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37, "gamma_w": 2.5
    },
    "ladder_accuracy": {"b": 0.2, "a": 0.7, "k": 6.0, "L0": 0.8},
    "batch_steps": {"S_min": 2000.0, "B_crit": 4e5},
    "post_training_quantisation": {"C_T": 0.1, "gamma_D": 0.5, "gamma_N": 0.45, "gamma_P": 0.6},
    "bnsl_0": {"a": 0.3, "b": 20.0, "c0": 0.4},
    "repeated_sampling": {"a": 2.0, "b": 0.4},
    "farseer": {
        "E": 0.55, "B": 0.14, "rate": 0.31, "E_N": -0.12, "B_N": 0.3, "rate_N": -0.2, "g": 0.17,
        "be": -0.1, "al": 0.12,
    },
    "repetition_penalty": {
        "E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37, "K": 0.5, "gamma": 0.3,
        "kappa": 0.5, "eta": 0.4,
    },
    "distillation": {
        "A": 400.0, "B": 2000.0, "alpha": 0.3, "beta": 0.3, "gamma": 1.0, "c0": 1.4, "c1": 1.8,
        "d1": 0.95, "f1": 0.14,
    },
    "bnsl_2": {
        "a": 0.1, "b": 5.0, "c0": 0.1, "c1": 0.3, "d1": 1e3, "f1": 0.3, "c2": -0.2, "d2": 3e4,
        "f2": 0.3,
    },
    "bnsl_3": {
        "a": 0.1, "b": 5.0, "c0": 0.1, "c1": 0.3, "d1": 1e3, "f1": 0.3, "c2": -0.2, "d2": 1e4,
        "f2": 0.3, "c3": 0.3, "d3": 1e5, "f3": 0.3,
    },
    "moe_sparsity": {
        "e": 1.2, "a": 1e5, "b": 6000.0, "c": 0.3, "d": 15.0, "alpha": 0.6, "beta": 0.4,
        "lambda_": -0.17, "delta": 0.16, "gamma": 0.16,
    },
    "vocabulary": {
        "E": 2.0, "A1": 6.0, "A2": 3.0, "B": 4.0, "alpha1": 0.447, "alpha2": 0.671, "beta": 0.447
    },
}  # fmt: skip

# What must come back, law by law; laws absent from here are over-parametrised on any small design
# (joint_moe, distillation, m3_offset, bnsl_2, bnsl_3, moe_sparsity, repetition_penalty,
# routed_offset).
CASES = {
    "kaplan_n": ("alpha_N", "Nc"), "kaplan_d": ("alpha_D",), "kaplan_c": ("alpha_C",),
    "kaplan_nd": ("alpha_N", "alpha_D", "Nc", "Dc"), "kaplan_ns": ("alpha_N", "alpha_S"),
    "critical_batch": ("alpha_B", "B_star"), "batch_steps": ("S_min", "B_crit"),
    "henighan_n": ("alpha", "L_inf"), "henighan_d": ("alpha", "L_inf"),
    "henighan_c": ("alpha", "L_inf"), "chinchilla": ("alpha", "beta", "E", "A", "B"),
    "data_constrained": ("alpha", "beta", "R_D", "R_N"), "repetition_decay": ("tau", "alpha"),
    "over_training": ("eta", "a", "b", "E"), "transfer": ("alpha", "beta", "k"),
    "vocabulary": ("alpha1", "alpha2"), "progress": ("a_year", "b_year"),
    "task_error": ("epsilon", "k", "gamma"), "ladder_loss": ("alpha", "beta"),
    "ladder_accuracy": ("k", "L0"), "llama_answer_loss": ("s",), "llama_tokens": ("alpha", "A"),
    "scale_rl": ("C_mid", "B"), "repeated_sampling": ("a", "b"), "bnsl_0": ("c0",),
    "bnsl": ("c0", "c1", "d1", "f1"), "m1": ("c",), "m2": ("c", "e_inf"), "m3": ("c",),
    "m4": ("c", "alpha", "e_inf"), "zhai": ("b", "c"), "routed": ("a", "b", "c", "d"),
    "fine_grained_moe": ("alpha", "beta", "gamma"), "weight_sparsity": ("b_S", "b_N", "b_D"),
    "lr_compute": ("gamma",), "batch_compute": ("gamma",), "model_compute": ("gamma",),
    "data_compute": ("gamma",), "lr_step_law": ("alpha", "beta"), "batch_step_law": ("beta",),
    "farseer": ("E", "B", "rate", "E_N", "B_N", "rate_N", "g", "be", "al"),
    "precision": ("gamma_w", "alpha"), "post_training_quantisation": ("gamma_P", "gamma_D"),
}  # fmt: skip


def design(law, points=60):
    """Quasi-random values of the variables, logarithmic where the range allows."""
    unit = quasi_random(points, len(law.variables), 3)
    columns = {}
    for i, variable in enumerate(law.variables):
        low, high = OVERRIDES.get(law.name, RANGES).get(variable.name, RANGES[variable.name])
        if low <= 0:
            columns[variable.name] = low + unit[:, i] * (high - low)
        else:
            columns[variable.name] = low * (high / low) ** unit[:, i]
    return columns


def truth(law):
    """Parameters to recover: given above, published, or the middle of the start ranges."""
    if law.name in TRUTH:
        return dict(TRUTH[law.name])
    if law.published and len(law.published[0].values) == len(law.parameters):
        return dict(law.published[0].values)
    values = {
        p.name: float(np.sqrt(p.start[0] * p.start[1])) if p.kind == "log"
        else 0.4 * p.start[0] + 0.6 * p.start[1]
        for p in law.parameters
    }  # fmt: skip
    return {**values, **{k: values[v] for k, v in law.tied.items()}}
