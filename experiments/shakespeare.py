"""Tiny Shakespeare at the size and budget of nanoGPT's CPU example.

    python -m scaling.main --config=experiments/shakespeare.py:PATH/TO/input.txt \\
        --workdir=runs/shakespeare

The text, 1,115,394 characters, is at `URL` below; without an argument it is looked for as
`shakespeare.txt` in the current folder.

4 layers, 4 heads, width 128, context 64, batch 12, 2,000 steps, no dropout, 824,832 parameters;
nanoGPT's 90/10 split by position, the whole last tenth evaluated. nanoGPT gives 1.88 nats per character.

Measured 2026-11-22 with JAX 0.10.2 on 2 shared CPU cores: 1.5591, 1.5526 and 1.5542 nats per character
with `--config.seed` 0, 1 and 2, in the mean 1.5553 (the three at once, beside other work, took
17 minutes of training).
"""

import pathlib
import sys

import ml_collections

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """`arg` is the text file."""
    path = arg or "shakespeare.txt"
    if not pathlib.Path(path).exists():
        remedy = f"get {URL} and give its path: --config=experiments/shakespeare.py:PATH"
        print(f"note: data.source.paths: there is no {path} here; {remedy}", file=sys.stderr)
    config = ml_collections.ConfigDict()
    config.name = "shakespeare"
    config.task = {"name": "language_model"}
    config.data = {
        "source": {
            "name": "files",
            "paths": (path,),
        },
        "text": {
            "tokenizer": {"name": "bytes"},
            "seq_len": 64,
            "mask_documents": False,  # the file is one document
        },
        "eval_fraction": 0.1,
    }
    config.model = {
        "name": "transformer",
        "num_layers": 4,
        "model_dim": 128,
        "num_heads": 4,
        "mlp": "swiglu",
        "mlp_dim": 344,  # three matrices with the parameters of two of width 512
        "qk_norm": True,
        "rope_theta": 100.0,  # the longest wavelength is a few contexts
        "tie_embeddings": True,
    }
    config.optim = {
        "name": "muon",
        "learning_rate": 0.035,
        "weight_decay": 0.0,
        "adam_learning_rate": 0.005,
        "schedule": {"name": "linear", "warmup_steps": 50},
    }
    config.train = {"steps": 2000, "batch_size": 12}
    config.eval = {"every": 500, "batch_size": 64}
    return config
