"""The configs of the families, each small enough for a test.

`arg` is the family, or "FAMILY,RUN" with the run of a classifier that judges what it makes.
"""

import pathlib

import ml_collections

LM = {"name": "transformer", "num_layers": 2, "model_dim": 32, "num_heads": 2, "mlp_dim": 64}
TEXT = {"source": {"name": "myx.own:Poem"}, "seq_len": 16}
FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"
RATINGS = (str(FIXTURES / "ratings.csv"),)
QUESTIONS = {
    "source": {"name": "labelled_text", "paths": (str(FIXTURES / "questions.csv"),)},
    "text": {"seq_len": 8, "tokenizer": {"name": "words", "vocab_size": 64}},
    "eval_fraction": 0.25,
}
ENTITIES = {
    "data": {
        "source": {
            "name": "tagged_text",
            "paths": (str(FIXTURES / "entities.conll"),),
            "eval_len": 48,
        },
        "text": {"seq_len": 40},
        "eval_fraction": 0.25,
    },
    "eval": {"every": 4, "also": {"entities": {}}},
}
TONES = {
    "task": {"name": "speech", "window_seconds": 0.03, "hop_seconds": 0.02, "mel_bands": 6},
    "data": {"source": {"name": "myx.ctc:Tones"}},
    "eval": {"every": 4, "also": {"transcribe": {"batch_size": 24}}},
}
LISTENER = {"channels": 4, "model_dim": 16, "num_layers": 1, "time_strides": (2, 1), "dropout": 0.0}
ADAM = {"name": "adamw", "learning_rate": 1e-2, "schedule": {"name": "constant"}}

