"""Tiny Shakespeare at the size and budget of nanoGPT's CPU example.

    python -m scaling.main --config=experiments/shakespeare.py --workdir=runs/shakespeare \\
        --config.data.source.paths=PATH/TO/input.txt

4 layers, 4 heads, width 128, context 64, batch 12, 2,000 steps, no dropout; nanoGPT's 90/10 split by
position, the whole last tenth evaluated.
"""

import ml_collections


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """`arg` is the text file; by default the copy beside a development checkout."""
    config = ml_collections.ConfigDict()
    config.name = "shakespeare"
    config.task = {"name": "language_model"}
    config.data = {
        "source": {
            "name": "files",
            "paths": (arg or "../shared/data/tinyshakespeare/input.txt",),
        },
        "tokenizer": {"name": "bytes"},
        "seq_len": 64,
        "eval_fraction": 0.1,
    }
    config.model = {
        "name": "transformer",
        "num_layers": 4,
        "model_dim": 128,
        "num_heads": 4,
        "mlp": "relu2",
        "qk_norm": True,
    }
    config.optim = {
        "name": "muon",
        "learning_rate": 0.02,
        "adam_learning_rate": 0.005,
        "schedule": {"name": "wsd", "warmup_steps": 50, "decay_fraction": 0.5},
    }
    config.train = {"steps": 2000, "batch_size": 12}
    config.eval = {"every": 500}
    return config
