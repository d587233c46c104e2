"""Llama shapes from 1 to 70 billion parameters.

    python -m scaling.main --config=experiments/llama.py:7b --workdir=runs/llama_7b \\
        --config.data.source.name=files --config.data.source.paths=CORPUS/*.jsonl.zst \\
        --config.platform=tpu

Parameters and optimizer state are split over all devices (`mesh.fsdp`); for 70b on GPUs add
`--config.mesh.tensor=8`. Without a source of your own it reads the text that every Python install has,
which is enough to compile and try the code.

1b is TinyLlama (2401.02385), 7b and 70b are Llama 2 (2307.09288), 16b is of the same family but no
published model. Recipe of Llama 2: batches of four million tokens, AdamW, cosine to a tenth. The
byte-pair vocabulary is trained on your corpus. These sizes are compiled here, not trained: no expected
loss is claimed.
"""

import ml_collections

VARIANTS = ("1b", "7b", "16b", "70b")

# layers, width, heads, key/value heads, hidden width, context, batch, learning rate
SIZES = {
    "1b": (22, 2048, 32, 4, 5632, 2048, 1024, 4e-4),
    "7b": (32, 4096, 32, 32, 11008, 4096, 1024, 3e-4),
    "16b": (40, 6144, 48, 8, 16384, 4096, 1024, 3e-4),
    "70b": (80, 8192, 64, 8, 28672, 4096, 1024, 1.5e-4),
}


def get_config(arg: str = "7b") -> ml_collections.ConfigDict:
    """`arg` is the size: 1b, 7b (default), 16b or 70b."""
    if (arg or "7b") not in SIZES:
        raise ValueError(f"llama takes one of {list(SIZES)}, got {arg!r}")
    layers, width, heads, groups, hidden, length, batch, learning_rate = SIZES[arg or "7b"]
    config = ml_collections.ConfigDict()
    config.name = f"llama_{arg or '7b'}"
    config.task = {"name": "language_model"}
    config.data = {
        "source": {"name": "stdlib"},
        "text": {
            "tokenizer": {"name": "bpe", "vocab_size": 32000},
            "seq_len": length,
        },
    }
    config.model = {
        "name": "transformer",
        "vocab_size": 32000,
        "num_layers": layers,
        "model_dim": width,
        "num_heads": heads,
        "num_kv_heads": groups,
        "mlp_dim": hidden,
        "max_len": length,
        "norm": "rmsnorm",
        "norm_epsilon": 1e-5,
        "position": "rope",
        "mlp": "swiglu",
        "remat": "full",
    }
    config.optim = {
        "name": "adamw",
        "learning_rate": learning_rate,
        "weight_decay": 0.1,
        "schedule": {"name": "cosine", "warmup_steps": 2000, "final_fraction": 0.1},
    }
    config.mesh = {"data": 1, "fsdp": -1}
    config.train = {"steps": 500_000, "batch_size": batch}
    config.eval = {"every": 1000, "batches": 20}
    config.checkpoint = {"every": 1000}
    return config
