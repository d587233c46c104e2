"""Prediction of ratings: squared error, RMSE and MAE; and the ranking that the predictions give.

Legend: B batch, V items.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from scaling.configs.types import RuntimeFloat
from scaling.tasks import ranking
from scaling.tasks.base import (
    Batch,
    Context,
    Evaluation,
    Hparams,
    Loss,
    Task,
    TaskContext,
    Total,
    Totals,
    Variables,
    call,
    means,
    scoring,
    without_carry,
)
from scaling.tasks.losses import mean_loss, summed


def rating(context: TaskContext, *, l2: RuntimeFloat = 0.0) -> Task:
    """The rating of a user and an item, as what stands above the mean rating of the training data.

    The model is called as model(user_B, item_B, train=...) -> float32 [B]. If it also has `scores`
    (user_B, train=...) -> [B, V] and the data hold out each user's last rating, evaluation `rank`
    says where that item comes among all. Evaluation keeps predictions inside the scale of the ratings.

    Args:
      context: config, data, platform; the data give users, items, mean and scale.
      l2: weight of what the model sows as `squared_norm`, the penalty of each rating's parameters.
    """
    context.need("ratings")
    facts = context.info.facts
    users = context.outputs("num_users", facts["users"])
    items = context.outputs("num_items", facts["items"])
    model = context.model(num_users=users, num_items=items)
    mean, scale = facts["mean_rating"], facts["rating_range"]
    numbers = {"l2": l2} if l2 else {}

    def init(rng: jax.Array) -> Variables:
        zero_B = jnp.zeros((1,), jnp.int32)
        return model.init(rng, zero_B, zero_B, train=False)

    def predict(variables: Variables, batch: Batch, context: Context) -> jax.Array:
        guess_B, _ = call(model, variables, batch["user"], batch["item"], context=context)
        return jnp.clip(mean + guess_B, *scale)

    def loss(variables: Variables, batch: Batch, context: Context, hparams: Hparams) -> Loss:
        guess_B, sown = call(model, variables, batch["user"], batch["item"], context=context)
        guess_B, h = mean + guess_B, {**numbers, **hparams}
        if not context.train:
            error_B = jnp.clip(guess_B, *scale) - batch["rating"]
            values = {"loss": error_B**2, "mae": jnp.abs(error_B)}
            return summed(values, batch["weights"], context, sown)
        square_B = (guess_B - batch["rating"]) ** 2
        objective_B = square_B
        if "l2" in h:
            objective_B = square_B + h["l2"] * sown.metrics["squared_norm"]
        return summed({"loss": square_B}, batch["weights"], context, sown, objective_B)

    def scores(variables: Variables, batch: Batch, context: Context) -> jax.Array:
        scores_BV, _ = call(model, variables, batch["user"], context=context, method=_scores)
        return scores_BV[:, : facts["items"]]

    def rank(variables: Variables, batch: Batch, context: Context) -> dict[str, Total]:
        scores_BV = scores(variables, batch, context)
        return ranking.totals(scores_BV, facts["item_counts"], batch["item"], batch)

    evaluations = {"score": scoring(loss, summarize)}
    ranks = hasattr(model, "scores")
    if ranks and "seen" in context.info.eval_specs.get("eval", {}):
        evaluations["rank"] = Evaluation(without_carry(rank), ranking.report)
    return Task(
        init=init,
        loss=loss,
        unit="ratings",
        evaluations=evaluations,
        functions={"predict": predict} | ({"scores": scores} if ranks else {}),
        hparams=numbers,
        cost=model.cost() if hasattr(model, "cost") else None,
    )


def _scores(model: nn.Module, user_B: jax.Array, train: bool) -> jax.Array:
    return model.scores(user_B, train=train)


def summarize(totals: Totals, _: object = None) -> dict[str, Any]:
    """Mean squared error with its standard error, its root, and the mean absolute error."""
    report = mean_loss(totals, "ratings")
    return report | {"rmse": report["loss"] ** 0.5} | means({"mae": totals["mae"]})
