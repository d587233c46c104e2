"""A tag for each word of a sentence: cross-entropy, accuracy, and the F1 of entities.

Legend: B batch, T tokens, K tags.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scaling.configs.types import RuntimeProbability
from scaling.tasks.base import (
    Batch,
    Context,
    Evaluation,
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
    without_carry,
)
from scaling.tasks.entities import entities, entity_scores
from scaling.tasks.language_model import objective
from scaling.tasks.losses import mean_loss, summed

SHOWN = 20  # sentences in a report, the wrong ones first


def tagging(
    context: TaskContext,
    *,
    label_smoothing: RuntimeProbability = 0.0,
) -> Task:
    """The tag of each word, in nats per word; padding and the later tokens of a word do not count.

    The model is called as model(inputs_BT, segments_BT, train=...) -> logits_BTK, with segment 0 for
    padding. A tag is chosen for each word by itself. Evaluation `entities` reports precision, recall and
    F1 of whole entities, of all and of every type (`scaling.tasks.entities`), and a few sentences.

    Args:
      context: config, data, platform; the data give vocabulary and tags.
      label_smoothing: mass moved from the tag to the uniform distribution.
    """
    context.need("tagged_text")
    info = context.info
    length, names = info.spec["inputs"][0][0], info.class_names
    assert names is not None
    model = context.model(
        num_classes=context.outputs("num_classes", len(names)),
        vocab_size=context.outputs("vocab_size", info.vocab_size),
    )
    numbers = {"label_smoothing": label_smoothing} if label_smoothing else {}

    def init(rng: jax.Array) -> Variables:
        ones_BT = jnp.ones((1, length), jnp.int32)
        return model.init(rng, ones_BT, ones_BT, train=False)

    def logits(variables: Variables, batch: Batch, context: Context) -> tuple[jax.Array, Sown]:
        return call(model, variables, batch["inputs"], batch["segments"], context=context)

    def loss(variables: Variables, batch: Batch, context: Context, hparams: Hparams) -> Loss:
        logits_BTK, sown = logits(variables, batch, context)
        labels_BT = batch["labels"]
        h = {**numbers, **hparams} if context.train else {}
        objective_BT, (nll_BT, _) = objective(logits_BTK, labels_BT, h)
        right_BT = (jnp.argmax(logits_BTK, axis=-1) == labels_BT).astype(jnp.float32)
        values = {"loss": nll_BT, "accuracy": right_BT}
        return summed(values, batch["weights"], context, sown, objective_BT)

    def guess(variables: Variables, batch: Batch, context: Context) -> dict[str, jax.Array]:
        logits_BTK, _ = logits(variables, batch, context)
        best_BT = jnp.argmax(logits_BTK[..., : len(names)], axis=-1)
        return {"guess": best_BT, **{key: batch[key] for key in info.spec}}

    return Task(
        init=init,
        loss=loss,
        unit="sentences",
        evaluations={
            "score": scoring(loss, summarize),
            "entities": Evaluation(
                without_carry(guess),
                lambda rows, artefacts: summarize_entities(rows, names, artefacts),
                keeps="rows",
            ),
        },
        functions={"logits": lambda *arguments: logits(*arguments)[0]},
        hparams=numbers,
        cost=model.cost(length) if hasattr(model, "cost") else None,
    )


def summarize(totals: Totals, _: object = None) -> dict[str, Any]:
    """Loss in nats per word with its standard error over sentences, and the accuracy of words."""
    return {**mean_loss(totals, "words"), **means({"accuracy": totals["accuracy"]})}


def summarize_entities(
    rows: Mapping[str, np.ndarray], names: tuple[str, ...], artefacts: Mapping[str, Any]
) -> dict[str, Any]:
    """The scores of entities, and sentences as text with the entities there and those seen."""
    first_BT = rows["weights"] > 0
    truth, guess = (
        [[names[k] for k in tags[first]] for tags, first in zip(rows[key], first_BT, strict=True)]
        for key in ("labels", "guess")
    )
    shown = sorted(range(len(truth)), key=lambda i: entities(truth[i]) == entities(guess[i]))
    texts = []
    for i in shown[:SHOWN]:
        tokens = rows["inputs"][i][: int(rows["segments"][i].sum())]
        # A token belongs to the word that begins at or before it.
        word = np.cumsum(first_BT[i][: len(tokens)]) - 1

        def spelled(tags: list[str], tokens: np.ndarray = tokens, word: np.ndarray = word) -> str:
            spans = [(name, (word >= a) & (word < b)) for name, a, b in entities(tags)]
            decode = artefacts["tokenizer"].decode
            return ", ".join(f"{name}: {decode(tokens[inside]).strip()}" for name, inside in spans)

        text = artefacts["tokenizer"].decode(tokens)
        texts.append({"text": text, "there": spelled(truth[i]), "seen": spelled(guess[i])})
    return {**entity_scores(truth, guess), "sentences": len(truth), "texts": texts}
