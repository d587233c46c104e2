"""A recommender: ratings factorised, every item ranked for every held-out user."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from myx.arrays import Arrays, spec
from scaling.data import DataInfo, Opened
from scaling.tasks.base import Evaluation, Loss, Task, means


@dataclasses.dataclass(frozen=True)
class Ratings:
    users: int = 60
    items: int = 40
    ratings: int = 12

    def describe(self, context):
        pairs = spec(user=((), "int32"), item=((), "int32"), rating=((), "float32"))
        held_out = {**pairs, **spec(seen=((self.items,), "bool"))}
        return DataInfo(kind="ratings", unit="ratings", spec=pairs, eval_specs={"eval": held_out})

    def open(self, context):
        rng = np.random.default_rng(0)
        taste = rng.normal(size=(self.users, 2)), rng.normal(size=(self.items, 2))
        rows = [rng.permutation(self.items)[: self.ratings] for _ in range(self.users)]
        user = np.repeat(np.arange(self.users), self.ratings).astype("int32")
        item = np.concatenate(rows).astype("int32")
        rating = (3 + np.sum(taste[0][user] * taste[1][item], 1)).astype("float32")
        last = np.arange(len(user)) % self.ratings == self.ratings - 1
        seen = np.zeros((self.users, self.items), bool)
        seen[user[~last], item[~last]] = True
        train = Arrays(user=user[~last], item=item[~last], rating=rating[~last])
        held = Arrays(user=user[last], item=item[last], rating=rating[last], seen=seen[user[last]])
        return Opened(self.describe(context), {"train": train}, {"eval": held})


class Factors(nn.Module):
    users: int = 60
    items: int = 40
    width: int = 8

    def setup(self):
        init = nn.with_partitioning(nn.initializers.normal(0.3), ("vocab", "embed"))
        self.u = nn.Embed(self.users, self.width, embedding_init=init)
        self.i = nn.Embed(self.items, self.width, embedding_init=init)

    def __call__(self, user, item, *, train):
        return jnp.sum(self.u(user) * self.i(item), -1)

    def scores(self, user):
        return self.i.attend(self.u(user))


def recommend(context) -> Task:
    model = context.model()

    def init(rng):
        return model.init(rng, jnp.zeros((1,), jnp.int32), jnp.zeros((1,), jnp.int32), train=False)

    def loss(variables, batch, context, hparams):
        w = batch["weights"]
        guess = model.apply(variables, batch["user"], batch["item"], train=context.train)
        total = jnp.sum(w * (guess - (batch["rating"] - 3.0)) ** 2), jnp.sum(w)
        return Loss(*total, {"loss": total}, {})

    def rank(variables, batch, context, carry):
        w = batch["weights"]
        scores = model.apply(variables, batch["user"], method="scores")
        scores = jnp.where(batch["seen"], -jnp.inf, scores)
        own = jnp.take_along_axis(scores, batch["item"][:, None], 1)
        place = jnp.sum(scores > own, 1)
        gain = jnp.where(place < 10, 1 / jnp.log2(place + 2.0), 0.0)
        weight = jnp.sum(w)
        sums = {"hit10": jnp.sum(w * (place < 10)), "ndcg10": jnp.sum(w * gain)}
        return {name: (value, weight) for name, value in sums.items()}, carry

    return Task(init, loss, "ratings", evaluations={"rank": Evaluation(rank, means)})
