"""GPT-2's four sizes, trained as nanoGPT trains them.

    python -m scaling.main --config=experiments/gpt2.py:124m --workdir=runs/gpt2_124m \\
        --config.data.source.name=files --config.data.source.paths=CORPUS/*.jsonl.zst \\
        --config.platform=gpu

Without a source of your own it reads the text that every Python install has, which is enough to try
the code and far too little to train a model. 124m fits one 80 GB GPU with
`--config.train.accumulate=16`; for the others, and for several devices, add `--config.mesh.fsdp=-1
--config.mesh.data=1` (parameters split over all devices) and `--config.model.remat=dots`.

On one NVIDIA H200 the step of 124m is a fifth faster with `--config.model.unroll=12`, whose layers
do not run as a loop, and compiles four times as long (docs/results.md).

Shapes: Radford et al. 2019; learned positions, LayerNorm, biases, tied embeddings. Recipe: batches of
half a million tokens, AdamW, cosine to a tenth (nanoGPT); learning rates of the larger sizes from
GPT-3 (2005.14165, table 2.1). Differences from the originals: the initialisation is this package's
(see `scaling.models.transformer`), no dropout, and the byte-pair vocabulary is trained on your
corpus. These sizes are compiled here, not trained: no expected loss is claimed.
"""

import ml_collections

VARIANTS = ("124m", "350m", "774m", "1.5b")

# layers, width, heads, learning rate
SIZES = {
    "124m": (12, 768, 12, 6e-4),
    "350m": (24, 1024, 16, 3e-4),
    "774m": (36, 1280, 20, 2.5e-4),
    "1.5b": (48, 1600, 25, 2e-4),
}


def get_config(arg: str = "124m") -> ml_collections.ConfigDict:
    """`arg` is the size: 124m (default), 350m, 774m or 1.5b."""
    if (arg or "124m") not in SIZES:
        raise ValueError(f"gpt2 takes one of {list(SIZES)}, got {arg!r}")
    layers, width, heads, learning_rate = SIZES[arg or "124m"]
    config = ml_collections.ConfigDict()
    config.name = f"gpt2_{arg or '124m'}"
    config.task = {"name": "language_model"}
    config.data = {
        "source": {"name": "stdlib"},
        "text": {
            "tokenizer": {"name": "bpe", "vocab_size": 50257},
            "seq_len": 1024,
            "mask_documents": False,  # as GPT-2; cuDNN's attention takes no segments
        },
    }
    config.model = {
        "name": "transformer",
        "vocab_size": 50257,
        "num_layers": layers,
        "model_dim": width,
        "num_heads": heads,
        "max_len": 1024,
        "norm": "layernorm",
        "norm_epsilon": 1e-5,
        "position": "learned",
        "mlp": "gelu",
        "bias": True,
        "tie_embeddings": True,
    }
    config.optim = {
        "name": "adamw",
        "learning_rate": learning_rate,
        "weight_decay": 0.1,
        "schedule": {"name": "cosine", "warmup_steps": 2000, "final_fraction": 0.1},
    }
    config.train = {"steps": 600_000, "batch_size": 480}
    config.eval = {"every": 1000, "batches": 50, "batch_size": 48}
    config.checkpoint = {"every": 1000}
    return config
