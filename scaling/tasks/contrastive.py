"""Contrastive learning of pairs: each example finds its partner among those of the whole batch.

    softmax  cross-entropy of each example's partner against the partners of the whole batch, mean
             of both directions (CLIP, 2103.00020, fig. 3)
    sigmoid  each of the B^2 pairs is judged alone, the sum is divided by B (SigLIP, 2303.15343)

The loss compares all rows of a global batch, over all devices and processes: the batch is one
array, and the compiler gathers the vectors of one side. It is of one scale only at one
batch size, in training and in evaluation (`eval.batch_size`), where it cannot fall below the log of
how many partners fit equally well. Cut into microbatches it would be another loss, so
`train.accumulate` is refused. `pieces` saves the same memory and is exact (gradient caching, Gao et
al. 2021, 2101.06983): the towers run on a piece of the batch at a time and keep its vectors alone,
the loss sees all vectors, and the backward pass runs each piece again, which the FLOPs of a pair
then hold. Dropout and masks are drawn for each piece; batch statistics are those of groups
(`batch_norm_group`), or of a piece.

Legend: B batch (the global one), D width of the space, P pieces.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from scaling.configs import ConfigError
from scaling.configs.types import PositiveFloat, PositiveInt, Probability
from scaling.data.info import DataInfo
from scaling.ops import constrain
from scaling.ops.cross_entropy import cross_entropy
from scaling.tasks.base import (
    Batch,
    Context,
    Hparams,
    Loss,
    Sown,
    Task,
    TaskContext,
    Variables,
    call,
)
from scaling.tasks.inputs import Inputs, inputs
from scaling.tasks.retrieval import retrieval
from scaling.tasks.sound import Spectrograms

Kind = Literal["softmax", "sigmoid"]
Arrays = tuple[jax.Array, ...]
Hear = Callable[[int], Spectrograms]
# -> ((unit vectors of both sides, log of the scale, bias), what was sown)
Embed = Callable[[Variables, Batch, Context], tuple[Arrays, Sown]]
SIDES = ("first", "second")
LARGEST_SCALE = 100.0  # as in CLIP
NEVER = -1e30  # logit of a partner that is padding; finite, so that differences are numbers


def contrastive(
    context: TaskContext,
    *,
    kind: Kind = "softmax",
    pieces: PositiveInt = 1,
    window_seconds: PositiveFloat = 0.025,
    hop_seconds: PositiveFloat = 0.01,
    mel_bands: PositiveInt = 40,
    frequency_masks: tuple[PositiveInt, ...] = (),
    time_masks: tuple[Probability, ...] = (),
) -> Task:
    """A common space for two kinds of data, learned from pairs alone; the model is `towers`.

    Evaluation `retrieval`: see `scaling.tasks.retrieval`.

    Args: as of `speech`, where one kind is utterances, and
      context: config, data, platform; the data give two kinds.
      kind: of the loss, see the module.
      pieces: must divide `train.batch_size`.
    """
    context.need("pairs")
    _check(context, kind, pieces)
    sound = (window_seconds, hop_seconds, mel_bands, frequency_masks, time_masks)
    sides = {side: _tower(context, side, lambda rate: Spectrograms(rate, *sound)) for side in SIDES}
    model = context.model("embed_dim", **{side: tower for side, (tower, _) in sides.items()})
    spec = context.info.spec

    def read(batch: Batch, context: Context) -> tuple[Arrays, ...]:
        return tuple(r.of(of_side(batch, side), context) for side, (_, r) in sides.items())

    def init(rng: jax.Array) -> Variables:
        example = {key: jnp.ones((1, *shape), dtype) for key, (shape, dtype) in spec.items()}
        context = Context(rng, jnp.int32(0), False)
        return model.init(rng, *read(example, context), train=False)

    def embed(variables: Variables, batch: Batch, context: Context) -> tuple[Arrays, Sown]:
        return call(model, variables, *read(batch, context), context=context)

    def loss(variables: Variables, batch: Batch, context: Context, hparams: Hparams) -> Loss:
        del hparams
        count = pieces if context.train else 1
        (x_BD, y_BD, log_scale, bias), sown = in_pieces(embed, variables, batch, context, count)
        scale, weights_B = jnp.minimum(jnp.exp(log_scale), LARGEST_SCALE), batch["weights"]
        loss_B = LOSSES[kind](products(x_BD, y_BD) * scale + bias, weights_B)
        total = jnp.sum(weights_B * loss_B), jnp.sum(weights_B)
        metrics = {"loss": total, "scale": (scale * total[1], total[1])}
        return sown.added_to(Loss(*total, metrics, sown.state))

    def vectors(variables: Variables, batch: Batch, context: Context) -> Arrays:
        return embed(variables, batch, context)[0][:2]

    images = [f"{side}_images" for side in SIDES if f"{side}_images" in spec]
    return Task(
        init=init,
        loss=loss,
        unit="pairs",
        evaluations={"retrieval": retrieval(vectors, images[-1] if images else None)},
        functions={"embed": vectors},
    )


def _check(context: TaskContext, kind: Kind, pieces: int) -> None:
    """Raises ConfigError where a batch would be cut otherwise than this loss can be, or has no bias."""
    if kind == "sigmoid" and context.config.model.get("bias") is None:
        raise ConfigError(
            "model.bias", "is None, and task.kind=sigmoid needs it", "give -10, as SigLIP does"
        )
    train = context.config.train
    if train.accumulate > 1:
        raise ConfigError(
            "train.accumulate",
            f"{train.accumulate} microbatches would each be compared with itself alone, and the loss is "
            "over the whole batch",
            f"give --config.task.pieces={train.accumulate} instead: the same memory, the exact loss",
        )
    if train.batch_size % pieces:
        raise ConfigError(
            "task.pieces",
            f"{pieces} does not divide train.batch_size={train.batch_size}",
            "give a divisor",
        )


def _tower(context: TaskContext, side: str, hear: Hear) -> tuple[nn.Module, Inputs]:
    """(the model of one side, how it reads its part of a batch)."""
    config = context.config
    if side not in config.model:
        context.model(side)
    section, info = config.model[side], DataInfo.from_json(context.info.facts[side])
    alone = TaskContext(dataclasses.replace(config, model=section), info, context.platform)
    try:
        reads = inputs(alone, hear)
        width = alone.outputs(reads.output, config.model["embed_dim"])
        members = ("encoder_frames",) if info.kind == "utterances" else ()
        return alone.model(*members, **{reads.output: width}, **reads.keys), reads
    except ConfigError as error:
        key = error.key.replace("model.", f"model.{side}.", 1)
        raise ConfigError(key, error.reason, error.remedy) from error


def of_side(batch: Batch, side: str) -> Batch:
    """What a batch of pairs holds of one side, as a batch of its own."""
    start = f"{side}_"
    return {key.removeprefix(start): x for key, x in batch.items() if key.startswith(start)}


def in_pieces(
    embed: Embed, variables: Variables, batch: Batch, context: Context, count: int
) -> tuple[Arrays, Sown]:
    """`embed` of a batch, a piece at a time, each run again in the backward pass.

    Piece i takes rows i::count, as a microbatch does (`train.step`), so that no row moves from device to
    device. What was sown, and state, are means over the pieces.
    """
    if count == 1:
        return embed(variables, batch, context)
    pieces = jax.tree.map(lambda x: x.reshape(-1, count, *x.shape[1:]), dict(batch))

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def piece(i: jax.Array) -> tuple[Arrays, Sown]:
        rng = jax.random.fold_in(context.rng, i)
        rows = jax.tree.map(lambda x: x[:, i], pieces)
        return embed(variables, rows, context._replace(rng=rng))

    (x_PCD, y_PCD, log_scale, bias), sown = jax.lax.map(piece, jnp.arange(count))
    x_BD, y_BD = (jnp.moveaxis(x, 0, 1).reshape(-1, x.shape[-1]) for x in (x_PCD, y_PCD))
    mean = jax.tree.map(lambda x: jnp.mean(x, axis=0), sown)
    return (x_BD, y_BD, log_scale[0], bias[0]), mean


def products(x_BD: jax.Array, y_BD: jax.Array) -> jax.Array:
    """Of each first with each second, float32 [B, B]."""
    # In float32 whatever the platform prefers: the scale multiplies what is lost.
    all_BB = jnp.matmul(x_BD, y_BD.T, precision=jax.lax.Precision.HIGHEST)
    return constrain(all_BB, ("batch", None))


def softmax_loss(logits_BB: jax.Array, weights_B: jax.Array) -> jax.Array:
    """Of each pair, float32 [B]; rows without a weight are nobody's partner."""
    right_B = jnp.arange(len(weights_B))
    ways = (logits_BB, logits_BB.T)
    there_1B = (weights_B > 0)[None]
    nll = [cross_entropy(jnp.where(there_1B, x_BB, NEVER), right_B)[0] for x_BB in ways]
    return 0.5 * (nll[0] + nll[1])


def sigmoid_loss(logits_BB: jax.Array, weights_B: jax.Array) -> jax.Array:
    """Of each first with all seconds, float32 [B]."""
    sign_BB = 2.0 * jnp.eye(len(weights_B)) - 1.0
    return jnp.sum((weights_B > 0)[None] * jax.nn.softplus(-sign_BB * logits_BB), axis=1)


LOSSES = {"softmax": softmax_loss, "sigmoid": sigmoid_loss}
