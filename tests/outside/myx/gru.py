"""A GRU language model whose state is carried from window to window of its lane."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from myx.arrays import Arrays, spec
from scaling.data import DataInfo, Opened
from scaling.ops.cross_entropy import cross_entropy
from scaling.tasks.base import Evaluation, Loss, Task, means


@dataclasses.dataclass(frozen=True)
class Lanes:
    """Row r of a batch reads windows r * per_lane, r * per_lane + 1, ..."""

    per_lane: int
    lanes: int

    @property
    def length(self):
        return self.per_lane * self.lanes

    def __call__(self, positions):
        step, row = np.divmod(np.asarray(positions, np.int64), self.lanes)
        return row * self.per_lane + step % self.per_lane

    def epoch(self, position):
        return position / self.length


@dataclasses.dataclass(frozen=True)
class Steps:
    """A walk on a ring whose stride changes rarely: what comes next depends on the lane's past."""

    window: int = 4
    vocab: int = 17
    windows: int = 40

    def describe(self, context):
        shape = (self.window,)
        shapes = spec(inputs=(shape, "int32"), targets=(shape, "int32"), weights=(shape, "float32"))
        return DataInfo(kind="stream", unit="tokens", spec=shapes, vocab_size=self.vocab)

    def open(self, context):
        lanes = context.batch_size

        def stream(seed):
            rng = np.random.default_rng(seed)
            parts = []
            for _ in range(lanes):
                strides = np.repeat(rng.integers(1, 8, self.windows // 8), 8 * self.window)
                walk = np.cumsum(np.append(0, strides)) % self.vocab
                parts.append((walk[:-1].astype("int32"), walk[1:].astype("int32")))
            x, y = (np.concatenate(p).reshape(-1, self.window) for p in zip(*parts, strict=True))
            return Arrays(inputs=x, targets=y, weights=np.ones(x.shape, "float32"))

        order = Lanes(self.windows, lanes)
        by_time = stream(1)
        rows = order(np.arange(len(by_time)))  # evaluation visits examples in their own order
        held_out = Arrays(**{k: v[rows] for k, v in by_time.arrays.items()})
        return Opened(self.describe(context), {"train": stream(0)}, {"eval": held_out}, order)


class GRU(nn.Module):
    vocab_size: int | None = None
    width: int = 32

    @nn.compact
    def __call__(self, tokens, carry, *, train):
        x = nn.Embed(self.vocab_size, self.width)(tokens)
        carry, y = nn.RNN(nn.GRUCell(self.width), return_carry=True)(x, initial_carry=carry)
        return nn.Dense(self.vocab_size)(y), carry


def gru_lm(context, *, keep_carry: bool = True) -> Task:
    model = context.model(vocab_size=context.outputs("vocab_size", context.info.vocab_size))
    length, rows = context.info.spec["inputs"][0][0], context.config.train.batch_size

    def fresh(rows):
        return jnp.zeros((rows, model.width))

    def init(rng):
        tokens = jnp.zeros((1, length), jnp.int32)
        params = model.init(rng, tokens, fresh(1), train=False)["params"]
        return {"params": params, "carry": {"h": nn.Partitioned(fresh(rows), ("batch", None))}}

    def score(variables, batch, carry, train):
        w = batch["weights"]
        carry = carry if keep_carry else jnp.zeros_like(carry)
        params = {"params": variables["params"]}
        logits, carry = model.apply(params, batch["inputs"], carry, train=train)
        nll, _ = cross_entropy(logits, batch["targets"])
        return (jnp.sum(w * nll), jnp.sum(w)), jax.lax.stop_gradient(carry)

    def loss(variables, batch, context, hparams):
        total, carry = score(variables, batch, variables["carry"]["h"], context.train)
        return Loss(*total, {"loss": total}, {"carry": {"h": carry}})

    def run(variables, batch, context, carry):
        total, carry = score(variables, batch, carry, False)
        return {"loss": total}, carry

    evaluations = {"score": Evaluation(run, means, carry=fresh)}
    return Task(init, loss, "tokens", length, evaluations, merge={"carry": "rows"})
