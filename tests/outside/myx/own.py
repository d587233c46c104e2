"""Own optimizer, schedule, text source, language model and evaluation."""

import dataclasses
import hashlib
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
import optax

from scaling.tasks.base import Evaluation, Task


def plain_optax(learning_rate: float = 1e-3, b1: float = 0.9):
    """An optax transformation as it is."""
    return optax.adam(learning_rate, b1=b1)


def triangle(step, peak, total_steps, *, top: float = 0.5):
    x = step / total_steps
    return peak * jnp.minimum(x / top, (1 - x) / (1 - top)).clip(0.01)


@dataclasses.dataclass(frozen=True)
class Poem:
    kind: ClassVar[str] = "text"
    lines: int = 400

    def documents(self):
        for i in range(self.lines):
            yield f"line {i} of {self.lines}: " + "la " * (i % 7)

    def fingerprint(self, cache):
        return hashlib.sha256(str(self.lines).encode()).hexdigest()

    def held_out(self):
        return None


class Bigram(nn.Module):
    """The shortest language model: no hidden states, no platform, no cost."""

    vocab_size: int | None = None
    width: int = 16

    @nn.compact
    def __call__(self, tokens, segments=None, positions=None, *, train):
        return nn.Dense(self.vocab_size)(nn.Embed(self.vocab_size, self.width)(tokens))


def guesses(task: Task) -> Evaluation:
    """The most likely next token of some positions, as text."""

    def run(variables, batch, context, carry):
        logits = task.functions["logits"](variables, batch, context)
        return {"best": jnp.argmax(logits, -1)}, carry

    def report(rows, artefacts):
        texts = [artefacts["tokenizer"].decode(row) for row in rows["best"][:2]]
        return {"rows": len(rows["best"]), "texts": texts}

    return Evaluation(run, report, keeps="rows")


class Headless(nn.Module):
    """A classifier whose last layer has another name than `head`."""

    num_classes: int | None = None

    @nn.compact
    def __call__(self, images, *, train):
        return nn.Dense(self.num_classes)(images.reshape(len(images), -1))


class Bag(nn.Module):
    """A tower of texts: the mean of their words, as many numbers as the task asks for."""

    num_classes: int | None = None
    vocab_size: int | None = None

    @nn.compact
    def __call__(self, tokens, segments, *, train):
        inside = (segments > 0).astype(jnp.float32)[..., None]
        x = nn.Embed(self.vocab_size, 16)(tokens) * inside
        return nn.Dense(self.num_classes)(x.sum(axis=1))
