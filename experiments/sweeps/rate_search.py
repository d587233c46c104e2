"""Learning rate and weight decay of a small Transformer by TPE, with the worse half of a batch pruned.

    python -m scaling.sweep --search=experiments/sweeps/rate_search.py --workdir=runs/search \\
        --trials=32 --batch=16

A batch of 16 differs in numbers alone and trains as one population. The same command goes on after a
kill; more `--trials` go on after the end.
"""

from scaling.sweeps.search import Float, Search


def get_search(arg: str = "") -> Search:
    """Two axes on made-up text; `arg` is not used and must be empty."""
    if arg:
        raise ValueError(f"rate_search takes no argument, got {arg!r}")
    base = {
        "task": {"name": "language_model"},
        "data": {
            "source": {"name": "synthetic_zipf", "base": 16, "digits": 3, "eval_examples": 1024},
            "seq_len": 56,
        },
        "model": {"name": "transformer", "num_layers": 2, "model_dim": 32, "num_heads": 4},
        "optim": {"name": "adamw", "schedule": {"name": "cosine", "warmup_steps": 20}},
        "train": {"steps": 400, "batch_size": 16, "on_bad_step": "skip"},
        "eval": {"every": 100, "batch_size": 64},
        "checkpoint": {"every": 0, "keep_last": 1},
        "track": {"every": 50, "tensorboard": False},
    }
    space = {
        "optim.learning_rate": Float(1e-4, 1e-1, log=True),
        "optim.weight_decay": Float(1e-3, 1.0, log=True),
    }
    return Search(base, space, pruner="asha", rung=100, reduction=2, startup=8)
