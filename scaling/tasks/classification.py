"""Classification of images and texts: cross-entropy, accuracy, precision, recall and F1.

Legend: B batch, H height, W width, C channels, T time, K classes.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from scaling.configs import ConfigError
from scaling.configs.types import Range, RuntimeNumber
from scaling.ops.cross_entropy import cross_entropy, smoothed
from scaling.tasks.base import (
    Batch,
    Context,
    Hparams,
    Loss,
    Sown,
    Task,
    TaskContext,
    Total,
    Variables,
    call,
    scoring,
)
from scaling.tasks.losses import moments, standard_error


def classification(
    context: TaskContext,
    *,
    label_smoothing: Annotated[float, Range(0.0, 1.0), RuntimeNumber()] = 0.0,
) -> Task:
    """One label for each image or text; the data say which.

    A model of images is called as model(images_BHWC, train=...) -> logits_BK, with values in [0, 1];
    one of texts as model(inputs_BT, segments_BT, train=...) -> logits_BK, with segment 0 for padding.

    Args:
      context: config, data, platform; the data give shapes, classes and their names.
      label_smoothing: mass moved from the label to the uniform distribution.
    """
    info = context.info
    num_classes = context.outputs("num_classes", info.num_classes)
    kind = _texts if info.kind == "labelled_text" else _images
    inputs, sizes, more = kind(context)
    model = context.model(num_classes=num_classes, **more)
    names = tuple(info.class_names or (str(k) for k in range(num_classes)))
    numbers = {"label_smoothing": label_smoothing} if label_smoothing else {}

    def init(rng: jax.Array) -> Variables:
        example = {key: jnp.zeros((1, *shape), dtype) for key, (shape, dtype) in info.spec.items()}
        return model.init(rng, *inputs(example), train=False)

    def logits(variables: Variables, batch: Batch, context: Context) -> tuple[jax.Array, Sown]:
        return call(model, variables, *inputs(batch), context=context)

    def loss(variables: Variables, batch: Batch, context: Context, hparams: Hparams) -> Loss:
        logits_BK, sown = logits(variables, batch, context)
        h = {**numbers, **hparams}
        return sown.added_to(Loss(*_score(logits_BK, batch, h, context.train), {}))

    def report(totals: Mapping[str, Any], _: Mapping[str, Any]) -> dict[str, Any]:
        return summarize_classes(totals, names)

    return Task(
        init=init,
        loss=loss,
        evaluations={"score": scoring(loss, report)},
        functions={"logits": lambda *arguments: logits(*arguments)[0]},
        hparams=numbers,
        cost=model.cost(sizes) if hasattr(model, "cost") else None,
    )


# What a kind of data means to the model: (its inputs out of a batch, what `model.cost` takes, keys of
# section `model` that the data fill in).
_Kind = tuple[Callable[[Batch], tuple[jax.Array, ...]], tuple[int, ...] | int, dict[str, int]]


def _images(context: TaskContext) -> _Kind:
    context.need("images")
    shape = context.info.image_shape
    if shape is None or len(shape) != 3:
        raise ConfigError(
            "data.source", f"gives images of shape {shape}", "give (height, width, channels)"
        )

    def inputs(batch: Batch) -> tuple[jax.Array, ...]:
        return (batch["images"].astype(jnp.float32) / 255.0,)

    return inputs, tuple(shape), {}


def _texts(context: TaskContext) -> _Kind:
    info = context.info
    vocab_size = context.outputs("vocab_size", info.vocab_size)

    def inputs(batch: Batch) -> tuple[jax.Array, ...]:
        return batch["inputs"], batch["segments"]

    return inputs, info.spec["inputs"][0][0], {"vocab_size": vocab_size}


def _score(
    logits_BK: jax.Array, batch: Batch, hparams: Hparams, train: bool
) -> tuple[jax.Array, jax.Array, dict[str, Total]]:
    """(objective summed over examples, their weight, metrics); evaluation also counts confusions."""
    weights_B = batch["weights"]
    nll_B, log_z_B = cross_entropy(logits_BK, batch["labels"])
    objective_B = nll_B
    if train and "label_smoothing" in hparams:
        objective_B = smoothed(nll_B, log_z_B, logits_BK, hparams["label_smoothing"])
    weight = jnp.sum(weights_B)
    guess_B = jnp.argmax(logits_BK, axis=-1)
    right_B = (guess_B == batch["labels"]).astype(jnp.float32)
    metrics: dict[str, Total] = {
        "loss": (jnp.sum(weights_B * nll_B), weight),
        "accuracy": (jnp.sum(weights_B * right_B), weight),
    }
    if not train:
        num_classes = logits_BK.shape[1]
        truth_BK = jax.nn.one_hot(batch["labels"], num_classes) * weights_B[:, None]
        confusion_KK = truth_BK.T @ jax.nn.one_hot(guess_B, num_classes)
        metrics["confusion"] = (confusion_KK, weight)
        metrics["moments"] = (moments(weights_B * nll_B, weights_B), weight)
    return jnp.sum(weights_B * objective_B), weight, metrics


def summarize_classes(
    totals: Mapping[str, tuple[np.ndarray, np.ndarray]], names: tuple[str, ...]
) -> dict[str, Any]:
    """Loss with its standard error, accuracy, macro averages and the report of every class.

    A class that is never predicted has precision 0, one that never occurs recall 0, as in
    scikit-learn's `classification_report(zero_division=0)`.
    """
    loss_sum, weight = (float(x) for x in totals["loss"])
    confusion_KK = np.asarray(totals["confusion"][0], np.float64)  # rows truth, columns guess
    hits_K = np.diag(confusion_KK)
    truth_K, guess_K = confusion_KK.sum(axis=1), confusion_KK.sum(axis=0)
    precision_K = hits_K / np.maximum(guess_K, 1.0)
    recall_K = hits_K / np.maximum(truth_K, 1.0)
    f1_K = 2 * hits_K / np.maximum(guess_K + truth_K, 1.0)
    return {
        "loss": loss_sum / weight,
        "loss_standard_error": standard_error(loss_sum, weight, totals["moments"][0]),
        "accuracy": float(totals["accuracy"][0]) / weight,
        "precision_macro": float(precision_K.mean()),
        "recall_macro": float(recall_K.mean()),
        "f1_macro": float(f1_K.mean()),
        "examples": weight,
        "report": {
            name: {
                "precision": float(precision_K[k]),
                "recall": float(recall_K[k]),
                "f1": float(f1_K[k]),
                "support": int(truth_K[k]),
            }
            for k, name in enumerate(names)
        },
    }
