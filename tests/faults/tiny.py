"""The run that the fault tests kill: small enough to start often, long enough to be hit anywhere.

The argument is the text file to train on.
"""

import ml_collections


def get_config(arg: str) -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            "name": "tiny",
            "task": {"name": "language_model"},
            "data": {"source": {"name": "files", "paths": (arg,)}, "seq_len": 16},
            "model": {
                "name": "transformer",
                "num_layers": 2,
                "model_dim": 32,
                "num_heads": 4,
                "dropout": 0.1,  # random keys must survive a kill too
            },
            "optim": {"name": "adamw", "schedule": {"name": "cosine", "warmup_steps": 5}},
            "train": {"steps": 400, "batch_size": 8, "ema_decay": 0.99},
            "eval": {"every": 40, "batches": 2},
            "checkpoint": {"every": 10},
            "track": {"every": 1, "tensorboard": False, "progress": "lines"},
        }
    )
