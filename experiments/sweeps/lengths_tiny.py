"""A grid of model sizes and four lengths that share their trunks, on made-up text.

    python -m scaling.sweep --sweep=experiments/sweeps/lengths_tiny.py --workdir=runs/lengths
    python -m scaling.fit --runs=runs/lengths --law=chinchilla --flops=exact --cost=table \\
        --out=runs/lengths/fit

Each length is half as long again as the last and decays over its last fifth, so that the shorter
three cost a fifth of themselves: together 0.53 of what twelve independent runs do, with the same
losses.
"""

from scaling.sweeps import Sweep, axis, ladder, product, settings

LENGTHS = (400, 600, 900, 1350)
SIZES = ladder((16, 32, 64), aspect=128, head_dim=8)


def get_sweep(arg: str = "") -> Sweep:
    """Three sizes x four lengths; `arg` is not used and must be empty."""
    if arg:
        raise ValueError(f"lengths_tiny takes no argument, got {arg!r}")
    base = {
        "task": {"name": "language_model"},
        "data": {
            "source": {"name": "synthetic_zipf", "base": 16, "digits": 3, "eval_examples": 2048},
            "seq_len": 56,
        },
        "model": {"name": "transformer", "max_len": 64},
        "optim": {
            "name": "adamw",
            "learning_rate": 0.01,
            "weight_decay": 0.0,
            "schedule": {"name": "wsd", "warmup_steps": 40, "decay_fraction": 0.2},
        },
        "train": {"batch_size": 8},
        "eval": {"batch_size": 64},
        "checkpoint": {"every": 0, "keep_last": 1},
        "track": {"every": 50, "tensorboard": False},
    }
    return Sweep(base, product(settings(SIZES), axis("train.steps", LENGTHS)))
