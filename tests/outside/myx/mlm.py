"""A masked language model: fresh masks in training and in every batch of an evaluation."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from myx.toolbox import Layer
from scaling.ops.cross_entropy import cross_entropy
from scaling.tasks.base import Loss, Task, call


class Encoder(nn.Module):
    vocab_size: int | None = None
    width: int = 32
    layers: int = 2
    max_len: int = 64

    @nn.compact
    def __call__(self, tokens, segments=None, *, train):
        x = nn.Embed(self.vocab_size, self.width)(tokens)
        x = x + nn.Embed(self.max_len, self.width)(jnp.arange(tokens.shape[1]))[None]
        mask = None
        if segments is not None:
            mask = (segments[:, :, None] == segments[:, None])[:, None]
        for _ in range(self.layers):
            x = Layer()(x, mask)
        return nn.Dense(self.vocab_size)(nn.LayerNorm()(x))


def masked_lm(context, *, mask_rate: float = 0.15) -> Task:
    context.need("text")
    vocab = context.outputs("vocab_size", context.info.vocab_size + 1)  # + [MASK]
    model, length = context.model(vocab_size=vocab), context.config.data.text.seq_len

    def init(rng):
        return model.init(rng, jnp.zeros((1, length), jnp.int32), train=False)

    def loss(variables, batch, context, hparams):
        tokens = batch["inputs"]
        hit = jax.random.bernoulli(context.rng, mask_rate, tokens.shape)
        masked = jnp.where(hit, vocab - 1, tokens)
        logits, _ = call(model, variables, masked, batch.get("segments"), context=context)
        nll, _ = cross_entropy(logits, tokens)
        w = batch["weights"] * hit
        weight = jnp.sum(w)
        right = jnp.argmax(logits, -1) == tokens
        metrics = {
            "loss": (jnp.sum(w * nll), weight),
            "accuracy": (jnp.sum(w * right), weight),
            "masked": (weight, jnp.sum(batch["weights"])),
        }
        return Loss(jnp.sum(w * nll), weight, metrics, {})

    return Task(init, loss, unit="tokens", units_per_example=length)
