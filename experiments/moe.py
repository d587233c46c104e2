"""A mixture of experts beside the dense Transformer, at equal active parameters and tokens.

    python -m scaling.main --config=experiments/moe.py:moe,PATH/TO/books.jsonl.xz --workdir=runs/moe
    python -m scaling.main --config=experiments/moe.py:dense,PATH/TO/books.jsonl.xz --workdir=runs/dense

The text is one shard of Project Gutenberg, a book a line under the key `text`, read as bytes. Both
have 4 layers of width 128. A token passes through one feed-forward of hidden width 344, or through 2 of
8 experts of width 172; the routers' 4,096 parameters are all that the mixture has more.
"""

import ml_collections

VARIANTS = ("moe", "dense")


def get_config(arg: str = "moe") -> ml_collections.ConfigDict:
    """`arg` is "moe" or "dense" and the text files: "moe,PATH"."""
    kind, _, path = (arg or "moe").partition(",")
    if kind not in VARIANTS:
        raise ValueError(f"{kind!r} is not one of {', '.join(VARIANTS)}")
    config = ml_collections.ConfigDict()
    config.name = f"gutenberg_{kind}"
    config.task = {"name": "language_model"}
    config.data = {
        "source": {"name": "files", "paths": (path or "books.jsonl.xz",)},
        "text": {"tokenizer": {"name": "bytes"}, "seq_len": 64},
        "eval_fraction": 0.02,
    }
    config.model = {
        "name": "transformer",
        "num_layers": 4,
        "model_dim": 128,
        "num_heads": 4,
        "mlp": "swiglu",
        "mlp_dim": 344,
        "qk_norm": True,
        "rope_theta": 100.0,
        "tie_embeddings": True,
    }
    if kind == "moe":
        config.model.feed_forward = "moe"
        config.model.feed_forward_options = {"experts": 8, "top_k": 2}
    config.optim = {
        "name": "muon",
        "learning_rate": 0.035,
        "weight_decay": 0.0,
        "adam_learning_rate": 0.005,
        "schedule": {"name": "linear", "warmup_steps": 50},
    }
    config.train = {"steps": 1500, "batch_size": 16}
    config.eval = {"every": 500, "batches": 20, "batch_size": 64}
    return config
