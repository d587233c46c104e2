"""Speech-like frames with CTC; the error rate of the decoded labels as an evaluation."""

import dataclasses
import itertools

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax

from myx.arrays import Arrays, spec
from scaling.data import DataInfo, Opened
from scaling.data.sources.utterances import utterance_spec
from scaling.data.tokenizers import Bytes
from scaling.tasks.base import Evaluation, Loss, Task

FRAMES, LABELS, SYMBOLS = 40, 8, 6
TONE, LETTERS = 80, 3  # samples of a tone, tones at most


@dataclasses.dataclass(frozen=True)
class Beeps:
    def describe(self, context):
        shapes = spec(
            frames=((FRAMES, 8), "float32"),
            num_frames=((), "int32"),
            labels=((LABELS,), "int32"),
            num_labels=((), "int32"),
        )
        return DataInfo(kind="speech", unit="utterances", spec=shapes, vocab_size=SYMBOLS)

    def open(self, context):
        def beeps(n, seed):
            rng = np.random.default_rng(seed)
            frames = 0.1 * rng.normal(size=(n, FRAMES, 8)).astype("float32")
            labels, counts = np.zeros((n, LABELS), "int32"), np.zeros((2, n), "int32")
            for i in range(n):
                said, at = rng.integers(1, SYMBOLS, rng.integers(2, LABELS + 1)), 0
                for symbol in said:
                    length = rng.integers(2, 4)
                    frames[i, at : at + length, symbol] += 1
                    at += length + 1
                labels[i, : len(said)] = said
                counts[:, i] = at, len(said)
            return Arrays(frames=frames, num_frames=counts[0], labels=labels, num_labels=counts[1])

        return Opened(self.describe(context), {"train": beeps(256, 0)}, {"eval": beeps(60, 1)})


@dataclasses.dataclass(frozen=True)
class Tones:
    """For the task and the models that are shipped: a tone for each of three letters."""

    def describe(self, context):
        return DataInfo(
            kind="utterances",
            unit="utterances",
            spec=utterance_spec(TONE * LETTERS, LETTERS),
            vocab_size=Bytes.vocab_size,
            separator=Bytes.vocab_size - 1,
            facts={"sample_rate": 1000},
        )

    def open(self, context):
        def tones(n, seed):
            rng = np.random.default_rng(seed)
            count = rng.integers(1, LETTERS + 1, n)
            letter = rng.integers(0, 3, (n, LETTERS))
            time = np.arange(TONE) / 1000
            audio = np.sin(2 * np.pi * (100 + 100 * letter[..., None]) * time).reshape(n, -1)
            inside = np.arange(LETTERS) < count[:, None]
            audio = 9000 * audio * np.repeat(inside, TONE, axis=1)
            return Arrays(
                audio=audio.astype("int16"),
                num_samples=(count * TONE).astype("int32"),
                labels=np.where(inside, 97 + letter, 256).astype("int32"),
                num_labels=count.astype("int32"),
                weights=np.ones(n, "float32"),
            )

        artefacts = {"tokenizer": Bytes()}
        parts = {"train": tones(256, 0)}, {"eval": tones(60, 1)}
        return Opened(self.describe(context), *parts, artefacts=artefacts)


class Listener(nn.Module):
    vocab_size: int | None = None
    width: int = 32

    @nn.compact
    def __call__(self, frames, num_frames, *, train):
        x = nn.relu(nn.Conv(self.width, (3,))(frames))
        x = nn.RNN(nn.GRUCell(self.width))(x, seq_lengths=num_frames)
        return nn.Dense(self.vocab_size)(x)


def speech(context) -> Task:
    model = context.model(vocab_size=context.outputs("vocab_size", context.info.vocab_size))

    def init(rng):
        return model.init(rng, jnp.zeros((1, FRAMES, 8)), jnp.ones((1,), jnp.int32), train=False)

    def padding(counts, length):
        return (jnp.arange(length)[None] >= counts[:, None]).astype(jnp.float32)

    def loss(variables, batch, context, hparams):
        logits = model.apply(variables, batch["frames"], batch["num_frames"], train=context.train)
        pads = padding(batch["num_frames"], FRAMES), padding(batch["num_labels"], LABELS)
        nll = optax.ctc_loss(logits, pads[0], batch["labels"], pads[1])
        w = batch["weights"]
        total = jnp.sum(w * nll), jnp.sum(w)
        return Loss(*total, {"loss": total}, {})

    def decode(variables, batch, context, carry):
        logits = model.apply(variables, batch["frames"], batch["num_frames"], train=False)
        kept = ("num_frames", "labels", "num_labels")
        return {"best": jnp.argmax(logits, -1), **{key: batch[key] for key in kept}}, carry

    return Task(
        init, loss, "utterances", evaluations={"decode": Evaluation(decode, report, keeps="rows")}
    )


def report(rows, artefacts):
    edits = length = 0
    texts = []
    for best, frames, labels, count in zip(
        rows["best"], rows["num_frames"], rows["labels"], rows["num_labels"], strict=True
    ):
        path = [0, *best[:frames].tolist()]
        said = [c for before, c in itertools.pairwise(path) if c and c != before]
        wanted = labels[:count].tolist()
        edits, length = edits + distance(said, wanted), length + len(wanted)
        texts.append(f"{said} for {wanted}")
    return {"error_rate": edits / length, "texts": texts[:3]}


def distance(a, b):
    row = list(range(len(b) + 1))
    for i, c in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, d in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (c != d))
    return row[-1]
