"""MNIST with a small CNN or an MLP, through TFDS.

    python -m scaling.main --config=experiments/mnist.py:cnn --workdir=runs/mnist_cnn
    python -m scaling.main --config=experiments/mnist.py:mlp --workdir=runs/mnist_mlp

Needs a prepared `mnist` in $TFDS_DATA_DIR, or `--config.data.source.data_dir=DIR`.

Measured 2026-11-22 with JAX 0.10.2 on 2 shared CPU cores, seed 0: test accuracy 99.26 % of the CNN
(57 seconds in all), 98.30 % of the MLP (9 seconds).
"""

import ml_collections

VARIANTS = ("cnn", "mlp")


def get_config(arg: str = "cnn") -> ml_collections.ConfigDict:
    """`arg` is the model: "cnn" (default) or "mlp"."""
    models = {
        # Groups of 32 rows share batch statistics: accumulating 1, 2 or 4 microbatches is the same.
        "cnn": {"name": "cnn", "channels": (16, 32, 64), "batch_norm_group": 32},
        "mlp": {"name": "mlp", "hidden_dims": (512, 256)},
    }
    if (arg or "cnn") not in models:
        raise ValueError(f"mnist takes {sorted(models)}, got {arg!r}")
    config = ml_collections.ConfigDict()
    config.name = f"mnist_{arg or 'cnn'}"
    config.task = {"name": "classification"}
    config.data = {"source": {"name": "tfds", "dataset": "mnist", "eval_split": "test"}}
    config.model = models[arg or "cnn"]
    config.optim = {
        "name": "adamw",
        "learning_rate": 4e-3 if arg != "mlp" else 2e-3,
        "schedule": {"name": "cosine", "warmup_steps": 50, "final_fraction": 0.0},
    }
    config.train = {"steps": 1200, "batch_size": 128}
    config.eval = {"every": 400, "batch_size": 500}
    return config
