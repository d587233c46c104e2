"""Multi30k, English to German: an encoder-decoder from scratch, sacreBLEU on test_2016_flickr.

    python -m scaling.main --config=experiments/translation.py:en-de,FOLDER --workdir=runs/multi30k
    python -m scaling.main --config=experiments/translation.py:en-de-small,FOLDER \
        --workdir=runs/multi30k_small

FOLDER has train, val and test_2016_flickr of the task 1 raw text (train.en.gz, train.de.gz, ...). The
loss is that of val on the way; the test set is translated at the end, by five beams.

Measured 2026-11-26 with JAX 0.11.2 on one NVIDIA H200 beside three to ten other runs, seeds 0 to 2:
`en-de` has BLEU 39.9, 39.5, 39.4 and chrF 64.7, 64.6, 64.3 on the test set (cased, 13a) after 6 to 9
minutes of training, each stopped once on the way and resumed. The loss of val no longer falls: 1.549
nats per token after 6,000 steps, 1.555 at the end (seed 0).

Measured the same day with JAX 0.10.2 on 2 shared CPU cores with other work, seed 0: `en-de-small` (1.2
million parameters, 11 passes) has BLEU 36.0 and chrF 60.0 on the test set (cased, 13a) in 28 minutes.
The loss of val was still falling: 1.954, 1.884, 1.834, 1.813, 1.806 nats per token at each 500 of the
last steps. With `--config.train.steps=2000`, in 11 minutes of processor time, BLEU 32.7.
"""

import pathlib
import sys

import ml_collections

URL = "https://github.com/multi30k/dataset/tree/master/data/task1/raw"
VARIANTS = ("en-de", "de-en", "en-de-small")
SIDES = ("source", "target")
SPLITS = {"": "train", "eval_": "val", "test_": "test_2016_flickr"}


def get_config(arg: str = "en-de") -> ml_collections.ConfigDict:
    """`arg` is VARIANT or VARIANT,FOLDER: "en-de" (default), "de-en" or "en-de-small", and the files."""
    variant, _, folder = (arg or "en-de").partition(",")
    if variant not in VARIANTS:
        raise ValueError(f"translation takes {sorted(VARIANTS)}, got {variant!r}")
    direction = variant.removesuffix("-small")
    paths = {
        f"{part}{side}_paths": (str(pathlib.Path(folder) / f"{name}.{language}.gz"),)
        for part, name in SPLITS.items()
        for side, language in zip(SIDES, direction.split("-"), strict=True)
    }
    missing = [path for (path,) in paths.values() if not pathlib.Path(path).exists()]
    if missing:
        remedy = f"get them from {URL} and give the folder: experiments/translation.py:en-de,FOLDER"
        print(f"note: data.source: no {', '.join(missing)} here; {remedy}", file=sys.stderr)
    config = ml_collections.ConfigDict()
    config.name = f"multi30k_{variant.replace('-', '_')}"
    config.task = {"name": "translation", "label_smoothing": 0.1, "beams": 5, "length_penalty": 1.0}
    config.data = {
        "source": {"name": "text_pairs", **paths, "source_len": 56, "target_len": 56},
        "text": {"tokenizer": {"name": "bpe", "vocab_size": 8000}},
    }
    config.model = {
        "name": "encoder_decoder",
        "num_layers": 4,
        "model_dim": 256,
        "num_heads": 4,
        "mlp_dim": 1024,
        "mlp": "gelu",
        "max_len": 64,
        "attention": "xla",  # a flash kernel has nothing to save on sequences as short as these
        "dropout": 0.3,
    }
    config.optim = {
        "name": "adamw",
        "learning_rate": 1e-3,
        "weight_decay": 0.1,
        "schedule": {"name": "cosine", "warmup_steps": 500, "final_fraction": 0.0},
    }
    config.train = {"steps": 8000, "batch_size": 256}
    config.eval = {
        "every": 500,
        "batch_size": 250,
        "also": {"translate": {"split": "test", "every": 0}},
    }
    if variant.endswith("-small"):
        _small(config)
    return config


def _small(config: ml_collections.ConfigDict) -> None:
    """For two CPU cores: a small model, and training pairs of lengths that hold 97 % of them."""
    lengths = {f"{part}{side}_len": n for part, n in (("", 32), ("eval_", 56)) for side in SIDES}
    config.data.source.update(lengths)
    config.data.text.tokenizer.vocab_size = 4000
    config.model.update({"num_layers": 2, "model_dim": 128, "mlp_dim": 256, "dropout": 0.1})
    config.optim.update({"learning_rate": 3e-3, "schedule": {"warmup_steps": 100}})
    config.train.update({"steps": 5000, "batch_size": 64})
