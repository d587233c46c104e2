"""MNIST with a small CNN or an MLP, through TFDS.

    python -m scaling.main --config=experiments/mnist.py:cnn --workdir=runs/mnist_cnn
    python -m scaling.main --config=experiments/mnist.py:mlp --workdir=runs/mnist_mlp

Needs a prepared `mnist` in $TFDS_DATA_DIR, or `--config.data.source.data_dir=DIR`.
"""

import ml_collections

VARIANTS = ("cnn", "mlp")


def get_config(arg: str = "cnn") -> ml_collections.ConfigDict:
    """`arg` is the model: "cnn" (default) or "mlp"."""
    models = {"cnn": {"name": "cnn"}, "mlp": {"name": "mlp"}}
    if (arg or "cnn") not in models:
        raise ValueError(f"mnist takes {sorted(models)}, got {arg!r}")
    config = ml_collections.ConfigDict()
    config.name = f"mnist_{arg or 'cnn'}"
    config.task = {"name": "classification"}
    config.data = {"source": {"name": "tfds", "dataset": "mnist", "eval_split": "test"}}
    config.model = models[arg or "cnn"]
    config.optim = {
        "name": "adamw",
        "learning_rate": 2e-3,
        "schedule": {"name": "cosine", "warmup_steps": 50},
    }
    config.train = {"steps": 1000, "batch_size": 128}
    config.eval = {"every": 250, "batch_size": 512}
    return config
