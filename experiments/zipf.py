"""One run on the made-up text of `sweeps/isoflop_tiny.py`, four times the compute of its largest.

    python -m scaling.main --config=experiments/zipf.py --workdir=runs/zipf

It stands for the run that a group can afford once: fit a law to the sweep, forecast this run, make
it, read the grade (docs/tutorial.md).

Measured 2026-11-23 with JAX 0.10.2 on 2 CPU cores: 0.8788 nats a token on held-out text, whose entropy
rate is 0.822; 46 seconds in all (59 on one core). The law fitted to the sweep's 25 runs says 0.845
[0.789, 0.899].
"""

import ml_collections


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """34 thousand parameters, 4.4 million tokens; `arg` is not used and must be empty."""
    if arg:
        raise ValueError(f"zipf takes no argument, got {arg!r}")
    config = ml_collections.ConfigDict()
    config.name = "zipf"
    config.task = {"name": "language_model"}
    config.data = {
        "source": {"name": "synthetic_zipf", "base": 16, "digits": 3, "eval_examples": 4096},
        "text": {
            "seq_len": 56,
        },
    }
    config.model = {
        "name": "transformer",
        "num_layers": 1,
        "model_dim": 48,
        "num_heads": 6,
        "max_len": 64,
    }
    config.optim = {
        "name": "adamw",
        "learning_rate": 0.02,
        "weight_decay": 0.0,
        "schedule": {"name": "linear", "warmup_fraction": 0.1},
    }
    config.train = {"steps": 9896, "batch_size": 8}
    config.eval = {"batch_size": 64}
    config.checkpoint = {"every": 0, "keep_last": 1}
    config.track = {"every": 100, "tensorboard": False}
    return config
