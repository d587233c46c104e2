"""What the examples of a kind are to a model: images, texts with one label, utterances.

Legend: B batch, H height, W width, C channels, T time, M mel bands.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from scaling.tasks.base import Batch, Context, TaskContext
from scaling.tasks.pictures import image_shape
from scaling.tasks.sound import Spectrograms


class Inputs(NamedTuple):
    """How a model reads a kind of data.

    Attributes:
      of: (batch, context) -> the arguments of the model.
      output: key of the model that says how many numbers it gives.
      keys: keys of section `model` that the data fill in.
      sizes: what `model.cost` takes.
    """

    of: Callable[[Batch, Context], tuple[jax.Array, ...]]
    output: str = "num_classes"
    keys: Mapping[str, int] = {}
    sizes: tuple[int, ...] | int | None = None


def images(context: TaskContext) -> Inputs:
    """Called as model(images_BHWC, train=...), with values in [0, 1]."""
    return Inputs(
        lambda batch, _: (batch["images"].astype(jnp.float32) / 255.0,),
        sizes=image_shape(context),
    )


def texts(context: TaskContext) -> Inputs:
    """Called as model(inputs_BT, segments_BT, train=...), with segment 0 for padding."""
    return Inputs(
        lambda batch, _: (batch["inputs"], batch["segments"]),
        keys={"vocab_size": context.outputs("vocab_size", context.info.vocab_size)},
        sizes=context.info.spec["inputs"][0][0],
    )


def inputs(context: TaskContext, hear: Callable[[int], Spectrograms] | None = None) -> Inputs:
    """Those of the data's kind.

    Args:
      context: of the task; its `info` names the kind.
      hear: samples a second -> spectrograms; None where the task takes no utterances.

    Raises:
      ConfigError: the task takes none of this kind.
    """
    kinds = {"images": images, "labelled_text": texts}
    if hear is not None:
        # Called as model(features_BTM, frames_B, train=...); its `vocab_size` numbers a frame.
        kinds["utterances"] = lambda context: Inputs(
            hear(context.info.facts["sample_rate"]), output="vocab_size"
        )
    kind = context.info.kind
    if kind not in kinds:
        context.need(" or ".join(kinds))
    return kinds[kind](context)
