"""Small runs of the recurrent and the mixture-of-experts families; the argument is "family,TEXT"."""

import ml_collections

MODELS = {
    "gru": {"name": "rnn", "cell": "gru", "num_layers": 2, "model_dim": 16},
    "lstm": {"name": "rnn", "cell": "lstm", "num_layers": 1, "model_dim": 16, "dropout": 0.1},
    "moe": {
        "name": "transformer",
        "num_layers": 2,
        "model_dim": 16,
        "num_heads": 2,
        "mlp_dim": 32,
        "feed_forward": "moe",
        # With the bias alone a batch may be cut anywhere: the balance loss is not linear in it.
        "feed_forward_options": {"experts": 8, "bias_rate": 0.01, "balance": 0.0},
    },
}


def get_config(arg: str) -> ml_collections.ConfigDict:
    family, _, path = arg.partition(",")
    return ml_collections.ConfigDict(
        {
            "name": family,
            "task": {"name": "language_model"},
            "data": {
                "source": {"name": "files", "paths": (path,)},
                "text": {"seq_len": 8, "lanes": family != "moe"},
                "eval_fraction": 0.2,
            },
            "model": {**MODELS[family], "vocab_size": 264},  # 257 tokens, made to divide by 8
            "optim": {"name": "adamw", "learning_rate": 1e-2, "schedule": {"name": "constant"}},
            "train": {"steps": 8, "batch_size": 32},
            "eval": {"every": 4, "batch_size": 16},
            "checkpoint": {"every": 4},
            "track": {"every": 1, "tensorboard": False, "progress": "off"},
        }
    )