FAMILIES = {
    "gan": {
        "task": {"name": "myx.gan:gan"},
        "model": {"name": "myx.gan:GAN"},
        "data": {"source": {"name": "myx.gan:Ring"}},
        "optim": ADAM
        | {
            "groups": {
                "discriminator": {
                    "match": "discriminator/.*",
                    "optimizer": {"name": "adamw", "learning_rate": 2e-3, "b1": 0.5},
                    "schedule": {"name": "linear", "warmup_steps": 2},
                }
            }
        },
    },
    "mlm": {
        "task": {"name": "myx.mlm:masked_lm"},
        "model": {"name": "myx.mlm:Encoder"},
        "data": TEXT,
    },
    "s2s": {
        "task": {"name": "myx.s2s:translation"},
        "model": {"name": "myx.s2s:EncDec"},
        "data": {"source": {"name": "myx.s2s:Reversal"}},
        "eval": {"every": 4, "also": {"greedy": {}}},
    },
    "moe": {
        "task": {"name": "language_model"},
        "model": LM | {"feed_forward": "myx.moe:Experts", "feed_forward_options": {"experts": 4}},
        "data": TEXT,
    },
    "gru": {
        "task": {"name": "myx.gru:gru_lm"},
        "model": {"name": "myx.gru:GRU"},
        "data": {"source": {"name": "myx.gru:Steps"}},
    },
    "ctc": {
        "task": {"name": "myx.ctc:speech"},
        "model": {"name": "myx.ctc:Listener"},
        "data": {"source": {"name": "myx.ctc:Beeps"}},
        "eval": {
            "every": 4,
            "also": {"decode": {"batches": 2}},
            "stop_metric": "decode/error_rate",
            "patience": 5,
        },
    },
    "mf": {
        "task": {"name": "myx.mf:recommend"},
        "model": {"name": "myx.mf:Factors"},
        "data": {"source": {"name": "myx.mf:Ratings"}},
        "eval": {"every": 4, "also": {"rank": {"batch_size": 32}}},
    },
    "aug": {
        "task": {
            "name": "myx.aug:shifted",
            "over": {"name": "classification", "label_smoothing": 0.1},
        },
        "model": {"name": "cnn", "channels": (8, 8), "batch_norm_group": 8},
        "data": {"source": {"name": "myx.aug:Bars"}},
    },
    "resnet": {
        "task": {"name": "classification"},
        "model": {"name": "resnet", "depth": 8, "width": 8, "batch_norm_group": 8},
        "data": {"source": {"name": "myx.aug:Bars"}},
    },
    "vit": {
        "task": {"name": "classification"},
        "model": {"name": "vit", "patch_size": 4, "num_layers": 2, "model_dim": 16, "num_heads": 2},
        "data": {"source": {"name": "myx.aug:Bars"}},
        "eval": {
            "every": 4,
            "also": {"pgd": {"evaluation": "adversarial", "options": {"epsilon": 0.1, "steps": 2}}},
        },
    },
    "mixed": {
        "task": {
            "name": "augment",
            "crop": 1,
            "flip": True,
            "operations": 2,
            "erase": 0.5,
            "mixup": 0.2,
            "cutmix": 1.0,
            "over": {"name": "classification"},
        },
        "model": {"name": "mlp", "hidden_dims": (16,)},
        "data": {"source": {"name": "myx.aug:Bars"}},
    },
    "dcgan": {
        "task": {"name": "gan", "kind": "hinge", "r1": 0.1},
        "model": {"name": "dcgan", "width": 8, "latent": 4, "spectral_norm": True},
        "data": {"source": {"name": "myx.aug:Bars"}},
        "optim": ADAM
        | {
            "groups": {
                "discriminator": {
                    "match": "discriminator/.*",
                    "optimizer": {"name": "adamw", "learning_rate": 2e-3, "b1": 0.5},
                }
            }
        },
    },
    "unet": {
        "task": {"name": "diffusion", "sample_steps": 2},
        "model": {"name": "unet", "width": 8, "multipliers": (1,), "blocks": 1, "num_heads": 2},
        "data": {"source": {"name": "myx.aug:Bars"}},
    },
    "rating": {
        "task": {"name": "rating", "l2": 0.03},
        "model": {"name": "matrix_factorisation", "dim": 8, "num_users": 40, "num_items": 48},
        "data": {"source": {"name": "ratings", "paths": RATINGS, "split": "last"}},
        "eval": {"every": 4, "also": {"rank": {"batch_size": 16}}},
    },
    "sasrec": {
        "task": {"name": "next_item"},
        "model": LM | {"num_layers": 1, "position": "learned", "max_len": 8},
        "data": {"source": {"name": "histories", "paths": RATINGS}, "text": {"seq_len": 8}},
    },
    "two_tower": {
        "task": {"name": "next_item"},
        "model": {"name": "two_tower", "model_dim": 16, "hidden_dim": 16},
        "data": {"source": {"name": "histories", "paths": RATINGS}, "text": {"seq_len": 8}},
    },
    "kim": {
        "task": {"name": "classification", "label_smoothing": 0.1},
        "model": {"name": "kim_cnn", "embed_dim": 16, "filters": 8},
        "data": QUESTIONS,
    },
    "encoder": {
        "task": {"name": "classification"},
        "model": LM | {"name": "text_encoder", "num_layers": 1},
        "data": QUESTIONS,
    },
    "attacked": {
        "task": {
            "name": "adversarial_training",
            "epsilon": 0.1,
            "norm": "l2",
            "steps": 2,
            "clean": 0.5,
            "over": {"name": "drop_tokens", "over": {"name": "classification"}},
        },
        "model": {"name": "kim_cnn", "embed_dim": 16, "filters": 8},
        "data": QUESTIONS,
        "eval": {
            "every": 4,
            "also": {
                "roc": {},
                "pgd": {"evaluation": "adversarial", "options": {"epsilon": 0.1, "norm": "l2"}},
            },
        },
    },
    "headless": {
        "task": {"name": "classification"},
        "model": {"name": "myx.own:Headless"},
        "data": {"source": {"name": "myx.aug:Bars"}},
    },
    "contrastive": {
        "task": {"name": "contrastive"},
        "model": {
            "name": "towers",
            "embed_dim": 16,
            "first": {"name": "kim_cnn", "embed_dim": 16, "filters": 8, "dropout": 0.0},
            "second": {"name": "myx.own:Bag"},
        },
        "data": {
            "source": {
                "name": "pairs",
                "first": QUESTIONS["source"],
                "second": QUESTIONS["source"],
            },
            "text": QUESTIONS["text"],
            "eval_fraction": 0.25,
        },
        "eval": {"every": 4, "batch_size": 8, "also": {"retrieval": {}}},
    },
    "tagger": ENTITIES
    | {
        "task": {"name": "tagging", "label_smoothing": 0.1},
        "model": {"name": "tagger_gru", "num_layers": 1, "model_dim": 16, "dropout": 0.0},
    },
    "tagger_encoder": ENTITIES
    | {"task": {"name": "tagging"}, "model": LM | {"name": "tagger_encoder", "num_layers": 1}},
    "speech": TONES | {"model": LISTENER | {"name": "speech_gru"}},
    "conformer": TONES | {"model": LISTENER | {"name": "conformer", "num_heads": 2}},
    "base": {"task": {"name": "language_model"}, "model": LM, "data": TEXT},
    "lora": {
        "task": {"name": "myx.lora:lora", "over": {"name": "language_model"}},
        "model": LM,
        "data": TEXT,
    },
    "own": {
        "task": {"name": "language_model"},
        "model": {"name": "myx.own:Bigram"},
        "data": TEXT,
        "optim": {
            "name": "myx.own:plain_optax",
            "learning_rate": 1e-2,
            "schedule": {"name": "myx.own:triangle", "top": 0.3},
        },
        "eval": {"every": 4, "also": {"guesses": {"evaluation": "myx.own:guesses"}}},
    },
}


def get_config(arg: str) -> ml_collections.ConfigDict:
    family, _, judge = arg.partition(",")
    common = {
        "name": family,
        "optim": ADAM,
        "train": {"steps": 8, "batch_size": 32},
        "eval": {"every": 4},
        "checkpoint": {"every": 4},
        "track": {"every": 1, "tensorboard": False, "progress": "off"},
    }
    config = ml_collections.ConfigDict(common | FAMILIES[family])
    if judge:
        config.eval.also = {"frechet": {"options": {"classifier": judge}, "every": 0}}
    return config
