"""Loss against the size of the training set in seven families, after Hestness et al. 2017, 1712.00409.

    python -m scaling.sweep --sweep=experiments/papers/hestness/sweeps.py:FAMILY,DATA \\
        --workdir=runs/hestness/FAMILY

FAMILY is a key of `FAMILIES`. DATA is what the family's own experiment takes: the folder of Multi30k, of
`speech.py`'s tables, of TREC, of IMDb's reviews (both language models), or MovieLens'
`ratings.csv`; nothing for images, which TFDS finds. With FAMILY/models, and runs/hestness/FAMILY_models
as its directory, the sweep is over the sizes of the model instead, on the largest set.

As in the paper, every training set is half of the next larger one (`data.limit`), all have the same
held-out examples, and the loss of a set is the lowest of its evaluations on the way. One model a family
learns all of its sets: the best of three sizes on the largest. The rate is constant and the
evaluated parameters are an average (`train.ema_decay`), so that an early evaluation is as good as a
shorter run. `report.py` beside this file fits, forecasts and draws what came.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from scaling.sweeps import Sweep, product, settings

EXPERIMENTS = pathlib.Path(__file__).resolve().parents[2]
EVALUATIONS = 12  # of each run, evenly spread
HELD_OUT = ("eval_source", "eval_target", "test_source", "test_target")
PATIENCE = 3  # of them without improvement end a run


@dataclasses.dataclass(frozen=True)
class FamilyOfRuns:
    """A family's sweep.

    Attributes:
      base: place of the data -> the config, or the file of one, that the sweep starts from.
      largest: examples (text: tokens) of the largest training set.
      sets: how many training sets, each half of the next.
      passes: over the largest set, at most; the passes over half of it are sqrt(2) times as many.
      step: examples (text: tokens) a step.
      models: three sizes of the model, small to large, by dotted keys.
      chosen: which of them learns every set.
      changes: what differs from the base, by dotted keys.
    """

    base: Callable[[str], str | dict[str, Any]]
    largest: int
    sets: int
    passes: float
    step: int
    models: Mapping[str, Sequence[Any]]
    chosen: int = 2
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def model(self, size: int) -> dict[str, Any]:
        """Settings of one of the three sizes."""
        return {key: values[size] for key, values in self.models.items()}

    def points(self) -> list[dict[str, int]]:
        """Settings of each training set, the largest first."""
        made = []
        for halvings in range(self.sets):
            size = self.largest >> halvings
            every = round(self.passes * 2 ** (halvings / 2) * size / self.step / EVALUATIONS)
            every = max(1, every)
            steps = EVALUATIONS * every
            made.append({"data.limit": size, "train.steps": steps, "eval.every": every})
        return made


def experiment(file: str, variant: str = "") -> Callable[[str], str]:
    """The base of a family that has an experiment of its own."""
    return lambda data: f"{EXPERIMENTS / file}:{','.join(part for part in (variant, data) if part)}"


def reviews(task: str) -> Callable[[str], dict[str, Any]]:
    """The base of both language models: bytes of IMDb's reviews, a small Transformer.

    Reviews are short, so that the first n bytes of the corpus are those of many writers.
    """
    held_out = 8 * 64 * 128  # bytes: 8 batches on the way, and as many at the end

    def base(data: str) -> dict[str, Any]:
        folder = pathlib.Path(data)
        return {
            "task": {"name": task},
            "data": {
                "source": {
                    "name": "files",
                    "paths": (str(folder / "train.jsonl.xz"),),
                    "eval_paths": (str(folder / "test.jsonl.xz"),),
                },
                "text": {"seq_len": 128, "tokenizer": {"name": "bytes"}, "mask_documents": False},
            },
            "model": {
                "name": "transformer",
                "causal": task == "language_model",
                "num_layers": 2,
                "num_heads": 4,
                "mlp": "gelu",
                "max_len": 128,
                "tie_embeddings": True,
            },
            "optim": {"name": "adamw", "learning_rate": 2e-3, "weight_decay": 0.1},
            "train": {"batch_size": 16},
            "eval": {"batch_size": 64, "batches": 8, "final_units": held_out},
        }

    return base


FAMILIES = {
    "recommender": FamilyOfRuns(
        experiment("movielens.py", "mf"),
        largest=90_752,
        sets=6,
        passes=30,
        step=1024,
        models={"model.dim": (8, 16, 32)},
    ),
    "text": FamilyOfRuns(
        experiment("text.py", "trec,kim"),
        largest=5_452,
        sets=6,
        passes=40,
        step=32,
        models={"model.embed_dim": (32, 64, 128), "model.filters": (16, 32, 64)},
        changes={"train.batch_size": 32},
    ),
    "images": FamilyOfRuns(
        experiment("fashion.py", "cnn"),
        largest=60_000,
        sets=7,
        passes=4,
        step=64,
        models={"model.channels": ((4, 8, 16), (8, 16, 32), (16, 32, 64))},
        changes={
            "task": {"name": "classification"},
            "data.source.eval_split": "test[:5000]",
            "train.batch_size": 64,
            "optim.learning_rate": 2e-3,
        },
    ),
    "language_model": FamilyOfRuns(
        reviews("language_model"),
        largest=2**20,
        sets=7,
        passes=6,
        step=16 * 128,
        models={"model.model_dim": (32, 64, 128)},
        chosen=1,  # not searched: its runs take the longest
    ),
    "masked_lm": FamilyOfRuns(
        reviews("masked_language_model"),
        largest=2**19,
        sets=6,
        passes=6,
        step=16 * 128,
        models={"model.model_dim": (32, 64, 128)},
    ),
    "translation": FamilyOfRuns(
        experiment("translation.py", "en-de"),
        largest=14_500,
        sets=6,
        passes=6,
        step=32,
        models={"model.model_dim": (32, 64, 128), "model.mlp_dim": (128, 256, 512)},
        changes={
            "task.label_smoothing": 0.0,
            **{f"data.source.{part}_paths": () for part in HELD_OUT},
            "data.eval_fraction": 0.03,
            "data.source.source_len": 28,
            "data.source.target_len": 28,
            "data.text.tokenizer.vocab_size": 1_000,
            "model.num_layers": 1,
            "model.dropout": 0.1,
            "train.batch_size": 32,
            "optim.learning_rate": 2e-3,
            "eval.batch_size": 128,
            "eval.also": None,
        },
    ),
    "speech": FamilyOfRuns(
        experiment("speech.py", "gru"),
        largest=2_700,
        sets=6,
        passes=20,
        step=32,
        models={"model.channels": (4, 8, 16), "model.model_dim": (16, 32, 64)},
        changes={
            "task": {"name": "speech", "hop_seconds": 0.02},
            "model.time_strides": (1, 1),
            "model.num_layers": 1,
            "train.batch_size": 32,
            "optim.learning_rate": 3e-3,
            "eval.batch_size": 100,
            "eval.also": None,
        },
    ),
}


def get_sweep(arg: str = "images") -> Sweep:
    """`arg` is FAMILY or FAMILY,DATA or FAMILY/models,DATA."""
    name, _, data = arg.partition(",")
    name, _, what = name.partition("/")
    if name not in FAMILIES or what not in ("", "models"):
        raise ValueError(
            f"hestness takes FAMILY,DATA or FAMILY/models,DATA with FAMILY of {sorted(FAMILIES)}, "
            f"got {arg!r}"
        )
    family = FAMILIES[name]
    common = {
        **family.changes,
        "optim.schedule": {"name": "constant", "warmup_steps": 20},
        "train.ema_decay": 0.98,
        "eval.patience": PATIENCE,
        "checkpoint": {"every": 0, "keep_last": 1, "asynchronous": False},
        "track": {"every": 50, "tensorboard": False},
    }
    sets, models = family.points(), [family.model(size) for size in range(3)]
    sets, models = (sets[:1], models) if what else (sets, [models[family.chosen]])
    design = product(
        settings([common], [{}]),
        settings(models, [{"model": size} if what else {} for size in range(len(models))]),
        settings(sets, [{"examples": each["data.limit"]} for each in sets]),
    )
    return Sweep(family.base(data), design, name=f"hestness_{name}{'_models' if what else ''}")
