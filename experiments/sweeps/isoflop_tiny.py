"""An isoFLOP grid in minutes on a laptop, on made-up text whose entropy rate is known.

    python -m scaling.sweep --sweep=experiments/sweeps/isoflop_tiny.py --workdir=runs/isoflop
    python -m scaling.fit --runs=runs/isoflop --law=chinchilla --flops=exact --cost=table \\
        --budgets=2.4e11 --out=runs/isoflop/fit

Measured 2026-11-22 with JAX 0.10.2 on 2 CPU cores, two workers, empty caches: 181 s for the sweep, 18 s
for the fit. The table lies beside this file, the figure in docs/images. The lowest loss of every budget
is inside its sizes. Fitted to all 25 runs (2026-11-25), E is 0.781 [0.578, 0.840] nats per token, and
the text's entropy rate, known exactly, is 0.822; at 2.4e11 FLOPs N* is 19.3k [13.6k, 24.4k] and D* 1.93M
[1.54M, 2.69M]. Fitted without the largest budget, the law gives 0.869 [0.822, 0.906] for the run that
was best there, which came to 0.902, inside it.

`isoflop_tiny.py:6` in the same directory adds a sixth budget of five runs, twice as long.
"""

from scaling.sweeps import Sweep, isoflop, ladder, power_rule

BUDGETS = (1.5e10, 3e10, 6e10, 1.2e11, 2.4e11, 4.8e11)  # exact FLOPs of a run
SIZES = ladder((8, 16, 24, 32, 48, 64, 96), aspect=128, head_dim=8)
# Measured on coarser grids of this very text; Chinchilla's rule is about another text.
BEST = power_rule(params=10_000, flops=3e10, exponent=0.5)


def get_sweep(arg: str = "5") -> Sweep:
    """Five sizes at each of the first `arg` budgets; five of them span a factor of 16."""
    if arg not in ("4", "5", "6"):
        raise ValueError(f"isoflop_tiny takes how many budgets, 4 to 6, got {arg!r}")
    budgets = BUDGETS[: int(arg)]
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
    return Sweep(base, isoflop(budgets, SIZES, per_budget=5, optimum=BEST), optimum=BEST)
