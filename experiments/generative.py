"""Images of MNIST or Fashion-MNIST: a GAN, flow matching or a denoising diffusion model, through TFDS.

    python -m scaling.main --config=experiments/mnist.py:cnn --workdir=runs/mnist_cnn
    python -m scaling.main --config=experiments/generative.py:flow,mnist,runs/mnist_cnn \\
        --workdir=runs/flow_mnist

With a third word, the run directory of a classifier (`mnist.py`, `fashion.py`), the evaluation `frechet`
says how far the samples are from held-out images in its features, how many classes they cover, and
leaves a sheet of them in `evaluations/frechet/`.

Needs a prepared `mnist` or `fashion_mnist` in $TFDS_DATA_DIR, or `--config.data.source.data_dir=DIR`.

Measured 2026-11-26 with JAX 0.11.2 on one NVIDIA H200 beside other runs. The GAN on Fashion-MNIST,
seeds 0 to 2, covers all ten classes (seed 0: 7 to 14 % of 10,000 samples each), with a Frechet
distance of 20.3, 21.3, 19.9 in the features of `fashion.py:cnn`, where two halves of the held-out
images have 8.1 to 8.5; 106 to 185 s of training. Flow matching (seed 0) comes to 5.7 (9 to 11 % of
each class), DDPM to 7.3 (8 to 12 %), in 5 minutes of training beside three to ten others; sampling
10,000 images twice took 2 to 3 minutes more. After half the steps the distances were 6.3 and 7.6.

Measured the same day with JAX 0.10.2 on 2 shared CPU cores, very busy, seed 0: `flow_small` on
MNIST covers all ten classes (5 to 16 % of 500 samples each); most are digits that one can read. Its
distance is 130 in the features of `mnist.py:cnn`, where the two halves of 500 held-out images have
116: so few samples cannot come much nearer. Loss 0.271, 0.230, 0.219, 0.213 at each 200 steps,
still falling; 31 minutes, of which 9 were its processor time. On Fashion-MNIST, seeds 0 to 2: 89,
89, 88 where the halves have 81, ten classes, 4 to 25 % each; clothes that one can tell, with holes.
On MNIST `ddpm_small` came to 247 (ten classes, 4 to 34 % each; more than a third of its sheet are
blobs: 20 steps are few for it), `gan_small` to 221 (ten classes, 1 to 21 %; strokes rather than
digits).
"""

import ml_collections

VARIANTS = ("gan", "flow", "ddpm", "gan_small", "flow_small", "ddpm_small")

DATA = {"mnist": "mnist", "fashion": "fashion_mnist"}
UNET = {"name": "unet", "width": 64, "multipliers": (1, 2, 2), "blocks": 2}
ADAM = {"name": "adamw", "b2": 0.99, "weight_decay": 0.0}


def get_config(arg: str = "gan") -> ml_collections.ConfigDict:
    """`arg` is "KIND", "KIND,DATA" or "KIND,DATA,CLASSIFIER".

    KIND is gan (the default), flow or ddpm, with _small behind it for two CPU cores; DATA is mnist (the
    default) or fashion; CLASSIFIER is a run directory.
    """
    kind, data, classifier = [*(arg or "gan").split(",", 2), "", ""][:3]
    data = data or "mnist"
    if kind not in VARIANTS or data not in DATA:
        raise ValueError(
            f"generative takes KIND,DATA,CLASSIFIER with KIND of {VARIANTS} and DATA of "
            f"{tuple(DATA)}, got {arg!r}"
        )
    config = ml_collections.ConfigDict()
    config.name = f"{kind}_{data}"
    config.data = {"source": {"name": "tfds", "dataset": DATA[data], "eval_split": "test"}}
    config.eval = {"every": 2000, "batch_size": 500}
    kind, _, small = kind.partition("_")
    if kind == "gan":
        _adversarial(config)
    else:
        _diffusing(config, kind)
    if classifier:
        halfway = config.train.steps // 2  # each time a sample for every held-out image
        config.eval.also = {"frechet": {"options": {"classifier": classifier}, "every": halfway}}
    if small:
        _small(config, kind)
    return config


def _adversarial(config: ml_collections.ConfigDict) -> None:
    """Two players at rates of their own, without momentum, as R1's authors train them."""
    config.task = {"name": "gan", "kind": "non_saturating", "r1": 1.0}
    # In bfloat16 the gradient of R1, a difference of scores, is coarse.
    config.model = {"name": "dcgan", "width": 64, "latent": 64, "dtype": "float32"}
    schedule = {"name": "cosine", "warmup_steps": 100, "final_fraction": 0.1}
    player = {**ADAM, "b1": 0.0, "clip_norm": None}
    config.optim = {
        **player,
        "learning_rate": 2e-4,
        "schedule": schedule,
        "groups": {
            "discriminator": {
                "match": "discriminator/.*",
                "optimizer": {**player, "learning_rate": 4e-4},
                "schedule": schedule,
            }
        },
    }
    config.train = {"steps": 12000, "batch_size": 128, "ema_decay": 0.999}


def _diffusing(config: ml_collections.ConfigDict, kind: str) -> None:
    """One U-Net, two objectives."""
    config.task = {"name": "diffusion", "kind": kind}
    config.model = UNET
    config.optim = {
        **ADAM,
        "learning_rate": 1e-3,
        "schedule": {"name": "cosine", "warmup_steps": 500, "final_fraction": 0.0},
    }
    config.train = {"steps": 6000, "batch_size": 256, "ema_decay": 0.999}


def _small(config: ml_collections.ConfigDict, kind: str) -> None:
    """A quarter of the width, fewer images in fewer steps; 500 samples are judged, at the end."""
    config.name += "_small"
    config.model.width = 16
    config.train.update({"steps": 800, "batch_size": 64})
    config.eval.update({"every": 200, "batches": 1})
    if kind != "gan":
        config.model.blocks = 1
        config.task.sample_steps = 10 if kind == "flow" else 20  # the model is asked 20 times
        config.optim.schedule.warmup_steps = 50
    if "also" in config.eval:
        config.eval.also.frechet.update({"every": 0, "batches": 1})
