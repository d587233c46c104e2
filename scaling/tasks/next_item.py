"""Which item a user takes next: cross-entropy over all items, and the rank of the right one.

Legend: B batch, T time, D model width, V items and the separator, I items.
"""

from typing import Any

import jax
import jax.numpy as jnp

from scaling.ops.cross_entropy import chunked_loss, cross_entropy
from scaling.tasks import ranking
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
    scoring,
)
from scaling.tasks.language_model import hidden_and_kernel, objective
from scaling.tasks.losses import mean_loss, summed


def next_item(context: TaskContext) -> Task:
    """Predicts each item of a history from those before it.

    The model is one of `language_model` with items for tokens: it has `hidden` (inputs_BT,
    segments_BT, positions_BT, train=...) -> [B, T, D] and `head_kernel` () -> [D, V]. The loss is that
    over all items, not over a sample of them; the separator is never a target.

    Args:
      context: config, data, platform; the data give the items and how often each occurs.
    """
    context.need("histories")
    info = context.info
    vocab = context.outputs("vocab_size", info.vocab_size)
    model = context.model("hidden", "head_kernel", vocab_size=vocab)
    length = info.spec["inputs"][0][0]
    items, counts = info.facts["items"], info.facts["item_counts"]

    def init(rng: jax.Array) -> Variables:
        zeros_BT = jnp.zeros((1, length), jnp.int32)
        return model.init(rng, zeros_BT, zeros_BT, zeros_BT, train=False)

    def predict(
        variables: Variables, batch: Batch, context: Context
    ) -> tuple[tuple[jax.Array, jax.Array], Any]:
        inputs = (batch["inputs"], batch["segments"], batch["positions"])
        return call(model, variables, *inputs, context=context, method=hidden_and_kernel)

    def logits(variables: Variables, batch: Batch, context: Context) -> tuple[jax.Array, Sown]:
        """Of every item, float32 [B, I], at the one position of a held-out example."""
        (x_BTD, kernel_DV), sown = predict(variables, batch, context)
        x_BD = jnp.take_along_axis(x_BTD, _end(batch)[:, :, None], axis=1)[:, 0]
        logits_BV = jnp.dot(x_BD, kernel_DV, preferred_element_type=jnp.float32)
        return logits_BV[:, :items], sown

    def evaluate(variables: Variables, batch: Batch, context: Context) -> Loss:
        logits_BI, sown = logits(variables, batch, context)
        item_B = jnp.take_along_axis(batch["targets"], _end(batch), axis=1)[:, 0]
        nll_B, _ = cross_entropy(logits_BI, item_B)
        result = summed({"loss": nll_B}, jnp.sum(batch["weights"], axis=1), context, sown)
        return result._replace(
            metrics=result.metrics | ranking.totals(logits_BI, counts, item_B, batch)
        )

    def loss(variables: Variables, batch: Batch, context: Context, hparams: Hparams) -> Loss:
        if not context.train:
            return evaluate(variables, batch, context)
        weights_BT = batch["weights"] * (batch["targets"] < items)
        output, sown = predict(variables, batch, context)
        nll_BT, _ = chunked_loss(objective, *output, batch["targets"], {})
        return summed({"loss": nll_BT}, weights_BT, context, sown)

    return Task(
        init=init,
        loss=loss,
        unit="items",
        units_per_example=length,
        evaluations={"score": scoring(loss, summarize)},
        functions={"logits": lambda *arguments: logits(*arguments)[0]},
        cost=model.cost(length) if hasattr(model, "cost") else None,
    )


def _end(batch: Batch) -> jax.Array:
    """Where the target of a held-out example stands: int32 [B, 1]."""
    return jnp.argmax(batch["weights"], axis=1)[:, None]


def summarize(totals: Totals, _: object = None) -> dict[str, Any]:
    """Loss (nats per item) with its standard error, and the ranking beside the popular items'."""
    return mean_loss(totals, "users") | ranking.report(totals)
