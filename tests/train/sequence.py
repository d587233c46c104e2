"""Small runs of families of sequences; the argument is "family,TEXT" (a table of pairs to translate)."""

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
    "masked": {
        "name": "transformer",
        "causal": False,
        "num_layers": 1,
        "model_dim": 16,
        "num_heads": 2,
        "mlp_dim": 32,
    },
    "translation": {
        "name": "encoder_decoder",
        "num_layers": 1,
        "model_dim": 16,
        "num_heads": 2,
        "mlp_dim": 32,
        "max_len": 16,
    },
}


def get_config(arg: str) -> ml_collections.ConfigDict:
    family, _, path = arg.partition(",")
    config = language_model(family, path)
    if family == "masked":
        config.task = {"name": "masked_language_model", "whole_words": True}
        config.eval.also = {"pseudo_perplexity": {"batches": 1}}
    if family == "translation":
        config.task = {"name": "translation", "label_smoothing": 0.1, "beams": 2}
        config.data = {
            "source": {"name": "text_pairs", "source_paths": (path,), "source_len": 12},
            "eval_fraction": 0.2,
        }
        config.data.source.target_len = 10
        config.eval.also = {"translate": {"every": 4}}
    return config


def language_model(family: str, path: str) -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            "name": family,
            "task": {"name": "language_model"},
            "data": {
                "source": {"name": "files", "paths": (path,)},
                "text": {"seq_len": 8, "lanes": family in ("gru", "lstm")},
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
