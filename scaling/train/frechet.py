"""`eval.also.NAME.evaluation=frechet`: the run directory of a classifier becomes a judge of images.

eval.also = {"frechet": {"options": {"classifier": "runs/mnist_cnn"}, "batches": 20}}
"""

import functools
import pathlib

import jax
import jax.numpy as jnp

from scaling import parallel
from scaling.configs import ConfigError
from scaling.configs.types import LocalPath
from scaling.experiment import InitFrom
from scaling.tasks.base import Context, Evaluation, Task, Variables, build_task
from scaling.tasks.frechet import Classifier, compared
from scaling.tasks.keys import abstract_key
from scaling.track.paths import PathError, expand
from scaling.train.data_record import DataRecordError
from scaling.train.init_from import InitFromError, check_initial, load_initial
from scaling.train.reopen import ReopenError, recorded

KEY = "options.classifier"
REMEDY = "give the run directory of a classifier of such images, such as runs/mnist_cnn"


def frechet(task: Task, *, classifier: LocalPath = "") -> Evaluation:
    """How far generated images are from held-out ones; see `scaling.tasks.frechet`.

    It makes one image for each held-out one that the entry's `batches` and `batch_size` take. In the
    metrics: `distance`; `halves`, that of two halves of the held-out images; `modes`, classes that get
    at least 1 % of the samples; `top_share`, that of the commonest class; `samples`. Beside them the
    share of every class, and a sheet of a hundred samples.

    Args:
      task: has the function "sample".
      classifier: run directory of a classifier trained with this package on images of that shape; its
        newest checkpoint is taken, averaged where it has an average.

    Raises:
      ConfigError: the task makes no images, or there is not such a classifier.
    """
    if "sample" not in task.functions:
        raise ConfigError(
            "evaluation",
            "frechet judges a task that makes images: this one has no `sample`",
            "leave it out",
        )
    if not classifier:
        raise ConfigError(KEY, "is not set", REMEDY)
    try:
        return compared(task, _opened(expand(classifier, KEY), _made_shape(task)))
    except (PathError, ReopenError, DataRecordError, InitFromError) as error:
        raise ConfigError(KEY, str(error.__cause__ or error), REMEDY) from error
    except ConfigError as error:
        if error.key == KEY:
            raise
        raise ConfigError(
            KEY, f"the run in {classifier} is of no use here: {error}", REMEDY
        ) from error


def _made_shape(task: Task) -> tuple[int, ...]:
    """(height, width, channels) of what the task makes; computes nothing."""

    def one(rng: jax.Array) -> jax.Array:
        return task.functions["sample"](parallel.unbox(task.init(rng)), rng, 1)

    return tuple(jax.eval_shape(one, abstract_key()).shape[1:])


def _silent(note: str) -> None:
    """The run that is judged has reports of its own."""


def _opened(path: pathlib.Path, shape: tuple[int, ...]) -> Classifier:
    """The classifier of a run directory. Its arrays are read when they are first asked for."""
    config, info, _ = recorded(path)
    if info.image_shape != shape:
        raise ConfigError(
            KEY,
            f"{path} was trained on examples of {info.image_shape}, and these are {shape}",
            REMEDY,
        )
    # In float32, and with the plain kernels, so that a distance is the same wherever it is measured.
    task = build_task(config, info, "cpu")
    if not {"features", "logits"} <= set(task.functions):
        raise ConfigError(KEY, f"{path} is a run of task {config.task.name}", REMEDY)
    shapes = parallel.unbox(task.boxed)

    def look(variables: Variables, images_BHWC: jax.Array, rng: jax.Array) -> jax.Array:
        context = Context(rng, jnp.int32(0), False)
        return task.functions["features"](variables, {"images": images_BHWC}, context)

    # Whether it has a layer `head`.
    images = jax.ShapeDtypeStruct((1, *shape), jnp.uint8)
    jax.eval_shape(look, shapes, images, abstract_key())
    sources = {"classifier": InitFrom(str(path))}
    check_initial(sources, shapes, _silent)
    names = info.class_names or tuple(str(k) for k in range(info.num_classes or 0))

    @functools.cache
    def variables() -> Variables:
        return load_initial(sources, shapes, _silent)[0]

    return Classifier(task, variables, names)
