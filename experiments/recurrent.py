"""GRU and LSTM on tiny Shakespeare, beside the Transformer of `shakespeare.py` at equal parameters.

    python -m scaling.main --config=experiments/recurrent.py:gru,PATH/TO/input.txt \\
        --workdir=runs/recurrent

Two layers, 827 to 833 thousand parameters; text, split, batch, context and steps are those of
`shakespeare.py`, so all three see the same 1.5 million characters. The text is read in 12 lanes, the
state goes from window to window, and gradients stop at a window's edge (64 steps).

Measured 2026-11-26 with JAX 0.10.2 on 2 shared CPU cores, seed 0, in nats per character of the last
tenth: GRU 1.5290, LSTM 1.5291 (4 minutes of training), where the Transformer has 1.555 (mean of three
seeds, 824,832 parameters). The rates are those of four trials of 250 steps, GRU and LSTM: Muon at 0.02
gave 1.99 and 2.12, AdamW at 0.006 gave 3.98 and 2.37. AdamW's GRU trained to 2.29; a held-out lane
starts from zero, a state that a run on one document sees at its first step alone.
"""

import ml_collections

WIDTHS = {"gru": 252, "lstm": 220}
VARIANTS = tuple(WIDTHS)


def get_config(arg: str = "gru") -> ml_collections.ConfigDict:
    """`arg` is the cell and the text file: "gru,PATH" or "lstm,PATH"; see `shakespeare.py` for it."""
    cell, _, path = (arg or "gru").partition(",")
    if cell not in WIDTHS:
        raise ValueError(f"{cell!r} is not one of {', '.join(WIDTHS)}")
    config = ml_collections.ConfigDict()
    config.name = f"recurrent_{cell}"
    config.task = {"name": "language_model"}
    config.data = {
        "source": {"name": "files", "paths": (path or "shakespeare.txt",)},
        "text": {
            "tokenizer": {"name": "bytes"},
            "seq_len": 64,
            "mask_documents": False,  # the file is one document
            "lanes": True,
        },
        "eval_fraction": 0.1,
    }
    config.model = {
        "name": "rnn",
        "cell": cell,
        "num_layers": 2,
        "model_dim": WIDTHS[cell],
        "tie_embeddings": True,
    }
    config.optim = {
        "name": "muon",
        "learning_rate": 0.02,
        "weight_decay": 0.0,
        "adam_learning_rate": 0.01,
        "schedule": {"name": "linear", "warmup_steps": 50},
    }
    config.train = {"steps": 2000, "batch_size": 12}
    config.eval = {"every": 500, "batch_size": 64}
    return config
