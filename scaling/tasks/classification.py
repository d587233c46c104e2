"""Classification of images and texts: cross-entropy, accuracy, precision, recall and F1.

Legend: B batch, H height, W width, C channels, T time, K classes.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from scaling.configs import ConfigError
from scaling.configs.types import RuntimeProbability
from scaling.ops.cross_entropy import cross_entropy, smoothed
from scaling.tasks.base import (
    Batch,
    Context,
    Hparams,
    Loss,
    Sown,
    Task,
    TaskContext,
    Totals,
    Variables,
    call,
    means,
    scoring,
)
from scaling.tasks.confusions import mistakes, picture
from scaling.tasks.inputs import inputs
from scaling.tasks.losses import mean_loss, summed

# Classes that top-5 accuracy looks at, and bins of the calibration error.
TOP, BINS = 5, 15


def classification(
    context: TaskContext,
    *,
    label_smoothing: RuntimeProbability = 0.0,
) -> Task:
    """One label for each image or text; the data say which.

    A model of images is called as model(images_BHWC, train=...) -> logits_BK, with values in [0, 1];
    one of texts as model(inputs_BT, segments_BT, train=...) -> logits_BK, with segment 0 for padding.

    Where a wrapper puts `soft_labels` float32[B, K] into a training batch, the objective is the
    cross-entropy against them; loss and accuracy are against `labels` all the same.

    Functions of (variables, batch, context): "logits"; "features", what the model's layer `head` reads;
    "perturbations", zeros for what may be added inside the model (`nn.Module.perturb`).

    Args:
      context: config, data, platform; the data give shapes, classes and their names.
      label_smoothing: mass moved from the label to the uniform distribution.
    """
    info = context.info
    reads = inputs(context)
    num_classes = context.outputs("num_classes", info.num_classes)
    model = context.model(num_classes=num_classes, **reads.keys)
    names = tuple(info.class_names or (str(k) for k in range(num_classes)))
    numbers = {"label_smoothing": label_smoothing} if label_smoothing else {}

    def init(rng: jax.Array) -> Variables:
        example = {key: jnp.zeros((1, *shape), dtype) for key, (shape, dtype) in info.spec.items()}
        return model.init(rng, *reads.of(example, Context(rng, jnp.int32(0), False)), train=False)

    def logits(variables: Variables, batch: Batch, context: Context) -> tuple[jax.Array, Sown]:
        return call(model, variables, *reads.of(batch, context), context=context)

    def loss(variables: Variables, batch: Batch, context: Context, hparams: Hparams) -> Loss:
        logits_BK, sown = logits(variables, batch, context)
        return _score(logits_BK, batch, context, {**numbers, **hparams}, sown)

    def perturbations(variables: Variables, batch: Batch, context: Context) -> Variables:
        _, sown = call(
            model, variables, *reads.of(batch, context), context=context, changing=["perturbations"]
        )
        return sown.state.get("perturbations", {})

    return Task(
        init=init,
        loss=loss,
        evaluations={"score": scoring(loss, lambda totals, _: summarize_classes(totals, names))},
        functions={
            "logits": lambda *arguments: logits(*arguments)[0],
            "features": lambda *arguments: _read_by_head(lambda: logits(*arguments)),
            "perturbations": perturbations,
        },
        hparams=numbers,
        cost=model.cost(reads.sizes) if hasattr(model, "cost") else None,
    )


def _read_by_head(call_model: Callable[[], object]) -> jax.Array:
    """What the layer `head` of the model reads, float32[B, D], while `call_model` runs.

    Raises:
      ConfigError: the model has no layer of that name.
    """
    inputs: list[jax.Array] = []

    def watch(
        run: Callable[..., object],
        arguments: tuple[jax.Array, ...],
        keywords: dict[str, object],
        layer: nn.module.InterceptorContext,
    ) -> object:
        if layer.module.path == ("head",) and layer.method_name == "__call__":
            inputs.append(arguments[0].astype(jnp.float32))
        return run(*arguments, **keywords)

    with nn.intercept_methods(watch):
        call_model()
    if not inputs:
        raise ConfigError(
            "model.name",
            "the features of a classifier are what its layer `head` reads, and it has none",
            'name the last layer of the model "head"',
        )
    return inputs[0]


def _score(
    logits_BK: jax.Array, batch: Batch, context: Context, hparams: Hparams, sown: Sown
) -> Loss:
    """The loss of a batch from its logits; evaluation also counts confusions."""
    labels_B, weights_B = batch["labels"], batch["weights"]
    nll_B, log_z_B = cross_entropy(logits_BK, labels_B)
    guess_B = jnp.argmax(logits_BK, axis=-1)
    right_B = (guess_B == labels_B).astype(jnp.float32)
    values = {"loss": nll_B, "accuracy": right_B}
    if context.train:
        objective_B = nll_B
        if "soft_labels" in batch:
            objective_B = log_z_B - jnp.sum(batch["soft_labels"] * logits_BK, axis=-1)
        if "label_smoothing" in hparams:
            objective_B = smoothed(objective_B, log_z_B, logits_BK, hparams["label_smoothing"])
        return summed(values, weights_B, context, sown, objective_B)
    num_classes = logits_BK.shape[1]
    if num_classes > TOP:
        label_B1 = jnp.take_along_axis(logits_BK, labels_B[:, None], axis=1)
        before_B = jnp.sum(logits_BK > label_B1, axis=1)
        values["top5_accuracy"] = (before_B < TOP).astype(jnp.float32)
    result = summed(values, weights_B, context, sown)
    truth_BK = jax.nn.one_hot(labels_B, num_classes) * weights_B[:, None]
    arrays = {
        "calibration": _calibration(logits_BK, right_B, weights_B),
        "confusion": truth_BK.T @ jax.nn.one_hot(guess_B, num_classes),
    }
    return result._replace(
        metrics=result.metrics | {name: (x, result.weight) for name, x in arrays.items()}
    )


def _calibration(logits_BK: jax.Array, right_B: jax.Array, weights_B: jax.Array) -> jax.Array:
    """In equal bins of the largest probability: sums of it and of what is right, float32[2, BINS]."""
    confidence_B = jnp.max(jax.nn.softmax(logits_BK), axis=-1)
    bin_B = jnp.clip(jnp.ceil(confidence_B * BINS) - 1, 0, BINS - 1)
    bin_BN = jax.nn.one_hot(bin_B, BINS) * weights_B[:, None]
    return jnp.stack([confidence_B, right_B]) @ bin_BN


def summarize_classes(totals: Totals, names: tuple[str, ...]) -> dict[str, Any]:
    """Loss with its standard error, accuracy, macro averages, the report of every class, mistakes.

    With more than five classes `top5_accuracy`: how often fewer than five have a larger logit than
    the label. The expected calibration error is the gap between the mean of the largest probability
    and accuracy, in 15 equal bins of that probability, weighted by the images in a bin (Guo et al.
    2017, 1706.04599).

    A class that is never predicted has precision 0, one that never occurs recall 0, as in
    scikit-learn's `classification_report(zero_division=0)`.
    """
    loss = mean_loss(totals, "examples")
    confusion_KK = np.asarray(totals["confusion"][0], np.float64)  # rows truth, columns guess
    hits_K = np.diag(confusion_KK)
    truth_K, guess_K = confusion_KK.sum(axis=1), confusion_KK.sum(axis=0)
    precision_K = hits_K / np.maximum(guess_K, 1.0)
    recall_K = hits_K / np.maximum(truth_K, 1.0)
    f1_K = 2 * hits_K / np.maximum(guess_K + truth_K, 1.0)
    confidence_N, right_N = np.asarray(totals["calibration"][0], np.float64)
    return {
        **loss,
        **means({name: totals[name] for name in ("accuracy", "top5_accuracy") if name in totals}),
        "calibration_error": float(np.abs(confidence_N - right_N).sum()) / loss["examples"],
        "precision_macro": float(precision_K.mean()),
        "recall_macro": float(recall_K.mean()),
        "f1_macro": float(f1_K.mean()),
        "report": {
            name: {
                "precision": float(precision_K[k]),
                "recall": float(recall_K[k]),
                "f1": float(f1_K[k]),
                "support": int(truth_K[k]),
            }
            for k, name in enumerate(names)
        },
        "mistakes": mistakes(confusion_KK, names),
        "confusion": picture(confusion_KK, names),
    }
