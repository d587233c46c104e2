"""Encoder-decoder on reversed sequences; greedy decoding, BLEU and samples as an evaluation."""

import dataclasses
import math
from collections import Counter

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from myx.arrays import Arrays, spec
from myx.toolbox import Layer
from scaling.data import DataInfo, Opened
from scaling.ops.cross_entropy import cross_entropy
from scaling.tasks.base import Evaluation, Loss, Task

BOS, EOS = 1, 2


@dataclasses.dataclass(frozen=True)
class Reversal:
    vocab: int = 12
    length: int = 6

    def describe(self, context):
        shapes = spec(
            source=((self.length,), "int32"),
            target=((self.length + 1,), "int32"),
            weights=((self.length + 1,), "float32"),
        )
        return DataInfo(kind="pairs", unit="tokens", spec=shapes, vocab_size=self.vocab)

    def open(self, context):
        def pairs(n, seed):
            rng, size = np.random.default_rng(seed), self.length
            source, target = np.zeros((n, size), "int32"), np.zeros((n, size + 1), "int32")
            for i in range(n):
                words = rng.integers(3, self.vocab, rng.integers(3, size + 1))
                source[i, : len(words)] = words
                target[i, : len(words) + 1] = [*words[::-1], EOS]
            return Arrays(source=source, target=target, weights=(target > 0).astype("float32"))

        return Opened(self.describe(context), {"train": pairs(512, 0)}, {"eval": pairs(100, 1)})


class EncDec(nn.Module):
    vocab_size: int | None = None
    width: int = 32

    def setup(self):
        self.embed, self.place = nn.Embed(self.vocab_size, self.width), nn.Embed(64, self.width)
        self.enc, self.dec, self.out = Layer(), Layer(cross=True), nn.Dense(self.vocab_size)

    def _embedded(self, tokens):
        return self.embed(tokens) + self.place(jnp.arange(tokens.shape[1]))[None]

    def encode(self, source):
        return self.enc(self._embedded(source), (source > 0)[:, None, None])

    def decode(self, target, memory, source):
        mask = nn.make_causal_mask(target)
        x = self.dec(self._embedded(target), mask, memory, (source > 0)[:, None, None])
        return self.out(x)

    def __call__(self, source, target, *, train):
        return self.decode(target, self.encode(source), source)


def translation(context) -> Task:
    model = context.model(vocab_size=context.outputs("vocab_size", context.info.vocab_size))
    length = context.info.spec["target"][0][0]

    def init(rng):
        source, target = jnp.zeros((1, length - 1), jnp.int32), jnp.zeros((1, length), jnp.int32)
        return model.init(rng, source, target, train=False)

    def loss(variables, batch, context, hparams):
        target, w = batch["target"], batch["weights"]
        shifted = jnp.pad(target, ((0, 0), (1, 0)), constant_values=BOS)[:, :-1]
        logits = model.apply(variables, batch["source"], shifted, train=context.train)
        nll, _ = cross_entropy(logits, target)
        weight = jnp.sum(w)
        total = jnp.sum(w * nll)
        return Loss(total, weight, {"loss": (total, weight)}, {})

    def greedy(variables, batch, context, carry):
        source = batch["source"]
        memory = model.apply(variables, source, method="encode")

        def turn(i, tokens):
            logits = model.apply(variables, tokens[:, :-1], memory, source, method="decode")
            return tokens.at[:, i + 1].set(jnp.argmax(logits[:, i], -1).astype(jnp.int32))

        start = jnp.zeros((source.shape[0], length + 1), jnp.int32).at[:, 0].set(BOS)
        decoded = jax.lax.fori_loop(0, length, turn, start)[:, 1:]
        return {"decoded": decoded, "target": batch["target"]}, carry

    evaluations = {"greedy": Evaluation(greedy, report, keeps="rows")}
    return Task(init, loss, "tokens", length, evaluations)


def report(rows, artefacts):
    pairs = [(cut(h), cut(r)) for h, r in zip(rows["decoded"], rows["target"], strict=True)]
    samples = [f"{h} for {r}" for h, r in pairs[:3]]
    return {"bleu": bleu(pairs), "pairs": len(pairs), "samples": samples}


def cut(tokens):
    tokens = tokens.tolist()
    return tokens[: tokens.index(EOS)] if EOS in tokens else tokens


def ngrams(tokens, n):
    return Counter(zip(*(tokens[i:] for i in range(n)), strict=False))


def bleu(pairs):
    """Corpus BLEU-4 in percent."""
    logs = 0.0
    for n in range(1, 5):
        grams = [tuple(ngrams(x, n) for x in pair) for pair in pairs]
        hits = sum((h & r).total() for h, r in grams)
        logs += math.log(max(hits, 1e-9) / max(sum(h.total() for h, _ in grams), 1e-9)) / 4
    short = sum(len(r) for _, r in pairs) / max(sum(len(h) for h, _ in pairs), 1)
    return 100 * math.exp(min(0.0, 1 - short) + logs)
