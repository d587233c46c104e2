"""Unique tokens x epochs over them: what repeated data is worth, on made-up text.

    python -m scaling.sweep --sweep=experiments/sweeps/repeats_tiny.py --workdir=runs/repeats

Measured 2026-11-25 with JAX 0.10.2, one worker on a busy machine with 2 CPU cores: 11 minutes. After
229k tokens the loss is 1.019 nats a token where all are unique, 1.028 after 4 epochs and 1.343 after
16: a few repeats are almost as good as new data, many are not (Muennighoff et al. 2023,
arXiv:2305.16264). The table has the columns of the laws `data_constrained` and `repetition_penalty`;
to fit one, add sizes: `product(settings(ladder(...)), data_constrained(...))`.
"""

from scaling.sweeps import Sweep, data_constrained

UNIQUE = (14_336, 57_344, 229_376)  # tokens: 32, 128 and 512 steps of 448
EPOCHS = (1, 4, 16)


def get_sweep(arg: str = "") -> Sweep:
    """Three amounts of data, each seen three times as often; `arg` must be empty."""
    if arg:
        raise ValueError(f"repeats_tiny takes no argument, got {arg!r}")
    base = {
        "task": {"name": "language_model"},
        "data": {
            "source": {"name": "synthetic_zipf", "base": 16, "digits": 3, "eval_examples": 1024},
            "seq_len": 56,
        },
        "model": {"name": "transformer", "num_layers": 1, "model_dim": 32, "num_heads": 4},
        "optim": {
            "name": "adamw",
            "learning_rate": 0.01,
            "weight_decay": 0.0,
            "schedule": {"name": "linear", "warmup_fraction": 0.1},
        },
        "train": {"batch_size": 8},
        "eval": {"batch_size": 64},
        "checkpoint": {"every": 0, "keep_last": 1},
        "track": {"every": 50, "tensorboard": False},
    }
    return Sweep(base, data_constrained(UNIQUE, EPOCHS))
