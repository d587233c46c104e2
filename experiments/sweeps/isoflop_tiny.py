"""An isoFLOP grid in minutes on a laptop, on made-up text whose entropy rate is known.

    python -m scaling.sweep --sweep=experiments/sweeps/isoflop_tiny.py --workdir=runs/isoflop
    python -m scaling.fit --runs=runs/isoflop --law=chinchilla --flops=exact --cost=table \\
        --out=runs/isoflop/fit
"""

from scaling.sweeps import Sweep, isoflop, ladder, power_rule

BUDGETS = (1.5e10, 3e10, 6e10, 1.2e11, 2.4e11, 4.8e11)  # exact FLOPs of a run
SIZES = ladder((8, 16, 24, 32, 48, 64, 96), aspect=128, head_dim=8)
# Measured on coarser grids of this very text; Chinchilla's rule is about another text.
BEST = power_rule(params=10_000, flops=3e10, exponent=0.4)


def get_sweep(arg: str = "") -> Sweep:
    """Six budgets over a factor of 32, five sizes each; `arg` is not used and must be empty."""
    if arg:
        raise ValueError(f"isoflop_tiny takes no argument, got {arg!r}")
    base = {
        "task": {"name": "language_model"},
        "data": {
            # 4,096 subjects of 3 digits with 4 attributes each, cut into 8 sentences of 7 tokens.
            "source": {"name": "synthetic_zipf", "base": 16, "digits": 3, "eval_examples": 4096},
            "seq_len": 56,
        },
        "model": {"name": "transformer", "max_len": 64},
        "optim": {
            "name": "adamw",
            "learning_rate": 0.02,
            "weight_decay": 0.0,
            "schedule": {"name": "linear", "warmup_fraction": 0.1},
        },
        "train": {"batch_size": 8},
        "eval": {"batch_size": 64},
        "checkpoint": {"every": 0, "keep_last": 1},
        "track": {"every": 100, "tensorboard": False},
    }
    return Sweep(base, isoflop(BUDGETS, SIZES, per_budget=5, optimum=BEST), optimum=BEST)
