"""Masked language models of Gutenberg's books, seven sizes; pseudo-perplexity on held-out books.

    python -m scaling.main --config=experiments/masked_lm.py:small,FOLDER --workdir=runs/mlm_small
    python -m scaling.main --config=experiments/masked_lm.py:nano,FOLDER --workdir=runs/mlm_nano

FOLDER has train-*.jsonl.xz and validation.jsonl.xz, a book a line under the key `text`. The three least
sizes are a ladder for two CPU cores: one shard, a smaller vocabulary, short runs, equal for all three.

Measured 2026-11-26 with JAX 0.10.2 on 2 shared CPU cores, very busy, seed 0, after 2 million tokens:
pseudo-perplexity of the first 8,192 held-out tokens 1,395 (`pico`, 0.16 million parameters), 512
(`nano`, 0.36) and 362 (`micro`, 0.93); loss of the hidden tokens in all held-out books 5.988, 5.338
and 5.087 nats. 126, 159 and 278 s of processor time. The larger sizes have not been trained.
"""

import pathlib
import sys

import ml_collections

# (layers, width, heads)
SIZES = {
    "pico": (2, 32, 2),
    "nano": (2, 64, 2),
    "micro": (2, 128, 2),
    "mini": (2, 128, 2),
    "small": (4, 256, 4),
    "medium": (8, 512, 8),
    "base": (12, 768, 12),
}
ON_CPU = ("pico", "nano", "micro")
VARIANTS = tuple(SIZES)


def get_config(arg: str = "small") -> ml_collections.ConfigDict:
    """`arg` is SIZE or SIZE,FOLDER: one of `SIZES` ("small" by default), and where the books are."""
    size, _, folder = (arg or "small").partition(",")
    if size not in SIZES:
        raise ValueError(f"masked_lm takes {sorted(SIZES)}, got {size!r}")
    if not (pathlib.Path(folder) / "validation.jsonl.xz").exists():
        remedy = f"give the folder that has it: experiments/masked_lm.py:{size},FOLDER"
        print(f"note: data.source.paths: no validation.jsonl.xz here; {remedy}", file=sys.stderr)
    layers, width, heads = SIZES[size]
    config = ml_collections.ConfigDict()
    config.name = f"masked_lm_{size}"
    config.task = {"name": "masked_language_model", "whole_words": True}
    config.data = {
        "source": {
            "name": "files",
            "paths": (str(pathlib.Path(folder) / "train-*.jsonl.xz"),),
            "eval_paths": (str(pathlib.Path(folder) / "validation.jsonl.xz"),),
        },
        "text": {"seq_len": 128, "tokenizer": {"name": "bpe", "vocab_size": 8192}},
    }
    config.model = {
        "name": "transformer",
        "causal": False,
        "vocab_size": 8256,  # 8,192 and the mask, made to divide by 64
        "num_layers": layers,
        "model_dim": width,
        "num_heads": heads,
        "mlp": "gelu",
        "max_len": 128,
        "tie_embeddings": True,
    }
    config.optim = {
        "name": "adamw",
        "learning_rate": 1e-3 if width <= 256 else 5e-4,
        "weight_decay": 0.1,
        "schedule": {"name": "cosine", "warmup_steps": 500, "final_fraction": 0.0},
    }
    config.train = {"steps": 10_000, "batch_size": 256}
    config.eval = {
        "every": 1000,
        "batches": 20,
        "also": {"pseudo_perplexity": {"every": 0, "batches": 4, "batch_size": 64}},
    }
    if size in ON_CPU:
        config.data.source.paths = (str(pathlib.Path(folder) / "train-00000-of-*.jsonl.xz"),)
        config.data.text.tokenizer.vocab_size = 4096
        config.model.vocab_size = 4160
        config.optim.update({"learning_rate": 2e-3, "schedule": {"warmup_steps": 100}})
        config.train.update({"steps": 1000, "batch_size": 16})
        config.eval.update({"batches": 4, "also": {"pseudo_perplexity": {"batches": 1}}})
    return config
