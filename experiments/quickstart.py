"""A small Transformer language model on the text that every Python install has.

    python -m scaling.main --config=experiments/quickstart.py --workdir=runs/quickstart

Bytes in, bytes out, no download. Held-out documents are evaluated on the way and at the end.
"""

import ml_collections


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """The first run of a newcomer; `arg` is not used and must be empty."""
    if arg:
        raise ValueError(f"quickstart takes no argument, got {arg!r}")
    config = ml_collections.ConfigDict()
    config.name = "quickstart"
    config.task = {"name": "language_model"}
    config.data = {"source": {"name": "stdlib"}, "tokenizer": {"name": "bytes"}, "seq_len": 128}
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
        "schedule": {"name": "wsd", "warmup_steps": 20, "decay_fraction": 0.4},
    }
    config.train = {"steps": 400, "batch_size": 16}
    config.eval = {"every": 100, "batches": 20}
    config.checkpoint = {"every": 100}
    return config
