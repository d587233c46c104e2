"""Entities in tweets and the like (WNUT-17), from scratch: a bidirectional GRU or an encoder.

    python -m scaling.main --config=experiments/tagger.py:gru,FOLDER --workdir=runs/tagger_gru
    python -m scaling.main --config=experiments/tagger.py:encoder,FOLDER --workdir=runs/tagger_encoder

Words are cut into byte pairs learned from the 3,394 training sentences; held out are the 1,287 of the
test, whose entities training has hardly seen: that is the point of the data. The best of the shared
task (Derczynski et al. 2017) had an entity F1 of 41.9 with word vectors of other corpora, which a model
from scratch lacks.

Entity F1 of seeds 0 to 2 came to 11.2, 11.2, 10.5 (GRU) and 10.9, 8.9, 9.0 (encoder), of mostly persons
and places.
"""

import pathlib
import sys

import ml_collections

URL = "https://github.com/leondz/emerging_entities_17"
FILES = ("wnut17train.conll", "emerging.test.annotated")
VARIANTS = ("gru", "encoder")
MODELS = {
    "gru": {"name": "tagger_gru", "num_layers": 2, "model_dim": 128, "dropout": 0.4},
    "encoder": {
        "name": "tagger_encoder",
        "num_layers": 2,
        "model_dim": 128,
        "num_heads": 4,
        "mlp": "gelu",
        "dropout": 0.3,
    },
}


def get_config(arg: str = "gru") -> ml_collections.ConfigDict:
    """`arg` is MODEL or MODEL,FOLDER: "gru" (default) or "encoder", and where the files are."""
    model, _, folder = (arg or "gru").partition(",")
    if model not in MODELS:
        raise ValueError(f"tagger takes {sorted(MODELS)}, got {model!r}")
    paths = []
    for name in FILES:
        path = pathlib.Path(folder) / name
        packed = path.with_name(f"{name}.gz")
        paths.append(str(packed if packed.exists() else path))
    if not all(pathlib.Path(path).exists() for path in paths):
        remedy = f"get them from {URL} and give the folder: experiments/tagger.py:{model},FOLDER"
        print(f"note: data.source.paths: no {' and '.join(FILES)} here; {remedy}", file=sys.stderr)
    config = ml_collections.ConfigDict()
    config.name = f"tagger_{model}"
    config.task = {"name": "tagging"}
    config.data = {
        "source": {
            "name": "tagged_text",
            "paths": (paths[0],),
            "eval_paths": (paths[1],),
            "delimiter": "\t",
            "eval_len": 232,
        },
        "text": {"seq_len": 80, "tokenizer": {"name": "bpe", "vocab_size": 4096}},
    }
    config.model = MODELS[model]
    config.optim = {
        "name": "adamw",
        "learning_rate": 2e-3,
        "weight_decay": 0.1,
        "schedule": {"name": "cosine", "warmup_steps": 50, "final_fraction": 0.0},
    }
    config.train = {"steps": 800, "batch_size": 32}
    config.eval = {"every": 200, "batch_size": 64, "also": {"entities": {}}}
    return config
