"""Fashion-MNIST with a CNN, a residual network or a Vision Transformer, through TFDS."""

import ml_collections

VARIANTS = ("cnn", "resnet")


def get_config(arg: str = "cnn") -> ml_collections.ConfigDict:
    """`arg` is the model."""
    config = ml_collections.ConfigDict()
    config.name = f"fashion_{arg or 'cnn'}"
    config.task = {
        "name": "augment",
        "crop": 2,
        "flip": True,
        "over": {"name": "classification"},
    }
    config.data = {"source": {"name": "tfds", "dataset": "fashion_mnist", "eval_split": "test"}}
    config.model = {
        "cnn": {"name": "cnn", "channels": (32, 64, 128), "batch_norm_group": 32, "dropout": 0.3},
        "resnet": {"name": "resnet", "depth": 8, "width": 32, "batch_norm_group": 32},
    }[arg or "cnn"]
    config.optim = {
        "name": "sgd",
        "learning_rate": 0.1,
        "schedule": {"name": "cosine", "warmup_steps": 200, "final_fraction": 0.0},
    }
    config.train = {"steps": 4680, "batch_size": 128}
    config.eval = {"every": 468, "batch_size": 500}
    return config
